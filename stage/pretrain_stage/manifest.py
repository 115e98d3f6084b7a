"""What a finished stage leaves behind, and when a stage need not run again.

Each task of a stage leaves a part (`stages/<stage>/<index>.json`) when its outputs are all written. Whichever task finds
all parts there closes the stage: it adds them up and writes `stages/<stage>.json`. Two tasks that close at once write
the same bytes. A manifest's digest enters the identity of every stage that reads its outputs, so the chain of manifests
is the lineage of the model, and a change anywhere makes exactly what follows from it run again.

Times are kept for people and stay out of every digest: the same inputs give the same lineage on any day.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from pretrain_stage.errors import UserError
from pretrain_stage.storage import Storage, file_sha256, verify

MOST_LOOKED_UP = 20
"""Files that are asked for one by one."""


class File(BaseModel):
    """One output: path below the storage URI, size in bytes, SHA-256 in hexadecimal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    size: int
    sha256: str


class Counts(BaseModel):
    """What happened to the documents: read = kept + dropped, whichever stage it is.

    `dropped` is by block and reason: {"quality": {"gopher_short_doc": 12}}. Bytes are of the texts in UTF-8, each as it was at
    that moment, so they need not add up.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    read: int = 0
    kept: int = 0
    dropped: dict[str, dict[str, int]] = {}
    read_bytes: int = 0
    kept_bytes: int = 0
    dropped_bytes: int = 0

    def check(self, where: str) -> None:
        """Raises UserError unless kept + dropped = read."""
        dropped = sum(sum(reasons.values()) for reasons in self.dropped.values())
        if self.kept + dropped != self.read:
            raise UserError(
                f"{where}: {self.read} documents read, but {self.kept} kept + {dropped} dropped = {self.kept + dropped}; "
                "its outputs cannot be trusted. Delete them and run the stage again; if it repeats, report it"
            )


class Part(BaseModel):
    """What one task of a stage did."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    index: int
    identity: str
    counts: Counts = Counts()
    outputs: tuple[File, ...] = ()
    facts: dict[str, JsonValue] = {}
    place: str = ""
    seconds: float = 0.0


class Manifest(BaseModel):
    """What a finished stage did: its identity, what went in and what came out.

    `inputs` maps each earlier stage (or the sources) to a digest. `facts` is what only this stage knows: token counts,
    a tokenizer's hash, losses; numbers of its parts are added up. `place` is the folder of the outputs where its name tells which
    attempt has made them: that decides nothing of what they are, so the digest does not know it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    identity: str
    config: JsonValue
    inputs: dict[str, str]
    tasks: int
    counts: Counts
    outputs: tuple[File, ...]
    facts: dict[str, JsonValue]
    place: str = ""
    seconds: float

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the times and the place."""
        told = self.model_dump(mode="json", exclude={"seconds", "place"})
        for file in told["outputs"]:
            file["path"] = file["path"].removeprefix(f"{self.place}/")
        return _digest(told)


def identity(stage: str, revision: int, config: JsonValue, inputs: Mapping[str, str]) -> str:
    """The SHA-256 of all that decides a stage's output.

    `revision` is raised by us when a stage's code changes what it makes of the same input.
    """
    return _digest({"stage": stage, "revision": revision, "config": config, "inputs": dict(inputs)})


def finished(storage: Storage, stage: str, identity: str) -> Manifest | None:
    """The stage's manifest if it has this identity and all its outputs are there in full size; else None.

    Contents are verified by whoever reads them (`fetch`).
    """
    manifest = read_manifest(storage, stage)
    if manifest is None or manifest.identity != identity:
        return None
    return manifest if _all_there(storage, manifest.outputs) else None


def read_manifest(storage: Storage, stage: str) -> Manifest | None:
    """The stage's manifest, whatever its identity; None if the stage never finished."""
    return _read(storage, f"stages/{stage}.json", Manifest)


def finished_part(storage: Storage, stage: str, identity: str, index: int) -> Part | None:
    """The part of task `index` if it has this identity and its outputs are there in full size; else None."""
    part = _read(storage, part_path(stage, index), Part)
    if part is None or part.identity != identity:
        return None
    return part if _all_there(storage, part.outputs) else None


def leave_part(storage: Storage, part: Part) -> None:
    """Writes the part of one task, last of all its outputs. Raises UserError if its counts do not add up."""
    part.counts.check(f"stage {part.stage}, task {part.index}")
    storage.write(part_path(part.stage, part.index), _pretty(part))


def close(
    storage: Storage,
    stage: str,
    identity: str,
    config: JsonValue,
    inputs: Mapping[str, str],
    tasks: int,
    check: Callable[[Manifest], None] = lambda manifest: None,
) -> Manifest | None:
    """Writes the stage's manifest if all its parts are there; returns it, or None while parts are missing.

    `check` may raise UserError if the stage as a whole is of no use; then no manifest is written. Raises UserError if the
    counts do not add up.
    """
    parts = []
    for index in range(tasks):
        part = finished_part(storage, stage, identity, index)
        if part is None:
            return None
        parts.append(part)
    manifest = Manifest(
        stage=stage,
        identity=identity,
        config=config,
        inputs=dict(inputs),
        tasks=tasks,
        counts=add_counts(part.counts for part in parts),
        outputs=tuple(file for part in parts for file in part.outputs),
        facts=_add_facts(part.facts for part in parts),
        place=next((part.place for part in parts if part.place), ""),
        seconds=sum(part.seconds for part in parts),
    )
    manifest.counts.check(f"stage {stage}")
    check(manifest)
    storage.write(f"stages/{stage}.json", _pretty(manifest))
    return manifest


def put_output(storage: Storage, source: Path, path: str) -> File:
    """Uploads a finished file and returns what its manifest says of it."""
    file = File(path=path, size=source.stat().st_size, sha256=file_sha256(source))
    storage.upload(source, path)
    return file


def fetch(storage: Storage, file: File, target: Path) -> Path:
    """Downloads an output to `target` and verifies it. Raises CorruptError if it is not what the manifest says."""
    verify(storage, file.path, file.size, file.sha256, target)
    return target


def part_path(stage: str, index: int) -> str:
    return f"stages/{stage}/{index:05d}.json"


def add_counts(counts: Iterable[Counts]) -> Counts:
    """The sum of the counts of several tasks."""
    found = list(counts)
    dropped: dict[str, dict[str, int]] = {}
    for count in found:
        for block, reasons in count.dropped.items():
            for reason, number in reasons.items():
                of_block = dropped.setdefault(block, {})
                of_block[reason] = of_block.get(reason, 0) + number
    numbers = ("read", "kept", "read_bytes", "kept_bytes", "dropped_bytes")
    return Counts(dropped=dropped, **{name: sum(getattr(count, name) for count in found) for name in numbers})


def _add_facts(all_facts: Iterable[Mapping[str, JsonValue]]) -> dict[str, JsonValue]:
    """Numbers are added, maps merged in the same way, anything else must be equal in all parts."""
    total: dict[str, Any] = {}
    for facts in all_facts:
        for key, value in facts.items():
            if key not in total:
                total[key] = value
            elif isinstance(value, dict):
                total[key] = _add_facts([total[key], value])
            elif isinstance(value, int | float) and not isinstance(value, bool):
                total[key] += value
            else:
                assert total[key] == value, f"tasks of one stage disagree about {key}: {total[key]!r}, {value!r}"
    return total


def _all_there(storage: Storage, files: Sequence[File]) -> bool:
    """Whether all files exist in full size. Many are looked up by listing their folders, a thousand a request."""
    if len(files) <= MOST_LOOKED_UP:
        return all(storage.size(file.path) == file.size for file in files)
    folders = {str(PurePosixPath(file.path).parent) for file in files}
    sizes = {entry.path: entry.size for folder in folders for entry in storage.entries(folder)}
    return all(sizes.get(file.path) == file.size for file in files)


ModelT = TypeVar("ModelT", bound=BaseModel)


def _read(storage: Storage, path: str, model: type[ModelT]) -> ModelT | None:
    data = storage.read(path)
    if data is None:
        return None
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise UserError(
            f"{storage.uri}/{path}: not a manifest ({error.error_count()} faults); delete it to redo it"
        ) from None


def _pretty(model: BaseModel) -> bytes:
    return json.dumps(model.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False).encode()


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
