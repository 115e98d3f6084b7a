"""The frame around each task: is it done already, what does it read, run it, write down what came out.

    python -m pretrain_preprocess clean --job job.json --index 3

1. From the job file and the manifests of earlier stages follows the stage's identity (pretrain_stage.manifest).
2. A stage or task that is finished with that identity is not run again.
3. A task works in a scratch folder. Its outputs are hashed and uploaded, then its part is written: only that makes them count.
4. Whoever finds all parts there judges the whole stage and writes its manifest.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain_stage.config import Job
from pretrain_stage.errors import CorruptError, StorageError, UserError
from pretrain_stage.events import PROGRESS_SECONDS, Events
from pretrain_stage.manifest import (
    File,
    Manifest,
    Part,
    close,
    finished,
    finished_part,
    identity,
    leave_part,
    put_output,
    read_manifest,
)
from pretrain_stage.scratch import scratch
from pretrain_stage.storage import Storage, open_storage, verify
from pydantic import JsonValue

from pretrain_preprocess.config import PreprocessSpec
from pretrain_preprocess.metrics import Metrics
from pretrain_preprocess.outside import GivenTokenizer, Outside, outside
from pretrain_preprocess.sources import Listing
from pretrain_preprocess.stages import Stage
from pretrain_preprocess.tally import Tally
from pretrain_preprocess.verdict import verdict


@dataclass(frozen=True)
class Outcome:
    """What a task made: files with their paths below the storage URI, and facts. Its counts are in the task's tally."""

    outputs: tuple[tuple[Path, str], ...] = ()
    facts: dict[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One task at work."""

    spec: PreprocessSpec
    stage: Stage
    index: int
    tasks: int
    storage: Storage
    inputs: Mapping[str, Manifest]
    outside: Outside | None
    scratch: Path
    events: Events
    tally: Tally

    @property
    def listing(self) -> Listing:
        """The files of the sources."""
        assert isinstance(self.outside, Listing), f"stage {self.stage.name} reads no sources"
        return self.outside

    @property
    def given_tokenizer(self) -> GivenTokenizer | None:
        """The tokenizer that the job names, if it names one."""
        return self.outside if isinstance(self.outside, GivenTokenizer) else None

    def bring(self, file: File) -> Path:
        """Where an earlier stage's output can be read: in the storage folder itself, or downloaded to scratch. Verified
        either way; raises CorruptError if it is not what its manifest says.
        """
        local = self.storage.local_path(file.path)
        if local is not None:
            verify(self.storage, file.path, file.size, file.sha256)
            return local
        target = self.scratch / "inputs" / file.path
        verify(self.storage, file.path, file.size, file.sha256, target)
        return target

    def part(self, stage: str, index: int | None = None) -> Part:
        """What task `index` (this task's own by default) of an earlier stage did. Raises UserError if it is not there."""
        number = self.index if index is None else index
        part = finished_part(self.storage, stage, self.inputs[stage].identity, number)
        if part is None:
            raise UserError(
                f"{self.storage.uri}/stages/{stage}/{number:05d}.json: missing, or its outputs are, though the stage has "
                f"finished; delete stages/{stage}.json to run it again"
            )
        return part

    def progress(self) -> Callable[[int, int | None, str], None]:
        """A function that tells how far the task is, and costs next to nothing if it did so within the last second."""
        due = time.monotonic() + PROGRESS_SECONDS

        def tell(done: int, total: int | None, unit: str) -> None:
            nonlocal due
            now = time.monotonic()
            if now >= due:
                due = now + PROGRESS_SECONDS
                self.events.progress(done, total, unit, read=self.tally.read, kept=self.tally.kept)

        return tell


@dataclass(frozen=True)
class Plan:
    """A stage of a job, with everything that decides its output."""

    job: Job[PreprocessSpec]
    stage: Stage
    storage: Storage
    inputs: Mapping[str, Manifest]
    outside: Outside | None
    config: JsonValue
    digests: Mapping[str, str]
    tasks: int

    @property
    def identity(self) -> str:
        return identity(self.stage.name, self.stage.revision, self.config, self.digests)

    def events(self, index: int) -> Events:
        metadata = self.job.metadata.model_dump(exclude_none=True)
        return Events({**metadata, "stage": self.stage.name, "index": index})


def run_tasks(job: Job[PreprocessSpec], stage: Stage, index: int, stride: int | None, metrics: Metrics) -> None:
    """This process's share of a stage: tasks index, index + stride, ...; one task if no stride is given."""
    tasks = stage.tasks(job.spec)
    if index >= tasks:
        raise UserError(f"--index: {index}, but stage {stage.name} of this job has {tasks} tasks, from 0 on")
    plan = plan_stage(job, stage)
    manifest = finished(plan.storage, stage.name, plan.identity)
    for number in range(index, tasks, stride or tasks):
        run_task(plan, number, manifest, metrics)
    if manifest is None:
        close_stage(plan)


def plan_stage(job: Job[PreprocessSpec], stage: Stage) -> Plan:
    """What the stage reads, and hence its identity. Raises UserError if an earlier stage has not finished."""
    storage = open_storage(job.spec.storage)
    inputs = {name: _manifest_of(storage, name, stage) for name in stage.inputs(job.spec)}
    if "tokenizer" in inputs:
        _verify_tokenizer(storage, inputs["tokenizer"])
    found = outside(stage.name, job.spec)
    digests = {name: manifest.digest for name, manifest in inputs.items()}
    if found is not None:
        digests[found.name] = found.digest
    return Plan(job, stage, storage, inputs, found, stage.config(job.spec), digests, stage.tasks(job.spec))


def run_task(plan: Plan, index: int, manifest: Manifest | None, metrics: Metrics) -> None:
    """Runs one task unless it is finished, and tells its result."""
    events = plan.events(index)
    if manifest is not None:
        metrics.end(plan.stage.name, "unchanged")
        events.say("result", f"{plan.stage.name} is finished", unchanged=True)
        return
    part = finished_part(plan.storage, plan.stage.name, plan.identity, index)
    unchanged = part is not None
    if part is None:
        try:
            part = _work(plan, index, events, metrics)
        except Exception:
            metrics.end(plan.stage.name, "failed")
            raise
    metrics.end(plan.stage.name, "unchanged" if unchanged else "done")
    events.say(
        "result",
        f"{plan.stage.name}: {_said(part)}",
        unchanged=unchanged,
        counts=part.counts.model_dump(),
        facts=part.facts,
    )


def _said(part: Part) -> str:
    """What a task did, for people."""
    if part.counts.read:
        return f"{part.counts.read:,} documents read, {part.counts.kept:,} kept"
    return ", ".join(f"{value:,} {name}" for name, value in part.facts.items() if isinstance(value, int)) or "no documents"


def close_stage(plan: Plan) -> None:
    """Writes the stage's manifest if all tasks are done and the whole of it is good. Raises UserError if it is not.

    The parts are counted by one listing first: reading those of thousands of tasks at the end of each would take longer
    than the work.
    """
    parts = sum(1 for _ in plan.storage.entries(f"stages/{plan.stage.name}"))
    if parts < plan.tasks:
        return
    close(
        plan.storage,
        plan.stage.name,
        plan.identity,
        plan.config,
        plan.digests,
        plan.tasks,
        check=lambda manifest: verdict(plan.job.spec, manifest),
    )


def _work(plan: Plan, index: int, events: Events, metrics: Metrics) -> Part:
    started = time.monotonic()
    with scratch(plan.storage, f"{plan.stage.name}-{index:05d}") as folder, _disk_full_explained(folder):
        quiet(events)
        task = Task(
            spec=plan.job.spec,
            stage=plan.stage,
            index=index,
            tasks=plan.tasks,
            storage=plan.storage,
            inputs=plan.inputs,
            outside=plan.outside,
            scratch=folder,
            events=events,
            tally=metrics.begin(plan.stage.name),
        )
        outcome: Outcome = importlib.import_module(f"pretrain_preprocess.{plan.stage.module}").run(task)
        part = Part(
            stage=plan.stage.name,
            index=index,
            identity=plan.identity,
            counts=task.tally.counts(),
            outputs=tuple(put_output(plan.storage, source, path) for source, path in outcome.outputs),
            facts=outcome.facts,
            seconds=time.monotonic() - started,
        )
        leave_part(plan.storage, part)
        return part


def _manifest_of(storage: Storage, name: str, reader: Stage) -> Manifest:
    manifest = read_manifest(storage, name)
    if manifest is None:
        raise UserError(f"stage {reader.name} reads stage {name}, which has not finished in {storage.uri}; run that first")
    return manifest


def _verify_tokenizer(storage: Storage, tokenizer: Manifest) -> None:
    """Raises CorruptError if tokenizer.json is no longer what the tokenizer stage left, even if nothing else changed."""
    for file in tokenizer.outputs:
        try:
            verify(storage, file.path, file.size, file.sha256)
        except CorruptError as error:
            raise CorruptError(
                f"the tokenizer was changed behind the tokens' back: {error}. Restore the file, or delete it to make tokenizer and "
                "tokens anew; to use another tokenizer, name it in tokenizer.uri"
            ) from None


@contextlib.contextmanager
def _disk_full_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise StorageError(
            f"scratch folder {folder}: {error.strerror}; free some space, or set TMPDIR to a larger disk. What is finished is kept",
            temporary=True,
        ) from None


def quiet(events: Events) -> None:
    """Turns what libraries log into events, and drops what is no warning."""
    import logging

    from loguru import logger

    def pass_on(message: Any) -> None:
        record = message.record
        say = events.error if record["level"].no >= logging.ERROR else events.warning
        say(record["message"], logger=record["name"])

    logger.remove()
    logger.add(pass_on, level="WARNING", format="{message}")
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it calls every page without a main text an error
