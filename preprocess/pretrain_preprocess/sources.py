"""Which files the sources consist of, and which task reads which.

The listing is an input of the stage clean: each file's path, size and version (an S3 object's ETag, a local file's time of
modification) enter its digest, so that any change makes the stage run again, though no byte is read for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import StorageError, UserError
from pretrain_stage.storage import Storage, s3_store

from pretrain_preprocess.config import Format, Source

COMPRESSED = (".gz", ".zst")
SUFFIXES: dict[Format, tuple[str, ...]] = {
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "parquet": (".parquet",),
    "csv": (".csv",),
    "text": (".txt", ".text", ".md"),
    "html": (".html", ".htm", ".xhtml"),
    "warc": (".warc", ".wet"),
}
"""Files that a folder is searched for; a pattern or the name of a file takes what it says."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source. `path` is relative to the source's folder, so it stays when the folder is moved."""

    source: Source
    field: str
    """The source's place in the job file, for messages."""
    path: str
    size: int
    version: str
    uri: str
    """Where it lies: a path on this machine, or s3://bucket/key."""

    @property
    def is_remote(self) -> bool:
        return self.uri.startswith("s3://")


@dataclass(frozen=True)
class Listing:
    """The files of all sources, by source in the order of the job file, then by path."""

    files: tuple[SourceFile, ...]
    name: str = "sources"
    """What it is called among the inputs in the manifest."""

    @property
    def digest(self) -> str:
        """SHA-256 of what makes the files what they are, wherever they lie."""
        rows = [[file.source.name, file.path, file.size, file.version] for file in self.files]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def shard(self, index: int, tasks: int) -> tuple[SourceFile, ...]:
        """The files that task `index` of `tasks` reads, in the order of the listing; none if there are fewer files.

        The largest file goes first, each to the task with least so far (Graham 1969): no task has much more than the rest.
        """
        lightest = [(0, task) for task in range(tasks)]
        mine: list[int] = []
        for number in sorted(range(len(self.files)), key=lambda i: (-self.files[i].size, i)):
            load, task = heapq.heappop(lightest)
            heapq.heappush(lightest, (load + self.files[number].size, task))
            if task == index:
                mine.append(number)
        return tuple(self.files[number] for number in sorted(mine))


def list_sources(sources: Sequence[Source], storage: StorageSection) -> Listing:
    """The files of all sources. Raises UserError that names the source that is missing or empty, StorageError if S3 refuses."""
    return Listing(tuple(file for index, source in enumerate(sources) for file in list_source(source, index, storage)))


def list_source(source: Source, index: int, storage: StorageSection) -> list[SourceFile]:
    """The files of one source, sorted by path. Raises UserError if there are none."""
    return list_files(source, f"corpus.sources[{index}].uri", storage)


def list_files(source: Source, field: str, storage: StorageSection) -> list[SourceFile]:
    """The files that `source` names, sorted by path; `field` is where the job says so. Raises UserError if there are none."""
    root, pattern = split_pattern(source.uri.removeprefix("file://"))
    search = _s3_files if root.startswith("s3://") else _local_files
    single, files = search(root, pattern, field, storage)
    wanted = [file for file in files if single or (not is_hidden(file.path) and matches(source, pattern, file.path))]
    if not wanted:
        raise UserError(f"{field}: {source.uri}: {_why_none(source, pattern, [file.path for file in files])}")
    return sorted((SourceFile(source, field, *file) for file in wanted), key=lambda file: file.path)


def split_pattern(uri: str) -> tuple[str, str | None]:
    """The folder before the first wildcard, and the pattern below it; no pattern if there is no wildcard."""
    steps = uri.split("/")
    for number, step in enumerate(steps):
        if "*" in step:
            return "/".join(steps[:number]) or ("/" if number else "."), "/".join(steps[number:])
    return uri.rstrip("/") or "/", None


def matches(source: Source, pattern: str | None, path: str) -> bool:
    """Whether a file below the source's folder belongs to it: by the pattern, else by the suffix that its format has."""
    if pattern is not None:
        return re.fullmatch(_regex(pattern), path) is not None
    name = path.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return name.endswith(SUFFIXES[source.format])


@lru_cache
def _regex(pattern: str) -> str:
    """`**/` is any number of folders, `*` anything within one name, `**` at the end anything at all."""
    parts = re.split(r"(\*\*/|\*\*|\*)", pattern)
    meaning = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*"}
    return "".join(meaning.get(part, re.escape(part)) for part in parts)


def is_hidden(path: str) -> bool:
    """Files and folders that begin with a point or an underscore are markers of other programs (.git, _SUCCESS)."""
    return any(step.startswith((".", "_")) for step in path.split("/"))


class _Found(NamedTuple):
    """The last fields of a SourceFile."""

    path: str
    size: int
    version: str
    uri: str


def _local_files(root: str, pattern: str | None, field: str, storage: StorageSection) -> tuple[bool, list[_Found]]:
    """The file that the root is (True), or all files below it (False)."""
    folder = Path(root).expanduser()
    if pattern is None and folder.is_file():
        return True, [_local_file(folder, folder.name)]
    if not folder.is_dir():
        raise UserError(
            f"{field}: {root}: no such {'file or ' if pattern is None else ''}folder; correct it, or put the files there"
        )
    return False, [_local_file(path, path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file()]


def _local_file(path: Path, name: str) -> _Found:
    status = path.stat()
    return _Found(name, status.st_size, str(status.st_mtime_ns), str(path))


def _s3_files(root: str, pattern: str | None, field: str, storage: StorageSection) -> tuple[bool, list[_Found]]:
    """The object that the root is (True), or all objects below it (False)."""
    bucket, _, key = root.removeprefix("s3://").partition("/")
    store = source_storage(root, storage)
    try:
        single = store.entry(key) if pattern is None and key else None
        if single is not None:
            return True, [_Found(PurePosixPath(key).name, single.size, single.etag or "", root)]
        return False, [
            _Found(entry.path.removeprefix(key).lstrip("/"), entry.size, entry.etag or "", f"s3://{bucket}/{entry.path}")
            for entry in store.entries(key)
        ]
    except StorageError as error:
        raise StorageError(f"{field}: {error}", temporary=error.exit_code != UserError.exit_code) from None


def source_storage(uri: str, storage: StorageSection) -> Storage:
    """The bucket of an s3:// source, through the endpoint, region and credentials of the job's storage."""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    return Storage(f"s3://{bucket}", s3_store(bucket, "", storage.endpoint_url, storage.region))


@contextlib.contextmanager
def opened(file: SourceFile, storage: StorageSection, scratch: Path) -> Iterator[BinaryIO]:
    """The file, from this machine or through `scratch`: read over hours, a stream from S3 would time out.

    Raises UserError if it is no longer what was listed.
    """
    path = _download(file, storage, scratch) if file.is_remote else Path(file.uri)
    try:
        status = path.stat()
        version = file.version if file.is_remote else str(status.st_mtime_ns)
        if (status.st_size, version) != (file.size, file.version):
            raise UserError(f"{file.uri}: changed since this stage began; leave the sources alone and start again")
        with path.open("rb") as raw:
            yield raw
    except FileNotFoundError:
        raise UserError(f"{file.uri}: gone since this stage began; put it back, or take it out of {file.field}") from None
    finally:
        if file.is_remote:
            path.unlink(missing_ok=True)


def _download(file: SourceFile, storage: StorageSection, scratch: Path) -> Path:
    path = scratch / "source"
    key = file.uri.removeprefix("s3://").partition("/")[2]
    try:
        source_storage(file.uri, storage).download(key, path)
    except StorageError as error:
        raise StorageError(f"{file.field}: {error}", temporary=error.exit_code != UserError.exit_code) from None
    return path


def _why_none(source: Source, pattern: str | None, others: list[str]) -> str:
    seen = f" (found {', '.join(sorted(others)[:3])})" if others else ""
    if pattern is not None:
        return f"no file matches{seen}; correct the pattern, or put the files there"
    if not others:
        return "no such file, or an empty folder; correct it, or put the files there"
    suffixes = ", ".join(SUFFIXES[source.format])
    return f"holds no file with a name of format {source.format} ({suffixes}){seen}; correct format, or give a pattern"
