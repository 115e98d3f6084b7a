"""A PretrainJob as the API server has it, read for people. Pure.

Leniently: the operator of the cluster may be newer than this program, so an unknown word is shown as it stands, and a field
that is missing or of another type is left out. Text is made harmless here, once (plain.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pretrain_stage.ledger import STALL_SECONDS, STATES

from pretrain_operator.books import OF_THE_TRAINER
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
    step: int | None


@dataclass(frozen=True)
class SeenGoodput:
    """Where the wall time went."""

    state: str
    """The state that is open; empty once the job is finished."""
    since: datetime | None
    seconds: Mapping[str, float]
    ratio: float | None

    def now(self, time: datetime, *, trains: bool) -> str:
        """The state that the job is in; empty once it is finished. trains: whether a training pod may tell of its own time: it
        is heard every few seconds.
        """
        silent = trains and self.state in OF_THE_TRAINER and self._open(time) > STALL_SECONDS
        return "stalled" if silent else self.state

    def until(self, time: datetime, *, trains: bool) -> dict[str, float]:
        """Seconds by state until now."""
        seconds, left, state = dict(self.seconds), self._open(time), self.now(time, trains=trains)
        known = min(left, STALL_SECONDS) if state != self.state else 0.0
        for one, more in ((self.state, known), (state, left - known)):
            if more > 0:
                seconds[one] = seconds.get(one, 0.0) + more
        return seconds

    def _open(self, time: datetime) -> float:
        return 0.0 if self.since is None or not self.state else max(0.0, (time - self.since).total_seconds())


@dataclass(frozen=True)
class SeenCost:
    """What was spent, and may be."""

    gpu_seconds: float
    spent: float | None
    price: float | None
    budget: float | None


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
    goodput: SeenGoodput | None
    cost: SeenCost | None

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
        goodput=_goodput(_map(status, "goodput")),
        cost=_cost(_map(status, "cost"), _map(spec, "cost")),
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
        step=_whole_or_none(body, "step"),
    )


def _goodput(body: Mapping[str, Any]) -> SeenGoodput | None:
    """The ledger; states that this program does not know are left out."""
    if not body:
        return None
    seconds = {state: _number(_map(body, "seconds"), state) for state in STATES}
    return SeenGoodput(
        state=_text(body, "state"),
        since=_time(body, "since"),
        seconds={state: value for state, value in seconds.items() if value is not None and 0 < value < 1e12},
        ratio=_number(body, "ratio"),
    )


def _cost(body: Mapping[str, Any], spec: Mapping[str, Any]) -> SeenCost | None:
    if not body:
        return None
    return SeenCost(
        gpu_seconds=_number(body, "gpuSeconds") or 0.0,
        spent=_number(body, "spent"),
        price=_number(spec, "pricePerGPUHour"),
        budget=_number(spec, "budget"),
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
