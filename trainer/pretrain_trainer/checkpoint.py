"""How a checkpoint becomes one: the commit protocol, under checkpoints/. Knows neither torch nor ranks.

    log/<8 digits>.json         who may commit, and what was committed (commit_log.py)
    step-<8 digits>-attempt-<n>/
        <rank files>            written to local disk first, then uploaded by the process that wrote them
        manifest.json           what the files are, each with size and SHA-256, and what training they belong to
        COMMITTED               the manifest's SHA-256, and the entry of the log that made this a checkpoint

What decides is the entry of the log: only the newest attempt can write one. COMMITTED follows it, and whoever begins and finds
it missing writes it. A folder without COMMITTED is no checkpoint, whatever else is in it. A reader takes the newest committed
one whose files all verify. The rank files are pickles, which are programs: nothing unpickles one that was not verified
against a manifest that marker and log vouch for, and only inside a folder of the reader's own. A folder carries the attempt that
writes it, so two attempts never write one file. Deleting takes the marker first, so that a checkpoint is whole or gone
at every moment.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pretrain_stage import uploads
from pretrain_stage.errors import CorruptError, StorageError
from pretrain_stage.manifest import File
from pretrain_stage.storage import Storage, verify
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pretrain_trainer import commit_log
from pretrain_trainer.commit_log import Attempt
from pretrain_trainer.config.sections import Checkpoints

ROOT = "checkpoints"
MANIFEST, MARKER = "manifest.json", "COMMITTED"

LOG = logging.getLogger(__name__)

_FOLDER = re.compile(r"step-(\d{8,12})-attempt-([1-9]\d{0,9})(?:-start-([1-9]\d{0,9}))?")


@dataclass(frozen=True, order=True)
class Folder:
    """Where the checkpoint of a step is that an attempt makes. Ordered by age."""

    step: int
    attempt: int
    start: int = 1
    """How often the attempt had begun."""

    def __str__(self) -> str:
        """The path below the storage."""
        again = f"-start-{self.start}" if self.start > 1 else ""
        return f"{ROOT}/step-{self.step:08d}-attempt-{self.attempt}{again}"

    @property
    def writer(self) -> tuple[int, int]:
        """Attempt and start; ordered as these have begun."""
        return self.attempt, self.start


def folder(step: int, attempt: Attempt) -> Folder:
    """Where that attempt writes its checkpoint of that step."""
    return Folder(step, attempt.number, attempt.start)


def parse_folder(path: str) -> Folder | None:
    """The folder of that name, with or without checkpoints/ before it; None if it is no checkpoint's."""
    found = _FOLDER.fullmatch(path.removeprefix(f"{ROOT}/"))
    if found is None:
        return None
    step, attempt, start = found.groups()
    made = Folder(int(step), int(attempt), int(start or 1))
    return made if path.removeprefix(f"{ROOT}/") == str(made).removeprefix(f"{ROOT}/") else None


class Reference(BaseModel):
    """A checkpoint, to the byte: its folder below the storage, and the SHA-256 of its manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    manifest_sha256: str


class RankFile(BaseModel):
    """One file of a checkpoint. Its name is a bare file name, so it cannot lead out of the checkpoint's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    rank: Annotated[int, Field(ge=0)]


class Segment(BaseModel):
    """Steps that were trained in the same way: from `first_step` (counted from 0) up to the next segment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first_step: int
    world_size: int
    settings: dict[str, JsonValue]


class CheckpointManifest(BaseModel):
    """What a checkpoint is.

    `identity` maps the name of each field that a job must agree in, to go on from here, to its value. `measures` are the
    last loss and validation loss, so that a run that was ended after its last checkpoint need not measure them again.
    There is no state of a random generator: weights are drawn once, and the order of the data is a function of the seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: Annotated[int, Field(ge=0)]
    attempt: Annotated[int, Field(ge=1)]
    start: Annotated[int, Field(ge=1)] = 1
    """How often the attempt had begun."""
    tokens: int
    next_sample: int
    world_size: Annotated[int, Field(ge=1)]
    zero_stage: int
    seed: int
    configuration: str = ""
    """Digest of what of the job decides the model, tokens and tokenizer among it."""
    identity: dict[str, JsonValue]
    parent: Reference | None = None
    """What its attempt went on from; None if it began."""
    skipped: tuple[tuple[int, int], ...] = ()
    """Windows of samples that were left out on purpose: the first and the last of each."""
    measures: dict[str, float]
    segments: tuple[Segment, ...]
    files: tuple[RankFile, ...]

    @property
    def place(self) -> Folder:
        return Folder(self.step, self.attempt, self.start)

    @property
    def folder(self) -> str:
        """Path below the storage."""
        return str(self.place)

    @property
    def size(self) -> int:
        """Bytes of all rank files."""
        return sum(file.size for file in self.files)


def begin(storage: Storage, number: int | None, run: str = "") -> Attempt:
    """Begins an attempt: from here on none before it can commit. To be called before anything of the checkpoints is read.

    number: of the attempt among those of `run`; None for the next. Completes the checkpoint that was committed last, if its
    writer came no further than the log, and removes what uploads of attempts before were cut off in. Raises Superseded if a
    newer attempt has begun.
    """
    attempt = commit_log.begin(storage, number, run)
    _complete_last(storage)
    _abort_older(storage, attempt)
    return attempt


def commit(storage: Storage, attempt: Attempt, manifest: CheckpointManifest) -> None:
    """Makes a checkpoint of files that are all uploaded. May be called again with the same manifest, if it failed.

    Raises Superseded if a newer attempt has begun; nothing is committed then.
    """
    assert manifest.place == folder(manifest.step, attempt), "an attempt writes to folders of its own"
    data = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    commit_log.check(storage, attempt)
    storage.write(f"{manifest.folder}/{MANIFEST}", data)
    slot = commit_log.commit(storage, attempt, manifest.step, manifest.folder, sha256)
    _mark(storage, manifest.folder, sha256, slot)


def committed(storage: Storage) -> list[Folder]:
    """All committed checkpoints that count, newest first: those that are newer than a restored one, but older than its
    restoring, do not.
    """
    marked = [place for place in folders(storage) if storage.size(f"{place}/{MARKER}") is not None]
    end = commit_log.last(storage).entry
    if end is None or end.restored is None:
        return marked
    restored = commit_log.read(storage, end.restored)
    oldest = parse_folder(restored.folder or "")
    assert oldest is not None, "the log names folders of checkpoints"
    return [place for place in marked if place <= oldest or _slot(storage, place) > end.restored]


def committed_steps(storage: Storage) -> list[int]:
    """The steps of all committed checkpoints that count, newest first."""
    return sorted({place.step for place in committed(storage)}, reverse=True)


def folders(storage: Storage) -> list[Folder]:
    """All folders of checkpoints, committed or not, newest first."""
    found = (parse_folder(name) for name in storage.folders(ROOT))
    return sorted((place for place in found if place is not None), reverse=True)


def read_checkpoint(storage: Storage, place: Folder | str) -> CheckpointManifest:
    """The manifest of a committed checkpoint. Raises CorruptError if log, marker and manifest do not fit each other."""
    where = f"{storage.uri}/{place}"
    sha256, slot = _marker(storage, place)
    data = storage.read(f"{place}/{MANIFEST}")
    if data is None:
        raise CorruptError(f"{where}/{MANIFEST}: missing, though {MARKER} vouches for it")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptError(
            f"{where}/{MANIFEST}: SHA-256 is {hashlib.sha256(data).hexdigest()[:12]}..., {MARKER} says otherwise"
        )
    try:
        vouches = commit_log.read(storage, slot).names(str(place), sha256)
    except CorruptError as error:
        raise CorruptError(f"{where}/{MARKER}: names an entry of the commit log, but {error}") from None
    if not vouches:
        raise CorruptError(f"{where}/{MARKER}: names {commit_log.path(slot)}, which does not commit this checkpoint")
    try:
        manifest = CheckpointManifest.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors()[0]
        raise CorruptError(f"{where}/{MANIFEST}: {'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}") from None
    if manifest.folder != str(place):
        raise CorruptError(f"{where}/{MANIFEST}: is that of {manifest.folder}; it belongs to another folder")
    return manifest


def reference(storage: Storage, manifest: CheckpointManifest) -> Reference:
    """The checkpoint as the parent of those that go on from it."""
    return Reference(folder=manifest.folder, manifest_sha256=_marker(storage, manifest.folder)[0])


def fetch_files(storage: Storage, manifest: CheckpointManifest, files: Iterable[RankFile], target: Path) -> None:
    """Copies files of a checkpoint into the local folder `target` and verifies them.

    Raises CorruptError that names the first file that is not what the manifest says.
    """
    for file in files:
        verify(storage, f"{manifest.folder}/{file.name}", file.size, file.sha256, target / file.name)


def output_files(manifest: CheckpointManifest) -> tuple[File, ...]:
    """The checkpoint as outputs of the stage that made it: its rank files, which are the same whichever attempt has written them."""
    return tuple(File(path=f"{manifest.folder}/{f.name}", size=f.size, sha256=f.sha256) for f in manifest.files)


def remove(storage: Storage, attempt: Attempt, place: Folder) -> None:
    """Deletes a checkpoint, committed or not: the marker first, and then what a marker would be made from.

    Raises Superseded, and deletes nothing, if a newer attempt has begun.
    """
    commit_log.check(storage, attempt)
    assert place.writer <= (attempt.number, attempt.start), "what a newer attempt writes is its own"
    storage.delete([f"{place}/{MARKER}", f"{place}/{MANIFEST}"])
    storage.delete([entry.path for entry in storage.entries(str(place))])


def retain(storage: Storage, attempt: Attempt, policy: Checkpoints, in_use: Collection[str] = ()) -> None:
    """Deletes the checkpoints that the policy does not keep, and what attempts before this one left unfinished.

    in_use: folders that stay in any case: of the checkpoint that the attempt went on from, and of the one that it is writing.
    Raises Superseded if a newer attempt has begun.
    """
    counting = committed(storage)
    if not counting:
        return
    kept = {*counting[: policy.keep_last]}
    if policy.keep_every_steps is not None:
        kept |= {place for place in counting if place.step % policy.keep_every_steps == 0}
    if policy.keep_best:
        kept |= set(best(storage, counting))
    for place in folders(storage):
        ours = place.writer == (attempt.number, attempt.start)
        making = ours and place > counting[0]
        if place not in kept and str(place) not in in_use and not making and place.writer <= (attempt.number, attempt.start):
            remove(storage, attempt, place)


def best(storage: Storage, places: Iterable[Folder]) -> list[Folder]:
    """The checkpoint with the lowest validation loss, of several the first, as a list; empty if none tells its own."""
    losses = []
    for place in places:
        try:
            loss = read_checkpoint(storage, place).measures.get("validation_loss", math.nan)
        except CorruptError:
            continue  # is told, and passed over, by whoever looks for one to go on from
        if not math.isnan(loss):
            losses.append((loss, place))
    return [min(losses)[1]] if losses else []


def _complete_last(storage: Storage) -> None:
    """Marks the checkpoint that was committed last, if it is not."""
    end = commit_log.last_commit(storage)
    place = parse_folder(end.entry.folder or "") if end.entry is not None else None
    if end.entry is None or place is None or storage.size(f"{place}/{MARKER}") is not None:
        return
    manifest = storage.read(f"{place}/{MANIFEST}")
    sha256 = end.entry.manifest_sha256 or ""
    if manifest is not None and hashlib.sha256(manifest).hexdigest() == sha256:
        _mark(storage, str(place), sha256, end.slot)


def _abort_older(storage: Storage, attempt: Attempt) -> None:
    """Aborts the uploads of attempts that may commit no more. By their number: no clock says that one is old."""
    try:
        for upload in uploads.unfinished(storage, ROOT):
            place = parse_folder(upload.path.rpartition("/")[0])
            if place is not None and place.writer < (attempt.number, attempt.start):
                uploads.abort(storage, upload)
    except StorageError as error:
        LOG.warning("%s; a lifecycle rule of the bucket can remove them too", error)


def _mark(storage: Storage, place: str, sha256: str, slot: int) -> None:
    """Writes COMMITTED. Who finds it there finds what he would have written: the log has one commit of a folder."""
    marker = f"{sha256} {commit_log.path(slot)}\n".encode()
    path = f"{place}/{MARKER}"
    if storage.settle(path, marker) != marker:
        raise CorruptError(f"{storage.uri}/{path}: is not what {commit_log.path(slot)} says; delete the folder {place}")


def _marker(storage: Storage, place: Folder | str) -> tuple[str, int]:
    """What COMMITTED says: the manifest's SHA-256, and the slot of the log. Raises CorruptError if it says neither."""
    data = storage.read(f"{place}/{MARKER}")
    if data is None:
        raise CorruptError(f"{storage.uri}/{place}/{MARKER}: missing, so this checkpoint was never finished")
    found = re.fullmatch(rb"([0-9a-f]{64}) checkpoints/log/(\d{8})\.json\n", data)
    if found is None:
        raise CorruptError(f"{storage.uri}/{place}/{MARKER}: names no manifest and no entry of the commit log")
    return found[1].decode(), int(found[2])


def _slot(storage: Storage, place: Folder) -> int:
    """The slot in which a checkpoint was committed; one that cannot be told counts as new, and is refused by who reads it."""
    try:
        return _marker(storage, place)[1]
    except CorruptError:
        return 10**8
