"""What a task of spec.finetune asks, as a training that the loop understands. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from pretrain_stage.config import Job
from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Finetune

from pretrain_trainer.config.sections import TrainerSpec, Training

BETA2 = 0.999
"""Of AdamW: there are few steps, and their gradients are noisy."""
KEPT_CHECKPOINTS = 2


def section_of(job: Job[TrainerSpec], name: str) -> Finetune:
    """The task of that name. Raises UserError if the job has none."""
    for section in job.spec.finetune:
        if section.name == name:
            return section
    known = ", ".join(section.name for section in job.spec.finetune) or "none"
    raise UserError(f"--task: {name!r} is no task of spec.finetune, which has {known}; give one of these")


def field_of(job: Job[TrainerSpec], name: str) -> str:
    """What the user calls the section of that task."""
    return f"spec.finetune[{[section.name for section in job.spec.finetune].index(name)}]"


def training_of(job: Job[TrainerSpec], task: str | None, steps: int = 1, every: int = 1) -> Training:
    """spec.training as it is for a run: as given, or, for a task, as its section asks.

    steps: optimizer steps of the run. every: steps from one validation to the next; a checkpoint follows each.
    """
    if task is None:
        return job.spec.training
    section, given = section_of(job, task), job.spec.training
    tokens = section.batch_size * section.sequence_length
    asked: dict[str, Any] = {
        "tokens": steps * tokens,
        "sequenceLength": section.sequence_length,
        "globalBatchTokens": tokens,
        "microBatchSize": section.micro_batch_size,
        "optimizer": {"learningRate": section.learning_rate, "weightDecay": section.weight_decay, "beta2": BETA2},
        "schedule": {"kind": "linear", "warmupSteps": round(section.warmup_fraction * steps), "minRatio": 0.0},
        "precision": section.precision,
        "seed": section.seed,
        "gpusPerNode": section.gpus,
        "processesPerNode": section.processes,
        "resources": given.resources.model_dump(),
        "deepspeed": {"zeroStage": section.zero_stage},
        "checkpoints": {"everySteps": every, "keepLast": KEPT_CHECKPOINTS},
        "faults": given.faults.model_dump(),
        "validation": {"everySteps": every},
        "tensorboard": given.tensorboard,
        "tracking": given.tracking.model_dump() if given.tracking else None,
    }
    return Training.model_validate(asked)
