"""What fine-tuning for a task is to do, worked out from the job and the manifests of its inputs. Imports nothing heavy.

Any change of the task, its examples or its base is another fine-tuning, which begins anew: its runs are short beside those of
pretraining, and a half-finished one that is neither the old nor the new would help nobody.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

from pretrain_stage.config import Job
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Finetune, Metric
from pretrain_stage.manifest import Manifest, finished, identity, read_manifest
from pretrain_stage.storage import Storage, open_storage
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from pretrain_trainer.config.batch import Batch, batch_of
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.finetune.base import Base, find_base
from pretrain_trainer.finetune.section import field_of, section_of, training_of
from pretrain_trainer.scores import DEFAULT_METRIC

FINETUNE_REVISION = 1
SPREAD = {"gpus", "processes", "micro_batch_size", "zero_stage", "merge"}
"""Fields that say how the work is spread, or what is made of the model: they do not decide the model."""
OF_METHOD = {
    "trained_layers": ("freeze",),
    "lora": ("lora", "adalora"),
    "prefix_tokens": ("prefix",),
    "adapter_width": ("adapter",),
}
"""Fields that only some methods read."""
EXAMPLES_OUTSIDE = {"uri", "format", "validation_fraction", "test_fraction", "max_train_examples"}
"""Fields of examples that decide which examples there are: the manifest of those tells."""


class ExampleFacts(BaseModel):
    """What the stage examples-<name> says of its examples."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    examples: dict[str, int]
    labels: list[str] = []


@dataclass(frozen=True)
class FinetunePlan:
    """A run of fine-tuning, in numbers."""

    job: Job[TrainerSpec]
    """The job, its section `training` as it is for this run."""
    section: Finetune
    field: str
    """What the user calls the section."""
    base: Base
    examples: Manifest
    facts: ExampleFacts
    batch: Batch

    flops_per_token = None

    @property
    def name(self) -> str:
        return self.section.name

    @property
    def stage(self) -> str:
        return f"finetune-{self.name}"

    @property
    def learning_rate_field(self) -> str:
        return f"{self.field.removeprefix('spec.')}.learningRate"

    @property
    def epochs(self) -> float:
        return self.batch.steps * self.batch.samples / self.facts.examples["train"]

    @property
    def positions(self) -> int | None:
        """Most tokens of a text, beside those of a prefix; None if there is no bound."""
        taken = self.section.prefix_tokens if self.section.method == "prefix" else 0
        return None if self.base.positions is None else self.base.positions - taken

    @property
    def labels(self) -> list[str]:
        """By class number."""
        return self.facts.labels

    @property
    def metric(self) -> Metric:
        """Which validation metric chooses the model."""
        return self.section.metric or DEFAULT_METRIC[self.section.task]

    @property
    def config(self) -> dict[str, JsonValue]:
        """What of the section decides the model."""
        unread = {name for name, methods in OF_METHOD.items() if self.section.method not in methods}
        told = self.section.model_dump(mode="json", exclude={"examples", *SPREAD, *unread})
        return {**told, "examples": self.section.examples.model_dump(mode="json", exclude=EXAMPLES_OUTSIDE)}

    @property
    def stage_inputs(self) -> dict[str, str]:
        return {**self.base.inputs, self.examples.stage: self.examples.digest}

    @property
    def stage_identity(self) -> str:
        return identity(self.stage, FINETUNE_REVISION, self.config, self.stage_inputs)

    @property
    def checkpoint_identity(self) -> dict[str, JsonValue]:
        return {
            "finetuning": self.stage_identity,
            f"{self.field.removeprefix('spec.')}.zeroStage": self.section.zero_stage,
        }

    @property
    def training_key(self) -> str:
        data = {"storage": self.job.spec.storage.uri, "identity": self.checkpoint_identity}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def task_storage(section: StorageSection, name: str) -> Storage:
    """The part of the job's storage in which a task keeps its checkpoints, its model and its export."""
    return open_storage(section.model_copy(update={"uri": f"{section.uri.rstrip('/')}/{below(name)}"}))


def below(name: str) -> str:
    """The folder of a task's files, below the job's storage."""
    return f"finetune/{name}"


def make_finetune_plan(job: Job[TrainerSpec], name: str, storage: Storage, world_size: int) -> FinetunePlan:
    """What fine-tuning for that task comes to on that many processes.

    Raises UserError if an input is missing or does not fit; the message names field, value and remedy.
    """
    section, field = section_of(job, name), field_of(job, name)
    examples, facts = _examples(storage, name)
    train = facts.examples["train"]
    if train < section.batch_size:
        raise UserError(
            f"{field}.batchSize: {section.batch_size}, but there are only {train} training examples; choose at most {train}, or give "
            "more examples"
        )
    if section.task != "generation" and len(facts.labels) < 2:
        raise UserError(
            f"{field}.examples: {len(facts.labels)} different labels, and there is nothing to learn; give 2 or more"
        )
    if section.from_scratch and section.method != "full":
        raise UserError(
            f"{field}.fromScratch: true, but method {section.method} leaves most weights as they are drawn; set method to full, or "
            "fromScratch to false"
        )
    base = find_base(job, section, storage)
    a_pass = train / section.batch_size
    steps = max(1, math.ceil(section.epochs * a_pass))
    every = min(steps, section.validate_every_steps or max(1, math.ceil(a_pass)))
    training = training_of(job, name, steps, every)
    run = job.model_copy(update={"spec": job.spec.model_copy(update={"training": training})})
    try:
        batch = batch_of(training, world_size)
    except ValueError:
        raise UserError(
            f"{field}.batchSize: {section.batch_size} cannot be shared by {world_size} processes with microBatchSize "
            f"{section.micro_batch_size or 1}; make it a multiple of both"
        ) from None
    return FinetunePlan(run, section, field, base, examples, facts, batch)


def finished_finetuning(storage: Storage, plan: FinetunePlan) -> Manifest:
    """The manifest of the fine-tuning. Raises UserError if it is not finished."""
    manifest = finished(storage, plan.stage, plan.stage_identity)
    if manifest is None:
        raise UserError(
            f"{storage.uri}/stages/{plan.stage}.json: fine-tuning is not finished; run the stage {plan.stage} first"
        )
    return manifest


def _examples(storage: Storage, name: str) -> tuple[Manifest, ExampleFacts]:
    """The examples that were split. Raises UserError if they were not, or there are none of a split."""
    stage = f"examples-{name}"
    manifest = read_manifest(storage, stage)
    if manifest is None:
        raise UserError(f"{storage.uri}/stages/{stage}.json: missing; run the stage {stage} before fine-tuning")
    try:
        facts = ExampleFacts.model_validate(manifest.facts)
    except ValidationError:
        raise UserError(
            f"{storage.uri}/stages/{stage}.json: does not tell its examples; run the stage {stage} again"
        ) from None
    for split in ("train", "validation", "test"):
        if not facts.examples.get(split):
            raise UserError(
                f"{storage.uri}/{below(name)}/examples/{split}.jsonl: no examples; give more, or a larger fraction"
            )
    return manifest, facts
