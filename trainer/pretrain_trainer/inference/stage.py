"""The stage predict-<name>: records that one of the job's finished models answers, in shards.

Task i answers the i-th share of all lines (records.py) into predict/<name>/<i>.jsonl. A task that is killed goes on where it was if
it is started on the same machine again, as `pretrain predict` does; elsewhere it begins anew.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain_stage.config import Job
from pretrain_stage.errors import UserError
from pretrain_stage.events import Events
from pretrain_stage.finetune import Examples
from pretrain_stage.manifest import (
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
from pretrain_stage.scratch import private_folder
from pretrain_stage.storage import Storage, file_sha256, open_storage, verify
from pydantic import JsonValue

from pretrain_trainer.config.predict import Predict
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment
from pretrain_trainer.inference.folder import BASE, READ, alone, read_json, read_model_folder
from pretrain_trainer.inference.predict import Identity, Piece, Tally, predict
from pretrain_trainer.inference.records import RecordFile, bring_records, digest_of, list_records, share

PREDICT_REVISION = 1
CANONICAL = {"text_field": "text", "words_field": "words", "prompt_field": "prompt", "messages_field": "messages"}
"""What a model reads, by the field of spec.finetune[].examples that says how records call it."""


@dataclass(frozen=True)
class Predictions:
    """What one stage is to do."""

    job: Job[TrainerSpec]
    section: Predict
    storage: Storage
    model: Manifest
    files: Sequence[RecordFile]

    @property
    def stage(self) -> str:
        return f"predict-{self.section.name}"

    @property
    def fields(self) -> dict[str, str]:
        """Names of fields, by what the model reads."""
        examples = next((one.examples for one in self.job.spec.finetune if one.name == self.section.task), None)
        return field_names(examples)

    @property
    def config(self) -> dict[str, JsonValue]:
        """What of the job decides the answers. Where the records lie is no part of it: their listing is an input of its own."""
        shown: dict[str, JsonValue] = self.section.model_dump(mode="json", exclude={"name", "uri", "parallelism"})
        fields: dict[str, JsonValue] = {**self.fields}
        return {**shown, "fields": fields, "seed": self.job.spec.training.seed}

    @property
    def inputs(self) -> dict[str, str]:
        return {self.model.stage: self.model.digest, "records": digest_of(self.files)}

    @property
    def identity(self) -> str:
        return identity(self.stage, PREDICT_REVISION, self.config, self.inputs)


def predict_stage(job: Job[TrainerSpec], name: str, index: int, events: Events) -> None:
    """Does one task of the stage, unless it is finished; closes the stage if it was the last.

    Raises UserError if there is no such section, its model is not finished, or not one record of the stage could be answered.
    """
    events.context.pop("rank", None)
    events.context.update(stage=f"predict-{name}", index=index)
    plan = plan_predictions(job, name)
    if not 0 <= index < plan.section.tasks:
        raise UserError(f"--index: {index}, but stage {plan.stage} of this job has {plan.section.tasks} tasks, from 0 on")
    done = finished(plan.storage, plan.stage, plan.identity)
    if done is not None:
        events.say("result", f"{plan.stage} is finished", unchanged=True, **done.facts)
        return
    part = finished_part(plan.storage, plan.stage, plan.identity, index)
    unchanged = part is not None
    if part is None:
        part = _work(plan, index, events)
        leave_part(plan.storage, part)
    events.say("result", f"{plan.stage}: {part.facts['records']:,} records", unchanged=unchanged, **part.facts)
    close(plan.storage, plan.stage, plan.identity, plan.config, plan.inputs, plan.section.tasks, check=_check)


def plan_predictions(job: Job[TrainerSpec], name: str) -> Predictions:
    """What the stage is to do. Raises UserError if its model is not there, or its records are not."""
    place = next((place for place, one in enumerate(job.spec.predict) if one.name == name), None)
    if place is None:
        names = ", ".join(one.name for one in job.spec.predict) or "none"
        raise UserError(f"--name: {name}, but spec.predict has no such entry (it has {names}); give one of them")
    section = job.spec.predict[place]
    storage = open_storage(job.spec.storage)
    stage = "export" if section.task is None else f"export-{section.task}"
    model = read_manifest(storage, stage)
    if model is None:
        raise UserError(f"stage predict-{name} reads stage {stage}, which has not finished in {storage.uri}; run that first")
    files = list_records(section.uri, f"spec.predict[{place}].uri", job.spec.storage)
    return Predictions(job, section, storage, model, files)


def field_names(examples: Examples | None) -> dict[str, str]:
    """How records name what a model reads, where that is another name."""
    if examples is None:
        return {}
    named = {canonical: getattr(examples, field) for field, canonical in CANONICAL.items()}
    return {canonical: name for canonical, name in named.items() if name not in (None, canonical)}


def _work(plan: Predictions, index: int, events: Events) -> Part:
    started = time.monotonic()
    name = f"{plan.stage}-{index:05d}"
    room = private_folder(plan.storage)
    with alone(room / name):
        folder = room / f"{name}-{plan.identity[:16]}"
        for other in room.glob(f"{name}-*"):
            if other != folder and other.is_dir():  # of another job file
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        tally = _predict(plan, index, folder, events)
        output = put_output(plan.storage, folder / "answers.jsonl", f"predict/{plan.section.name}/{index:05d}.jsonl")
        shutil.rmtree(folder, ignore_errors=True)
    return Part(
        stage=plan.stage,
        index=index,
        identity=plan.identity,
        outputs=(output,),
        facts={
            "records": tally.records,
            "errors": tally.errors,
            "prompt_tokens": tally.prompt_tokens,
            "new_tokens": tally.new_tokens,
        },
        seconds=time.monotonic() - started,
    )


def _predict(plan: Predictions, index: int, folder: Path, events: Events) -> Tally:
    prepare_environment(plan.job.spec.training, processes=1)
    from pretrain_trainer.generate import Sampling
    from pretrain_trainer.inference.answering import AnsweringModel, Renamed, Settings
    from pretrain_trainer.inference.load import device_named, load_model, memory_explained

    section = plan.section
    sampling = Sampling(section.temperature, section.top_k, section.top_p)
    settings = Settings(section.max_new_tokens, sampling, tuple(section.stop))

    def model() -> AnsweringModel:
        where = bring_verified(plan.storage, plan.model)
        found = load_model(
            read_model_folder(where, f"{plan.storage.uri}/{plan.model.stage}"), settings, device_named("auto")
        )
        events.info(f"asking {found.name}")
        return Renamed(found, plan.fields)

    mine = share([file.size for file in plan.files], index, section.tasks)
    pieces = [
        Piece(bring_records(plan.files[place], plan.job.spec.storage, folder), start, stop) for place, start, stop in mine
    ]
    wanted = Identity(plan.identity, {"index": index}, plan.inputs["records"])
    seed = plan.job.spec.training.seed
    with memory_explained("spec.predict[].batchTokens", section.batch_tokens), _telling(events, pieces) as tell:
        return predict(pieces, folder / "answers.jsonl", wanted, model, section.batch_tokens, seed, tell)


@contextmanager
def _telling(events: Events, pieces: Sequence[Piece]) -> Iterator[Callable[[Tally], None]]:
    """A function that says how far the task is, in bytes of its records, and how fast."""
    total = sum(piece.stop - piece.start for piece in pieces)
    began = 0.0
    first: Tally | None = None

    def tell(tally: Tally) -> None:
        nonlocal began, first
        if first is None:  # what an earlier process did took none of this one's time
            began, first = time.monotonic(), tally
        tokens = tally.prompt_tokens + tally.new_tokens - first.prompt_tokens - first.new_tokens
        seconds = time.monotonic() - began
        speed: dict[str, Any] = {"tokens_per_second": round(tokens / seconds, 1)} if tokens and seconds > 0 else {}
        events.progress(tally.read_bytes, total, "bytes", records=tally.records, errors=tally.errors, **speed)

    yield tell


def bring_verified(storage: Storage, model: Manifest) -> Path:
    """The model's folder on this machine, every file of it what the manifest says; with the model that an adapter belongs to.

    Raises CorruptError if a file is not what it was.
    """
    found = _bring(storage, model, private_folder(storage) / f"{model.stage}-{model.digest[:16]}")
    if (read_json(found / BASE, storage.uri) or {}).get("own"):
        export = read_manifest(storage, "export")
        if export is None or export.digest != model.inputs.get("export"):
            raise UserError(
                f"{storage.uri}/export: not the model that stage {model.stage} belongs to; run the stages of the task again"
            )
        _bring(storage, export, private_folder(storage) / f"{model.stage}-{model.digest[:16]}")
    return found


def _bring(storage: Storage, model: Manifest, room: Path) -> Path:
    """Files keep their places below the storage: an adapter finds its base by them."""
    files = [file for file in model.outputs if file.path.endswith(READ)]
    with alone(room):
        for file in files:
            local, target = storage.local_path(file.path), room / file.path
            if local is not None:
                verify(storage, file.path, file.size, file.sha256)
            elif not (target.exists() and target.stat().st_size == file.size and file_sha256(target) == file.sha256):
                verify(storage, file.path, file.size, file.sha256, target)
    return (storage.local_path(files[0].path) or room / files[0].path).parent


def _check(manifest: Manifest) -> None:
    """Raises UserError if the stage as a whole has come to nothing."""
    facts: Mapping[str, Any] = manifest.facts
    if facts["records"] and facts["errors"] == facts["records"]:
        raise UserError(
            f"stage {manifest.stage}: not one of {facts['records']:,} records could be answered; {manifest.outputs[0].path} says why: "
            "mend the records, or the names of fields"
        )
