"""A PretrainJob as the API server has it, read for people. Pure.

Leniently: the operator of the cluster may be newer than this program, so an unknown word is shown as it stands, and a field
that is missing or of another type is left out. Text is made harmless here, once (plain.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pretrain_operator.kubectl.plain import plain

FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class SeenCondition:
    """One condition."""

    type: str
    status: str
    reason: str
    message: str
    generation: int | None
    since: datetime | None


@dataclass(frozen=True)
class SeenStage:
    """One stage."""

    name: str
    state: str
    tasks: int
    succeeded: int
    active: int
    failed: int
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True)
class SeenTraining:
    """How far training is."""

    attempt: int
    step: int
    steps: int
    tokens: int
    loss: float | None
    validation_loss: float | None
    tokens_per_second: float | None
    eta: str
    checkpoint_step: int | None


@dataclass(frozen=True)
class SeenRestart:
    """One end of the training group before it was finished."""

    attempt: int
    time: datetime | None
    reason: str
    message: str
    checkpoint_step: int | None


@dataclass(frozen=True)
class SeenJob:
    """A PretrainJob."""

    namespace: str
    name: str
    generation: int
    created: datetime | None
    deleted: datetime | None
    storage: str
    suspended: bool
    managed_by: str
    nodes: int
    observed_generation: int
    phase: str
    stage: str
    progress: str
    started: datetime | None
    ended: datetime | None
    conditions: tuple[SeenCondition, ...]
    stages: tuple[SeenStage, ...]
    training: SeenTraining | None
    restart_count: int
    restarts: tuple[SeenRestart, ...]

    def condition(self, kind: str) -> SeenCondition | None:
        return next((condition for condition in self.conditions if condition.type == kind), None)

    @property
    def finished(self) -> str | None:
        """`Succeeded` or `Failed`, once it has; neither ever goes back."""
        true = (condition.type for condition in self.conditions if condition.status == "True")
        return next((kind for kind in true if kind in FINISHED), None)

    def stage_named(self, name: str) -> SeenStage | None:
        return next((stage for stage in self.stages if stage.name == name), None)


def seen(body: Mapping[str, Any]) -> SeenJob:
    """The PretrainJob in an object of the API server."""
    metadata, spec, status = _map(body, "metadata"), _map(body, "spec"), _map(body, "status")
    return SeenJob(
        namespace=_text(metadata, "namespace"),
        name=_text(metadata, "name"),
        generation=_whole(metadata, "generation"),
        created=_time(metadata, "creationTimestamp"),
        deleted=_time(metadata, "deletionTimestamp"),
        storage=_text(_map(spec, "storage"), "uri"),
        suspended=spec.get("suspend") is True,
        managed_by=_text(spec, "managedBy"),
        nodes=_whole(_map(spec, "training"), "nodes"),
        observed_generation=_whole(status, "observedGeneration"),
        phase=_text(status, "phase"),
        stage=_text(status, "stage"),
        progress=_text(status, "progress"),
        started=_time(status, "startTime"),
        ended=_time(status, "completionTime"),
        conditions=tuple(map(_condition, _maps(status, "conditions"))),
        stages=tuple(map(_stage, _maps(status, "stages"))),
        training=_training(_map(status, "training")),
        restart_count=_whole(status, "restartCount"),
        restarts=tuple(map(_restart, _maps(status, "restarts"))),
    )


def _condition(body: Mapping[str, Any]) -> SeenCondition:
    return SeenCondition(
        type=_text(body, "type"),
        status=_text(body, "status"),
        reason=_text(body, "reason"),
        message=_text(body, "message"),
        generation=_whole_or_none(body, "observedGeneration"),
        since=_time(body, "lastTransitionTime"),
    )


def _stage(body: Mapping[str, Any]) -> SeenStage:
    return SeenStage(
        name=_text(body, "name"),
        state=_text(body, "state"),
        tasks=_whole(body, "tasks"),
        succeeded=_whole(body, "succeeded"),
        active=_whole(body, "active"),
        failed=_whole(body, "failed"),
        started=_time(body, "startTime"),
        ended=_time(body, "completionTime"),
    )


def _training(body: Mapping[str, Any]) -> SeenTraining | None:
    if not body:
        return None
    return SeenTraining(
        attempt=_whole(body, "attempt") or 1,
        step=_whole(body, "step"),
        steps=_whole(body, "steps"),
        tokens=_whole(body, "tokens"),
        loss=_number(body, "loss"),
        validation_loss=_number(body, "validationLoss"),
        tokens_per_second=_number(body, "tokensPerSecond"),
        eta=_text(body, "eta"),
        checkpoint_step=_whole_or_none(body, "checkpointStep"),
    )


def _restart(body: Mapping[str, Any]) -> SeenRestart:
    return SeenRestart(
        attempt=_whole(body, "attempt"),
        time=_time(body, "time"),
        reason=_text(body, "reason"),
        message=_text(body, "message"),
        checkpoint_step=_whole_or_none(body, "checkpointStep"),
    )


def _map(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    return value if isinstance(value, Mapping) else {}


def _maps(body: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    value = body.get(key)
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else iter(())


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    return plain(value) if isinstance(value, str) else ""


def _number(body: Mapping[str, Any], key: str) -> float | None:
    value = body.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(body: Mapping[str, Any], key: str) -> int:
    return _whole_or_none(body, key) or 0


def _whole_or_none(body: Mapping[str, Any], key: str) -> int | None:
    number = _number(body, key)
    return None if number is None else int(number)


def _time(body: Mapping[str, Any], key: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(_text(body, key))
    except ValueError:
        return None
    return time if time.tzinfo is not None else None
