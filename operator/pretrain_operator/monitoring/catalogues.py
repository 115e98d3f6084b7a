"""Which program serves which metrics, and what bounds the values of their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pretrain_preprocess.catalogue import METRICS as PREPROCESSING
from pretrain_stage.catalogue import METRICS as STAGE
from pretrain_stage.ledger import MEANINGS
from pretrain_stage.metric import JOB_LABELS, Metric
from pretrain_trainer.catalogue import METRICS as TRAINING

from pretrain_operator.catalogue import METRICS as OPERATOR


@dataclass(frozen=True)
class Program:
    """A program that serves metrics."""

    title: str
    where: str
    """Which of its processes serves them, and on which port."""
    metrics: tuple[Metric, ...]


PROGRAMS = (
    Program(
        "Training",
        "Rank 0 of a training group: port 9400 of its first pod, named `metrics`; on one machine the port of "
        "`pretrain run --metrics-port`. Counters begin at zero with each attempt.",
        TRAINING,
    ),
    Program(
        "Preprocessing",
        "Each pod of a preprocessing stage while it runs: port 9400, named `metrics`.",
        PREPROCESSING,
    ),
    Program("Training and preprocessing", "Both of the above.", STAGE),
    Program(
        "The operator",
        "Each replica: port 8080 (`metrics.port` of the chart), named `metrics`. Series of a job go when the job is gone.",
        OPERATOR,
    ),
)

BY_NAME: Mapping[str, Metric] = {metric.name: metric for program in PROGRAMS for metric in program.metrics}

BOUNDS: Mapping[str, str] = {
    "namespace": "namespaces with jobs",
    "name": "jobs",
    "state": "the ten states of the ledger: " + "; ".join(f"`{state}` ({text})" for state, text in MEANINGS.items()),
    "operation": "`read`, `write`, `list`, `delete`",
    "result": "those that the metric's help text names",
    "stage": "stages of a job: at most 64",
    "outcome": "`read`, `kept`, `dropped`",
    "block": "blocks of `corpus.clean`, and deduplication; empty unless dropped",
    "reason": "the reasons of a block ([preprocessing](preprocessing.md)), of a condition or of a restart "
    "([operator](operator.md)): one word each, never a message",
    "version": "one",
    "verb": "`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`",
    "code": "HTTP status codes, and `0`",
    "phase": "the seven phases of a job",
    "type": "the conditions of a job: `Accepted`, `Progressing`, `Succeeded`, `Failed`, `Suspended`",
}
"""What bounds the values of a label; where two metrics mean different things by it, both are told."""

OWN_BOUNDS: Mapping[tuple[str, str], str] = {
    ("pretrain_job_stage_tasks", "state"): "`pending`, `active`, `succeeded`, `failed`",
}
"""Where a metric means something else by a label than the others."""


def bound(metric: Metric, label: str) -> str:
    """What bounds the values that a label of this metric can have."""
    return OWN_BOUNDS.get((metric.name, label), BOUNDS[label])


def is_of_a_job(metric: Metric) -> bool:
    """Whether its series tell by themselves which job they are about."""
    return metric.labels[: len(JOB_LABELS)] == JOB_LABELS
