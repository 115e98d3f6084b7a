"""The files of records that a stage answers, and which task answers which lines."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import UserError
from pretrain_stage.storage import Entry, Storage, s3_store

SUFFIXES = (".jsonl", ".json", ".ndjson")
"""Files that a folder is searched for; a pattern or the name of a file takes what it says."""
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")


@dataclass(frozen=True)
class RecordFile:
    """One file of records."""

    path: str
    """Below the folder that is searched, so that it stays when that is moved."""
    size: int
    version: str
    """Another one where the content is another: an object's ETag, a file's time of modification."""
    where: str
    """Path on this machine, or s3://bucket/key."""


def list_records(uri: str, field: str, section: StorageSection) -> list[RecordFile]:
    """The files at a folder, file or pattern, by path. field: what of the job names it. Raises UserError if there are none."""
    root, pattern = split_pattern(uri.removeprefix("file://"))
    found = _in_bucket(root, section) if root.startswith("s3://") else _on_disk(Path(root).expanduser())
    taken = sorted((file for file in found if _is_wanted(file.path, pattern)), key=lambda file: file.path)
    if not taken:
        others = f" (found {', '.join(sorted(file.path for file in found)[:3])})" if found else ""
        what = "no file matches" if pattern else f"no file of JSON lines ({', '.join(SUFFIXES)})"
        raise UserError(f"{field}: {uri}: {what}{others}; correct it, or put the files there")
    packed = next((file.where for file in taken if file.where.endswith(COMPRESSED)), None)
    if packed is not None:
        raise UserError(f"{field}: {packed} is compressed, so that tasks cannot share its lines; unpack it")
    return taken


def digest_of(files: Sequence[RecordFile]) -> str:
    """SHA-256 of what makes the files what they are, wherever they lie."""
    rows = [[file.path, file.size, file.version] for file in files]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def share(sizes: Sequence[int], index: int, tasks: int) -> list[tuple[int, int, int]]:
    """What task `index` of `tasks` answers: places of files, and in each the bytes from one up to another.

    A line belongs to the task that has its first byte, so all tasks have about as much to read, whatever the files' sizes, and
    their answers one after the other are in the order of the records.
    """
    total = sum(sizes)
    first, stop = total * index // tasks, total * (index + 1) // tasks
    mine = []
    begin = 0
    for place, size in enumerate(sizes):
        if max(first, begin) < min(stop, begin + size):
            mine.append((place, max(first - begin, 0), min(stop - begin, size)))
        begin += size
    return mine


def bring_records(file: RecordFile, section: StorageSection, folder: Path) -> Path:
    """Where the file can be read on this machine; an object is copied into the folder."""
    if not file.where.startswith("s3://"):
        return Path(file.where)
    bucket, _, key = file.where.removeprefix("s3://").partition("/")
    target = folder / hashlib.sha256(f"{file.where} {file.version}".encode()).hexdigest()[:16]
    if not target.exists():
        _bucket(bucket, section).download(key, target)
    return target


def split_pattern(uri: str) -> tuple[str, str | None]:
    """The folder before the first wildcard, and the pattern below it; no pattern if there is no wildcard."""
    steps = uri.split("/")
    wild = next((number for number, step in enumerate(steps) if "*" in step), None)
    if wild is None:
        return uri.rstrip("/") or "/", None
    return "/".join(steps[:wild]) or ("/" if wild else "."), "/".join(steps[wild:])


def _is_wanted(path: str, pattern: str | None) -> bool:
    """Whether a file is asked for by the pattern, or else by its name; one that was named itself has no path to look at."""
    if path == "":
        return True
    if any(step.startswith((".", "_")) for step in path.split("/")):
        return False
    if pattern is None:
        return path.lower().removesuffix(".gz").removesuffix(".zst").endswith(SUFFIXES)
    meaning = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|\*\*|\*)", pattern)
    return re.fullmatch("".join(meaning.get(part, re.escape(part)) for part in parts), path) is not None


def _on_disk(root: Path) -> list[RecordFile]:
    def found(path: Path, name: str) -> RecordFile:
        status = path.stat()
        return RecordFile(name, status.st_size, str(status.st_mtime_ns), str(path))

    if root.is_file():
        return [found(root, "")]
    return [found(path, path.relative_to(root).as_posix()) for path in root.rglob("*") if path.is_file()]


def _in_bucket(root: str, section: StorageSection) -> list[RecordFile]:
    bucket, _, key = root.removeprefix("s3://").partition("/")
    storage = _bucket(bucket, section)

    def found(entry: Entry, name: str) -> RecordFile:
        return RecordFile(name, entry.size, entry.etag or "", f"s3://{bucket}/{entry.path}")

    single = storage.entry(key) if key else None
    if single is not None:
        return [found(single, "")]
    return [found(entry, entry.path.removeprefix(key).lstrip("/")) for entry in storage.entries(key)]


def _bucket(bucket: str, section: StorageSection) -> Storage:
    return Storage(f"s3://{bucket}", s3_store(bucket, "", section.endpoint_url, section.region))
