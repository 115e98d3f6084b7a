"""What the operator says about a PretrainJob: the resource's `status`.

Declared as models for the sake of the CRD's schema and of whoever builds or reads a status. Read leniently: a field that a
newer operator wrote is ignored, so that going back to an older one does not stop every job.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pretrain_stage.ledger import State
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Time = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
"""RFC 3339, in UTC."""

MOST = 10**15
"""Bound of counts. The API server reads bounds as floating-point numbers, which are exact up to 2^53."""

StageName = Annotated[str, Field(min_length=1, max_length=63)]


def _list_map(key: str) -> dict[str, Any]:
    """Marks a list as a map, so that appliers own its entries one by one."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


class StatusSection(BaseModel):
    """A part of the status: immutable, camelCase outside, unknown fields ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="ignore", frozen=True, serialize_by_alias=True, populate_by_name=True
    )


class Condition(StatusSection):
    """One observation of the job, in the shape of metav1.Condition."""

    type: Annotated[str, Field(min_length=1, max_length=316, pattern=r"^[A-Za-z][A-Za-z0-9]*$")] = Field(
        description="What is observed: Accepted, Progressing, Succeeded, Failed or Suspended."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is so.")
    observed_generation: int = Field(
        default=0, ge=0, le=MOST, description="Generation of the spec that this condition was derived from."
    )
    last_transition_time: Time = Field(description="When status last changed.")
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")] = (
        Field(description="Why, as one word for programs.")
    )
    message: str = Field(max_length=32_768, description="Why, and what to do, as a sentence for people.")


class StageStatus(StatusSection):
    """How far one stage is."""

    name: StageName = Field(description="Name of the stage.")
    state: Literal["Pending", "Running", "Succeeded", "Failed"] = Field(description="Where the stage stands.")
    tasks: int = Field(ge=1, le=100_000, description="Tasks of the stage; for training its pods.")
    succeeded: int = Field(default=0, ge=0, le=100_000, description="Tasks that have finished.")
    active: int = Field(default=0, ge=0, le=100_000, description="Tasks whose pods exist and have not ended.")
    failed: int = Field(default=0, ge=0, le=100_000, description="Tasks that have failed for good.")
    start_time: Time | None = Field(default=None, description="When the stage was started.")
    completion_time: Time | None = Field(default=None, description="When the stage ended.")
    spec_digest: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Digest of the spec fields that the stage was made from, once it has succeeded."
    )


class TrainingProgress(StatusSection):
    """How far training is, as rank 0 last said."""

    attempt: int = Field(
        default=1, ge=1, le=100_000, description="Which start of the training group this is, or will be next; from 1."
    )
    step: int = Field(default=0, ge=0, le=MOST, description="Optimizer steps done.")
    steps: int = Field(default=0, ge=0, le=MOST, description="Optimizer steps in all.")
    tokens: int = Field(default=0, ge=0, le=MOST, description="Tokens trained on.")
    loss: float | None = Field(default=None, description="Training loss of the last step, rounded to four digits.")
    validation_loss: float | None = Field(default=None, description="Last loss on the held-out documents, rounded likewise.")
    tokens_per_second: int | None = Field(default=None, ge=0, le=MOST, description="Tokens per second, all processes.")
    eta: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="Time left until the last step, such as 3d4h."
    )
    checkpoint_step: int | None = Field(
        default=None, ge=0, le=MOST, description="Step of the newest checkpoint that is committed."
    )
    furthest_step: int | None = Field(
        default=None,
        ge=0,
        le=MOST,
        description="Highest step that an attempt which has ended is known to have done; steps up to it are repeated.",
    )


class Restart(StatusSection):
    """One end of the training group before it was finished."""

    attempt: int = Field(ge=1, le=100_000, description="The attempt that ended.")
    time: Time = Field(description="When it was ended.")
    reason: Literal["Infrastructure", "Disruption", "Unschedulable", "Edited", "Suspended"] = Field(
        description="Class of the cause. Infrastructure (a process, a device, the network or storage failed) uses up "
        "training.maxRestarts; the others do not: Disruption (pod evicted, preempted, deleted, its node drained or lost), "
        "Unschedulable (a pod could not be started), Edited and Suspended (the spec was changed)."
    )
    message: str = Field(max_length=4_096, description="What happened, as the first process that failed said it.")
    checkpoint_step: int | None = Field(
        default=None, ge=0, le=MOST, description="Step of the newest committed checkpoint at that time."
    )
    step: int | None = Field(
        default=None,
        ge=0,
        le=MOST,
        description="Highest step heard of in that attempt; those after checkpointStep were lost. Absent if none was heard.",
    )


Seconds = Annotated[dict[str, float], Field(max_length=32)]
"""Seconds by state of the ledger."""


class ToldAccount(StatusSection):
    """The account of its own time that a training pod has told, as far as it is booked."""

    pod: Annotated[str, Field(max_length=64)] = Field(description="Uid of the pod.")
    attempt: int = Field(default=1, ge=1, le=100_000, description="The attempt that it is of.")
    seconds: Seconds = Field(default={}, description="Seconds of its life by state, as it last said.")


class Goodput(StatusSection):
    """The ledger: every second since the job was made in exactly one state."""

    state: State | None = Field(
        default=None,
        description="The state since then; absent once the job is finished. One that a training pod tells of (productive, "
        "data_wait, checkpoint, repeated) and that is a minute old is a stall until it is heard again.",
    )
    since: Time = Field(description="Until when time is booked: seconds add up to this minus metadata.creationTimestamp.")
    seconds: Seconds = Field(
        default={},
        description="Seconds booked by state: queued, starting, preprocessing, initializing, productive, data_wait, checkpoint, "
        "repeated, stalled, down.",
    )
    group: ToldAccount | None = Field(
        default=None, description="What the first training pod has told of its own time; all of it is booked."
    )
    ratio: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of the time since the training stage first began that was productive; from the first step on.",
    )


class Spent(StatusSection):
    """What the job has cost."""

    since: Time = Field(description="Until when GPU time is counted.")
    gpu_seconds: float = Field(
        default=0.0,
        ge=0,
        le=MOST,
        description="GPU time that the job's pods have held: seconds from scheduled to ended, times GPUs.",
    )
    spent: float | None = Field(
        default=None, ge=0, le=MOST, description="The GPU time at the present cost.pricePerGPUHour; absent without a price."
    )


Phase = Literal["Pending", "Suspended", "Preprocessing", "Training", "Finishing", "Succeeded", "Failed"]


class PretrainJobStatus(StatusSection):
    """What was observed, written by the operator alone."""

    observed_generation: int = Field(
        default=0, ge=0, le=MOST, description="Generation of the spec that this status was derived from."
    )
    phase: Phase | None = Field(
        default=None, description="The conditions in one word, for people. No program should decide by it."
    )
    stage: StageName | None = Field(default=None, description="The stage that runs, or ran last.")
    progress: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="How far that stage is, for people: 412/2000 or 37%."
    )
    start_time: Time | None = Field(default=None, description="When the first stage was started.")
    completion_time: Time | None = Field(default=None, description="When the job succeeded or failed.")
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        description="Observations that programs may decide by.",
        json_schema_extra=_list_map("type"),
    )
    stages: list[StageStatus] = Field(
        default=[], max_length=128, description="All stages in their order.", json_schema_extra=_list_map("name")
    )
    training: TrainingProgress | None = Field(default=None, description="How far training is.")
    restart_count: int = Field(
        default=0, ge=0, le=100_000, description="Restarts of the training group that used up training.maxRestarts."
    )
    restarts: list[Restart] = Field(
        default=[], max_length=20, description="The last restarts of the training group, the newest last."
    )
    restarts_by_reason: Annotated[dict[str, int], Field(max_length=32)] | None = Field(
        default=None, description="How often the training group has ended before it was finished, by class of the cause."
    )
    goodput: Goodput | None = Field(default=None, description="Where the wall time went.")
    cost: Spent | None = Field(default=None, description="GPU time held and what it cost; absent for a job on CPU.")
