"""`checkpoints ls`, `verify` and `restore`: what a job has committed to its storage, whether it is whole, and which counts.

The storage is that of a job in a file or in a cluster, read with the user's own credentials (stored.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pretrain_stage import config
from pretrain_stage.errors import CorruptError, UserError
from pretrain_stage.section import parse
from pretrain_stage.storage import Storage, open_storage, verify
from pretrain_trainer import checkpoint, commit_log
from pretrain_trainer.checkpoint import MARKER, CheckpointManifest, Folder

from pretrain_operator.api import load_job
from pretrain_operator.check import size
from pretrain_operator.kubectl.connection import Target, checked_name, connect
from pretrain_operator.kubectl.plain import plain
from pretrain_operator.kubectl.refusal import ClusterError
from pretrain_operator.kubectl.stored import reachable_storage

HEADINGS = ("STEP", "ATTEMPT", "TOKENS", "LOSS", "SIZE", "AGE", "STATE")


@dataclass(frozen=True)
class Stored:
    """One checkpoint, as far as it is there."""

    place: Folder
    size: int
    """Bytes of all its files."""
    time: datetime | None
    """When it was committed, or last written to."""
    manifest: CheckpointManifest | None
    states: tuple[str, ...]
    """newest: training goes on from it. best: it has the lowest validation loss. in use: the newest attempt went on from it.
    passed over: an older one was restored. not finished, damaged: it is never gone on from."""
    fault: str
    """What is wrong with it; empty if nothing is."""


@dataclass(frozen=True)
class Verified:
    """One checkpoint of which every byte was read."""

    place: Folder
    files: int
    size: int
    faults: tuple[str, ...]


def open_job_storage(job: str, task: str | None, endpoint: str | None, target: Target) -> Storage:
    """The storage that holds the checkpoints of a job: of its pretraining, or of the fine-tuning of that name.

    job: a file, or a name in the cluster. Raises UserError with what to do.
    """
    in_file = "/" in job or "." in job  # no name has either
    if in_file:
        body = load_job(Path(job)).job_file()
        namespace = str(body["metadata"].get("namespace") or "default")
    else:
        cluster = connect(target)
        body, namespace = cluster.job(checked_name(job, "JOB"), cluster.namespace), cluster.namespace
    section = dict(body["spec"]["storage"])
    if task is not None:
        names = [str(one["name"]) for one in body["spec"].get("finetune") or []]
        if task not in names:
            raise UserError(f"--task: {task!r} is no fine-tuning of this job, which has {', '.join(names) or 'none'}")
        section["uri"] = f"{str(section['uri']).rstrip('/')}/finetune/{task}"
    if str(section["uri"]).startswith("s3://"):
        return reachable_storage(section, namespace, endpoint)
    if not in_file:
        raise ClusterError(f"spec.storage.uri: {section['uri']} is a folder of some pod; only s3:// can be read from here")
    return open_storage(parse(config.Storage, section, "spec.storage"))


def print_checkpoints(storage: Storage, *, as_json: bool, now: datetime | None = None) -> None:
    """Prints the checkpoints, the newest first. Reads no rank file: their sizes tell whether they are there."""
    found, now = stored(storage), now or datetime.now(UTC)
    if as_json:
        print(json.dumps({"storage": storage.uri, "checkpoints": [_as_json(one) for one in found]}, indent=2))
        return
    if not found:
        print(f"no checkpoints in {storage.uri}/{checkpoint.ROOT}", file=sys.stderr)
        return
    for line in table(found, now):
        print(line)
    for one in found:
        if one.fault:
            print(f"note: step {one.place.step}, attempt {one.place.attempt}: {plain(one.fault)}", file=sys.stderr)


def print_verified(storage: Storage, step: int | None, *, as_json: bool) -> bool:
    """Reads every byte of the committed checkpoints, or of those of a step, and prints what is wrong. Whether nothing is."""
    wanted = [place for place in _marked(storage) if step in (None, place.step)]
    if step is not None and not wanted:
        raise UserError(f"STEP: {step} has no committed checkpoint in {storage.uri}; {_steps(storage)}")
    found = []
    for place in wanted:
        one = verified(storage, place)
        found.append(one)
        if as_json:
            continue
        print(
            f"step {place.step}, attempt {place.attempt}: {'wrong' if one.faults else f'{one.files} files, {size(one.size)}, as committed'}"
        )
        for fault in one.faults:
            print(f"error: {plain(fault)}", file=sys.stderr)
    if as_json:
        told = [{**_name(one.place), "files": one.files, "bytes": one.size, "faults": list(one.faults)} for one in found]
        print(json.dumps({"storage": storage.uri, "checkpoints": told}, indent=2))
    elif not found:
        print(f"no checkpoints in {storage.uri}/{checkpoint.ROOT}", file=sys.stderr)
    return not any(one.faults for one in found)


def restore(storage: Storage, step: int, *, sure: bool) -> None:
    """Makes the checkpoint of a step the newest: the log says that newer ones do not count. They stay until retention takes them.

    Raises UserError if there is none, if it does not verify, or unless `sure`.
    """
    places = [place for place in _marked(storage) if place.step == step]
    if not places:
        raise UserError(f"STEP: {step} has no committed checkpoint in {storage.uri}; {_steps(storage)}")
    place = next((one for one in places if one in checkpoint.committed(storage)), places[0])
    counting = checkpoint.committed(storage)
    newer = [one for one in counting if one > place]
    if not newer and place in counting:
        print(f"step {step} of attempt {place.attempt} is the newest already")
        return
    if not sure:
        passed = ", ".join(f"{one.step} (attempt {one.attempt})" for one in newer) or "none"
        raise UserError(
            f"--yes: not given; training would go on from step {step} of attempt {place.attempt}, these would not count any more: "
            f"{passed}; an attempt that runs would end. Add --yes to do that"
        )
    faults = verified(storage, place).faults
    if faults:
        raise UserError(f"STEP: {step} cannot be restored: {plain(faults[0])}; choose another")
    told = checkpoint.reference(storage, checkpoint.read_checkpoint(storage, place))
    commit_log.restore(storage, step, told.folder, told.manifest_sha256)
    print(f"step {step} of attempt {place.attempt} is the newest now; training goes on from it")


def stored(storage: Storage) -> list[Stored]:
    """All checkpoints, the newest first. Folders without files are left out: some servers keep the name of one that was deleted."""
    counting = checkpoint.committed(storage)
    best, used = checkpoint.best(storage, counting), _in_use(storage, counting)
    found: list[Stored] = []
    for place in checkpoint.folders(storage):
        there = {entry.path: entry for entry in storage.entries(str(place))}
        if not there:
            continue
        marker = there.get(f"{place}/{MARKER}")
        manifest, fault = _read(storage, place, {path: entry.size for path, entry in there.items()})
        states: list[str] = []
        if marker is None:
            states.append("not finished")
        elif fault:
            states.append("damaged")
        elif place not in counting:
            states.append("passed over")
        elif not any("newest" in one.states for one in found):
            states.append("newest")
        states += ["best"] * (place in best) + ["in use"] * (place == used)
        times = [marker.modified] if marker is not None else [entry.modified for entry in there.values()]
        bytes_there = sum(entry.size for entry in there.values())
        found.append(Stored(place, bytes_there, max(times), manifest, tuple(states), fault))
    return found


def verified(storage: Storage, place: Folder) -> Verified:
    """Reads every byte of a committed checkpoint; all that is wrong, not only the first."""
    try:
        manifest = checkpoint.read_checkpoint(storage, place)
    except CorruptError as error:
        return Verified(place, 0, 0, (str(error),))
    faults, done = [], 0
    for number, file in enumerate(manifest.files, start=1):
        _progress(f"step {place.step}: file {number} of {len(manifest.files)}, {size(done)} of {size(manifest.size)} read")
        try:
            verify(storage, f"{place}/{file.name}", file.size, file.sha256)
        except CorruptError as error:
            faults.append(str(error))
        done += file.size
    _progress("")
    return Verified(place, len(manifest.files), manifest.size, tuple(faults))


def table(found: Iterable[Stored], now: datetime) -> list[str]:
    """The checkpoints as lines of text."""
    rows = [HEADINGS, *(_row(one, now) for one in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(one: Stored, now: datetime) -> tuple[str, ...]:
    manifest = one.manifest
    loss = manifest.measures.get("loss") if manifest else None
    return (
        str(one.place.step),
        str(one.place.attempt),
        f"{manifest.tokens:,}" if manifest else "",
        "" if loss is None else f"{loss:.4f}",
        size(one.size),
        "" if one.time is None else _age((now - one.time).total_seconds()),
        ", ".join(one.states),
    )


def _age(seconds: float) -> str:
    """As kubectl says it: 45s, 12m, 5h, 3d. Of a clock that is behind the storage's: 0s."""
    seconds = max(0, int(seconds))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _as_json(one: Stored) -> dict[str, Any]:
    manifest = one.manifest
    return {
        **_name(one.place),
        "tokens": manifest.tokens if manifest else None,
        "loss": manifest.measures.get("loss") if manifest else None,
        "validationLoss": manifest.measures.get("validation_loss") if manifest else None,
        "bytes": one.size,
        "time": None if one.time is None else one.time.isoformat(),
        "processes": manifest.world_size if manifest else None,
        "zeroStage": manifest.zero_stage if manifest else None,
        "states": list(one.states),
        "fault": one.fault or None,
    }


def _name(place: Folder) -> dict[str, Any]:
    return {"step": place.step, "attempt": place.attempt, "folder": str(place)}


def _read(storage: Storage, place: Folder, there: dict[str, int]) -> tuple[CheckpointManifest | None, str]:
    """The manifest, and what is wrong with the checkpoint as far as sizes tell."""
    try:
        manifest = checkpoint.read_checkpoint(storage, place)
    except CorruptError as error:
        return None, str(error)
    return manifest, next(_missing(storage, manifest, there), "")


def _missing(storage: Storage, manifest: CheckpointManifest, there: dict[str, int]) -> Iterator[str]:
    for file in manifest.files:
        path = f"{manifest.folder}/{file.name}"
        if path not in there:
            yield f"{storage.uri}/{path}: missing"
        elif there[path] != file.size:
            yield f"{storage.uri}/{path}: {there[path]} bytes, its manifest says {file.size}"


def _in_use(storage: Storage, counting: list[Folder]) -> Folder | None:
    """What the newest attempt went on from: the parent of what it has committed, else the newest that there was."""
    newest = commit_log.last(storage).entry
    if newest is None or not counting:
        return None
    own = [place for place in counting if place.writer == (newest.attempt, newest.start)]
    if not own:
        return counting[0]
    try:
        parent = checkpoint.read_checkpoint(storage, own[0]).parent
    except CorruptError:
        return None
    return None if parent is None else checkpoint.parse_folder(parent.folder)


def _marked(storage: Storage) -> list[Folder]:
    """All that were committed, newest first, those that are passed over too."""
    return [place for place in checkpoint.folders(storage) if storage.size(f"{place}/{MARKER}") is not None]


def _steps(storage: Storage) -> str:
    steps = sorted({place.step for place in _marked(storage)}, reverse=True)
    return f"there are {', '.join(map(str, steps))}" if steps else "there is none"


def _progress(line: str) -> None:
    """Says on a terminal what is being done, in place of what was said before."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
