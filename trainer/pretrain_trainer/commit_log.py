"""The commit log: which attempt may commit, and what was committed. Slots under checkpoints/log/ that are only ever created.

    begin      an attempt begins; from here on none before it commits anything
    commit     a checkpoint is one; its writer was the newest attempt
    restore    of what was committed up to here, nothing newer than this checkpoint counts

A slot is created only if absent, and only behind one that is there. So of all who would write next exactly one does, each knows
everything before its own entry, and the last entry alone tells who is the newest: a process that was cut off and comes back
finds the slot taken that it would need. Nothing is decided by a clock, a lease or a listing, which only says where to
look first. See docs/decisions/commit-log.md.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pretrain_stage.errors import EXIT_TEMPORARY, CorruptError, UserError
from pretrain_stage.storage import Storage
from pydantic import BaseModel, ConfigDict, Field, ValidationError

FOLDER = "checkpoints/log"

LOG = logging.getLogger(__name__)

Number = Annotated[int, Field(ge=1, le=10**9)]


class Superseded(UserError):
    """A newer attempt has begun, so this one may not write any more. Nothing is wrong with the job."""

    exit_code = EXIT_TEMPORARY


class Entry(BaseModel):
    """What stands in a slot. `step`, `folder` and `manifest_sha256` tell the checkpoint of a commit or a restore."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kind: Literal["begin", "commit", "restore"]
    attempt: Number
    start: Number = 1
    """How often an attempt of this number has begun."""
    writer: str
    """Drawn anew by each beginning: who wrote this."""
    run: str = ""
    """Whose attempts are counted: a job's uid, or nothing."""
    base: Annotated[int, Field(ge=0)] = 0
    """What is added to that count, so that numbers rise in this log whoever counts."""
    time: str
    """For people; nothing is decided by it."""
    skipped: tuple[tuple[int, int], ...] = ()
    """Windows of samples that every attempt from here on leaves out: the first and the last of each."""
    restored: int | None = None
    """The last slot up to this one that holds a restore."""
    step: int | None = None
    folder: str | None = None
    manifest_sha256: str | None = None

    def names(self, folder: str, manifest_sha256: str) -> bool:
        """Whether this is the commit of that checkpoint."""
        return self.kind == "commit" and (self.folder, self.manifest_sha256) == (folder, manifest_sha256)


@dataclass(frozen=True)
class End:
    """The last slot that is taken, 0 if none is, and what is in it."""

    slot: int
    entry: Entry | None


@dataclass(frozen=True)
class Attempt:
    """The right to commit, as long as no newer attempt has begun."""

    number: int
    start: int
    writer: str
    skipped: tuple[tuple[int, int], ...] = ()
    """Windows of samples that it leaves out on purpose."""


def begin(storage: Storage, number: int | None, run: str = "") -> Attempt:
    """Takes the right to commit from every attempt before.

    number: of the attempt among those of `run`; None for the next. Raises Superseded if a newer one of that run has begun.
    """
    writer = uuid.uuid4().hex

    def entry(end: End) -> Entry | None:
        if end.entry is not None and end.entry.writer == writer:
            return None
        return _beginning(end.entry, number, run, writer)

    begun = _append(storage, entry).entry
    assert begun is not None, "it was just written"
    return Attempt(begun.attempt, begun.start, writer, begun.skipped)


def commit(storage: Storage, attempt: Attempt, step: int, folder: str, manifest_sha256: str) -> int:
    """Makes a checkpoint one; returns its slot. May be called again if it failed. Raises Superseded."""

    def entry(end: End) -> Entry | None:
        last = _own(end, attempt, storage)
        if last.names(folder, manifest_sha256):
            return None
        told = {"kind": "commit", "step": step, "folder": folder, "manifest_sha256": manifest_sha256, "time": _now()}
        return last.model_copy(update=told)

    return _append(storage, entry).slot


def restore(
    storage: Storage,
    step: int,
    folder: str,
    manifest_sha256: str,
    skip: tuple[tuple[int, int], ...] = (),
    attempt: Attempt | None = None,
) -> None:
    """Has everything that is newer than a checkpoint count no more. The attempt that runs, if one does, ends.

    skip: further windows of samples that the attempts to come leave out. attempt: who wants it, which raises Superseded if a newer
    one has begun; None is the user, who may always.
    """
    writer = uuid.uuid4().hex

    def entry(end: End) -> Entry | None:
        last = end.entry
        assert last is not None, "a checkpoint was committed"
        if last.writer == writer:
            return None
        if attempt is not None:
            _own(end, attempt, storage)
        told = {"step": step, "folder": folder, "manifest_sha256": manifest_sha256, "time": _now()}
        told |= {"skipped": last.skipped + skip}
        return last.model_copy(update={"kind": "restore", "writer": writer, "restored": end.slot + 1, **told})

    _append(storage, entry)


def check(storage: Storage, attempt: Attempt) -> None:
    """Raises Superseded unless this attempt is the newest."""
    _own(last(storage), attempt, storage)


def last(storage: Storage) -> End:
    """The end of the log.

    An entry that cannot be read is taken for the beginning of an unknown attempt: so whoever wrote before it stops.
    """
    names = (PurePosixPath(entry.path).name for entry in storage.entries(FOLDER))
    slot = max((int(name[:8]) for name in names if name[:8].isdigit() and name[8:] == ".json"), default=0)
    while storage.size(path(slot + 1)) is not None:  # a listing may be late
        slot += 1
    return End(slot, _readable(storage, slot) if slot else None)


def read(storage: Storage, slot: int) -> Entry:
    """What stands in a slot. Raises CorruptError if nothing does, or nothing that can be read."""
    data = storage.read(path(slot))
    if data is None:
        raise CorruptError(f"{storage.uri}/{path(slot)}: missing")
    try:
        return Entry.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "content"
        raise CorruptError(f"{storage.uri}/{path(slot)}: {where}: {fault['msg'].lower()}") from None


def last_commit(storage: Storage) -> End:
    """The last commit that nothing but beginnings follow; slot 0 if there is none."""
    end = last(storage)
    slot, entry = end.slot, end.entry
    while entry is not None and entry.kind == "begin" and slot > 1:
        slot -= 1
        entry = _readable(storage, slot)
    return End(slot, entry) if entry is not None and entry.kind == "commit" else End(0, None)


def path(slot: int) -> str:
    return f"{FOLDER}/{slot:08d}.json"


def _append(storage: Storage, next_entry: Callable[[End], Entry | None]) -> End:
    """Writes what `next_entry` makes of the log's end behind it; None says that it stands there already.

    If another takes the slot, the new end of the log is looked at.
    """
    while True:
        end = last(storage)
        entry = next_entry(end)
        if entry is None:
            return end
        data = json.dumps(entry.model_dump(mode="json", exclude_none=True)).encode()
        if storage.settle(path(end.slot + 1), data) == data:
            return End(end.slot + 1, entry)


def _beginning(last: Entry | None, number: int | None, run: str, writer: str) -> Entry:
    """The entry with which an attempt begins behind `last`. Raises Superseded."""
    newest = last.attempt if last else 0
    same = last is not None and last.run == run
    base = last.base if last is not None and (same or number is None) else newest
    attempt = newest + 1 if number is None else base + number
    if attempt < newest:
        raise Superseded(f"attempt {attempt}: attempt {newest} has begun; this one ends")
    return Entry(
        kind="begin",
        attempt=attempt,
        start=last.start + 1 if last is not None and attempt == newest else 1,
        writer=writer,
        run=run,
        base=base,
        time=_now(),
        skipped=last.skipped if last else (),
        restored=last.restored if last else None,
    )


def _own(end: End, attempt: Attempt, storage: Storage) -> Entry:
    """The end of the log, which is that attempt's. Raises Superseded if it is another's."""
    last = end.entry
    if last is not None and last.writer == attempt.writer:
        return last
    if last is None:
        why = f"the commit log {storage.uri}/{FOLDER} is gone"
    elif not last.writer:
        why = f"{storage.uri}/{path(end.slot)} cannot be read, so another attempt may have begun"
    elif last.kind == "restore":
        why = f"{last.folder} was restored meanwhile"
    elif last.attempt == attempt.number:
        why = "it was started again meanwhile"
    else:
        why = f"attempt {last.attempt} has begun"
    raise Superseded(f"attempt {attempt.number}: {why}; this one ends")


def _readable(storage: Storage, slot: int) -> Entry:
    """The entry in a slot, or what stands in for one that cannot be read."""
    try:
        return read(storage, slot)
    except CorruptError as error:
        LOG.warning("%s; taken for the beginning of an unknown attempt", error)
    before = _readable(storage, slot - 1) if slot > 1 else None
    return Entry(
        kind="begin",
        attempt=before.attempt + 1 if before else 1,
        writer="",
        run=before.run if before else "",
        base=before.base if before else 0,
        time="",
        skipped=before.skipped if before else (),
        restored=before.restored if before else None,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
