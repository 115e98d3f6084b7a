"""The only module that reads or writes under `spec.storage.uri`: a folder or an S3 prefix, with the same promises.

A write is whole or absent: a reader never sees half an object (a folder gets a temporary file and a rename, S3 a single
put or a completed multipart upload). `create` has exactly one winner.

What S3 answers with 5xx or by closing the connection, obstore repeats by itself for some seconds, and tells nobody. After that
it has failed, and is counted (storage_errors.py). It is then tried again for a minute, said and counted each time, if S3 has
answered before: an address that is wrong is told at once. `create` alone is tried once only: its answer may be all that was lost
(`settle` looks).

    job.json  corpus/<stage>/  tokenizer/  tokens/  checkpoints/  export/  reports/  stages/<stage>.json
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Concatenate, ParamSpec, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, S3Store

from pretrain_stage import config
from pretrain_stage.errors import CorruptError, StorageError
from pretrain_stage.storage_errors import Operation, count_error

CHUNK_BYTES = 8 * 1024 * 1024
CONNECT_TIMEOUT = timedelta(seconds=10)
REQUEST_TIMEOUT = timedelta(minutes=10)
RETRY_TIMEOUT = timedelta(seconds=60)
RETRY_SECONDS = 60.0
LONGEST_PAUSE = 16.0
FORBIDDEN = ("AccessDenied", "403 Forbidden")
"""How deleting several objects in one request, and listing, say that the credentials do not suffice: in words alone."""

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Unanswered(StorageError):
    """S3 could not be reached, or is not well. Trying again may help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, temporary=True)


def _persistent(request: Callable[Concatenate[Storage, P], T]) -> Callable[Concatenate[Storage, P], T]:
    """Makes a request again, after growing pauses, until RETRY_SECONDS have passed since the first."""

    @functools.wraps(request)
    def persistent(storage: Storage, /, *args: P.args, **kwargs: P.kwargs) -> T:
        give_up = time.monotonic() + RETRY_SECONDS
        pause = 1.0
        while True:
            try:
                return request(storage, *args, **kwargs)
            except Unanswered as error:
                if not storage.answered.is_set() or time.monotonic() + pause > give_up:
                    raise
                LOG.warning("%s; trying again in %.0f s", error, pause)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    return persistent


@dataclass(frozen=True)
class Entry:
    """One object: its path below the storage URI, its size in bytes, and when and as what it was last written."""

    path: str
    size: int
    modified: datetime
    etag: str | None


@dataclass(frozen=True)
class Storage:
    """A folder or S3 prefix. Paths are relative, with forward slashes. Failures raise StorageError."""

    uri: str
    store: LocalStore | S3Store
    answered: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)
    """Set once a request has been answered."""

    @_persistent
    def read(self, path: str) -> bytes | None:
        """The object's bytes, or None if there is none."""
        with _explained(self, "read", path):
            try:
                return bytes(obstore.get(self.store, path).bytes())
            except FileNotFoundError:
                return None

    @_persistent
    def write(self, path: str, data: bytes) -> None:
        """Creates or replaces the object."""
        with _explained(self, "write", path):
            obstore.put(self.store, path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Creates the object unless it exists. Of any number of concurrent callers exactly one gets True."""
        with _explained(self, "write", path):
            try:
                obstore.put(self.store, path, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    @_persistent
    def settle(self, path: str, data: bytes) -> bytes:
        """Creates the object unless it exists, and returns what is there then: `data`, or what somebody else created.

        Is tried again, for a lost answer is no matter here: who finds his own data there has created it.
        """
        if self.create(path, data):
            return data
        found = self.read(path)
        if found is None:  # S3 refuses one of two writers while the other is not done
            raise Unanswered(f"storage: {self.uri}/{path} is being written by somebody else; start again")
        return found

    @_persistent
    def upload(self, source: Path, path: str) -> None:
        """Creates or replaces the object with the file's bytes."""
        with _explained(self, "write", path):
            obstore.put(self.store, path, source)

    @_persistent
    def download(self, path: str, target: Path) -> str:
        """Writes the object to `target`, whole or not at all. Returns its SHA-256, taken on the way.

        Raises FileNotFoundError if there is no such object.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        digest = hashlib.sha256()
        with _explained(self, "read", path), part.open("wb") as file:
            for chunk in obstore.get(self.store, path).stream(min_chunk_size=CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        part.replace(target)
        return digest.hexdigest()

    @_persistent
    def sha256(self, path: str) -> str:
        """The SHA-256 of the object. Raises FileNotFoundError if there is none."""
        digest = hashlib.sha256()
        with _explained(self, "read", path):
            for chunk in obstore.get(self.store, path).stream(min_chunk_size=CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def size(self, path: str) -> int | None:
        """The object's size in bytes, or None if there is none."""
        entry = self.entry(path)
        return None if entry is None else entry.size

    @_persistent
    def entry(self, path: str) -> Entry | None:
        """What the storage knows of the object, or None if there is none."""
        with _explained(self, "read", path):
            try:
                item = obstore.head(self.store, path)
            except FileNotFoundError:
                return None
            return Entry(item["path"], item["size"], item["last_modified"], item["e_tag"])

    @_persistent
    def entries(self, prefix: str = "") -> list[Entry]:
        """All objects below the folder `prefix`, in no particular order."""
        with _explained(self, "list", prefix):
            return [
                Entry(item["path"], item["size"], item["last_modified"], item["e_tag"])
                for batch in obstore.list(self.store, prefix=prefix or None)
                for item in batch
            ]

    @_persistent
    def folders(self, prefix: str) -> list[str]:
        """The names of the folders directly below `prefix`, sorted."""
        with _explained(self, "list", prefix):
            found = obstore.list_with_delimiter(self.store, prefix=prefix)
            return sorted(PurePosixPath(path).name for path in found["common_prefixes"])

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes the objects; those that are not there are no error."""
        for path in paths:
            self._delete(path)

    @_persistent
    def _delete(self, path: str) -> None:
        with _explained(self, "delete", path), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.store, path)

    def local_path(self, path: str) -> Path | None:
        """The file on this machine that holds the object, if the storage is a folder; else None."""
        return Path(self.uri) / path if isinstance(self.store, LocalStore) else None


def open_storage(section: config.Storage) -> Storage:
    """The storage that a job's `spec.storage` names. A folder is created. Credentials come from the environment
    (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or from the machine's identity.

    Nothing is asked of S3 yet: the first call tells whether it answers.
    """
    if not section.uri.startswith("s3://"):
        return open_folder(Path(section.uri.removeprefix("file://")))
    bucket, _, prefix = section.uri.removeprefix("s3://").partition("/")
    return Storage(section.uri.rstrip("/"), s3_store(bucket, prefix.strip("/"), section.endpoint_url, section.region))


def open_folder(folder: Path) -> Storage:
    """The storage of a folder on this machine, created if need be."""
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Storage(str(folder), LocalStore(folder, automatic_cleanup=True))
    except (OSError, BaseError) as error:
        raise StorageError(
            f"storage.uri: folder {folder} cannot be used ({_first_line(error)}); give one that you may write to"
        ) from None


def s3_store(bucket: str, prefix: str, endpoint: str | None, region: str | None) -> S3Store:
    """A client for one bucket: path-style addresses where an endpoint is given, as S3-compatible services want."""
    options: dict[str, Any] = {"region": region or os.environ.get("AWS_REGION") or "us-east-1"}
    if endpoint is not None:
        options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
    return S3Store(
        bucket,
        prefix=prefix or None,
        client_options={
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
            "connect_timeout": CONNECT_TIMEOUT,
            "timeout": REQUEST_TIMEOUT,
        },
        retry_config={"max_retries": 6, "retry_timeout": RETRY_TIMEOUT},
        **options,
    )


def verify(storage: Storage, path: str, size: int, sha256: str, target: Path | None = None) -> Path | None:
    """Checks the object against what its manifest says; with `target`, downloads it there in the same pass.

    Raises CorruptError that names the object and what differs.
    """
    found = storage.size(path)
    if found is None:
        raise CorruptError(f"{storage.uri}/{path}: missing, though its manifest lists it; delete the manifest to redo it")
    if found != size:
        raise CorruptError(f"{storage.uri}/{path}: {found} bytes, its manifest says {size}; delete it to redo it")
    try:
        digest = storage.sha256(path) if target is None else storage.download(path, target)
    except FileNotFoundError:
        raise CorruptError(
            f"{storage.uri}/{path}: was deleted while it was read; another attempt, or somebody, did that"
        ) from None
    if digest != sha256:
        if target is not None:
            target.unlink()
        raise CorruptError(
            f"{storage.uri}/{path}: SHA-256 is {digest[:12]}..., its manifest says {sha256[:12]}...; delete it to redo it"
        )
    return target


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file on this machine."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _explained(storage: Storage, verb: Operation, path: str) -> Iterator[None]:
    """Counts what the client raises and turns it into a StorageError with a remedy; FileNotFoundError passes."""
    where = f"{storage.uri}/{path}".rstrip("/")
    try:
        yield
    except FileNotFoundError:
        storage.answered.set()
        raise
    except (OSError, BaseError) as error:
        count_error(verb)
        raise _explanation(error, verb, where, remote=isinstance(storage.store, S3Store)) from None
    storage.answered.set()


def _explanation(error: Exception, verb: Operation, where: str, *, remote: bool) -> StorageError:
    """What to say of what the client raised."""
    match error:
        case PermissionDeniedError() | UnauthenticatedError() | PermissionError():
            return StorageError(
                f"storage: not allowed to {verb} {where} ({_first_line(error)}); check the credentials and their rights"
            )
        case OSError():
            return StorageError(
                f"storage: cannot {verb} {where} ({error.strerror or error}); free some space or check the disk",
                temporary=True,
            )
        case _:
            message = f"storage: cannot {verb} {where} ({_first_line(error)}); {_remedy(error)}"
            temporary = not any(code in str(error) for code in ("NoSuchBucket", *FORBIDDEN))
            return Unanswered(message) if remote and temporary else StorageError(message, temporary=temporary)


def _remedy(error: BaseException) -> str:
    text = str(error)
    if "No space left" in text:
        return "free some space and start again: what is finished is kept"
    if any(code in text for code in FORBIDDEN):
        return "check the credentials and their rights"
    if "NoSuchBucket" in text:
        return "create the bucket or correct storage.uri"
    return "check that storage.endpointURL answers from here, then start again: what is finished is kept"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
