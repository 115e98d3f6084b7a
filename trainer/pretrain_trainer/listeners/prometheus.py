"""A run's measures as Prometheus metrics: those of the catalogue, served over HTTP by the process itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pretrain_stage.config import Metadata
from pretrain_stage.events import Events
from pretrain_stage.exposition import Exposition
from pretrain_stage.storage_errors import StorageErrors
from prometheus_client import CollectorRegistry

from pretrain_trainer import catalogue as named
from pretrain_trainer.account import Account
from pretrain_trainer.listeners.listener import (
    CheckpointFailure,
    CheckpointMeasures,
    Listener,
    LossSpike,
    NonfiniteStep,
    StepMeasures,
    ValidationMeasures,
)

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

PORT_VARIABLE, ADDRESS_VARIABLE = "PRETRAIN_METRICS_PORT", "PRETRAIN_METRICS_ADDRESS"


@dataclass(frozen=True)
class Beginning:
    """What is known of a run before its first step."""

    steps: int
    """That the job asks for."""
    checkpoint_steps: int
    """From one checkpoint to the next."""
    done: int = 0
    """Steps that it goes on from, which is where its newest checkpoint is."""
    done_tokens: int = 0
    checkpoint_bytes: int = 0
    """Size of that checkpoint."""
    verified: Mapping[str, int] = field(default_factory=dict)
    """Checkpoints that were compared with their manifests, by result."""
    full_speed: float | None = None
    """Tokens per second at which all devices would compute at their peak; None if that is not known."""


class Prometheus(Listener):
    """The metrics of a run in progress. Counters of a restarted run begin at zero.

    What was not measured yet has no series; what is counted has one from the beginning.
    """

    def __init__(self, metadata: Metadata, beginning: Beginning, account: Account, events: Events) -> None:
        self.registry, self.beginning, self.account = CollectorRegistry(), beginning, account
        self.labels = {"namespace": metadata.namespace, "name": metadata.name}
        made = {metric: metric.register(self.registry) for metric in named.METRICS if metric is not named.SECONDS}
        self.registry.register(_Seconds(account, metadata))
        self.registry.register(StorageErrors(metadata))

        self.last_step = made[named.STEP].labels(**self.labels)
        self.tokens = made[named.TOKENS].labels(**self.labels)
        self.trained_tokens = made[named.TRAINED_TOKENS].labels(**self.labels)
        self.step_seconds = made[named.STEP_SECONDS].labels(**self.labels)
        self.data_wait_seconds = made[named.DATA_WAIT_SECONDS].labels(**self.labels)
        self.skipped_steps = made[named.SKIPPED_STEPS].labels(**self.labels)
        self.nonfinite_steps = made[named.NONFINITE_STEPS].labels(**self.labels)
        self.loss_spikes = made[named.LOSS_SPIKES].labels(**self.labels)
        self.checkpoint_seconds = made[named.CHECKPOINT_SECONDS].labels(**self.labels)
        self.checkpoint_commit_seconds = made[named.CHECKPOINT_COMMIT_SECONDS].labels(**self.labels)
        self.checkpoint_wait_seconds = made[named.CHECKPOINT_WAIT_SECONDS].labels(**self.labels)
        self.checkpoint_bytes = made[named.CHECKPOINT_BYTES].labels(**self.labels)
        self.checkpoint_step = made[named.CHECKPOINT_STEP].labels(**self.labels)
        self.checkpoint_timestamp = made[named.CHECKPOINT_TIMESTAMP].labels(**self.labels)
        self.checkpoint_interval = made[named.CHECKPOINT_INTERVAL].labels(**self.labels)
        self.checkpoint_failures = made[named.CHECKPOINT_FAILURES].labels(**self.labels)
        self.last_step_timestamp = made[named.LAST_STEP_TIMESTAMP].labels(**self.labels)
        self.loss, self.learning_rate, self.gradient_norm, self.tokens_per_second, self.mfu, self.validation_loss = (
            _Later(made[metric], self.labels)
            for metric in (
                named.LOSS, named.LEARNING_RATE, named.GRADIENT_NORM, named.TOKENS_PER_SECOND, named.MFU, named.VALIDATION_LOSS,
            )
        )  # fmt: skip

        made[named.STEPS].labels(**self.labels).set(beginning.steps)
        self.last_step.set(beginning.done)
        self.trained_tokens.set(beginning.done_tokens)
        self.checkpoint_step.set(beginning.done)
        self.checkpoint_bytes.set(beginning.checkpoint_bytes)
        self.checkpoint_timestamp.set(account.began)
        for result in named.VERIFIED_RESULTS:
            made[named.CHECKPOINTS_VERIFIED].labels(**self.labels, result=result).inc(beginning.verified.get(result, 0))
        self.exposition = self._serve(events)
        self.failed = False
        """Whether a fault was counted, which ends the run."""

    def _serve(self, events: Events) -> Exposition:
        address = os.environ.get(ADDRESS_VARIABLE, "127.0.0.1")
        wanted = int(os.environ.get(PORT_VARIABLE, "0"))
        try:
            exposition = Exposition(self.registry, address, wanted)
        except OSError as error:
            events.warning(f"metrics: port {wanted} cannot be used ({error.strerror}); taking a free one")
            exposition = Exposition(self.registry, address, 0)
        port = exposition.port
        events.info(f"metrics at http://{address}:{port}/metrics", metrics_port=port)
        return exposition

    def step(self, measures: StepMeasures) -> None:
        speed = measures.tokens_per_second
        self.last_step.set(measures.step)
        self.last_step_timestamp.set(measures.time)
        self.loss.set(measures.loss)
        self.learning_rate.set(measures.learning_rate)
        self.gradient_norm.set(measures.grad_norm)
        self.tokens.inc(measures.tokens)
        self.trained_tokens.set(measures.tokens * measures.step)
        self.tokens_per_second.set(speed)
        self.step_seconds.observe(measures.seconds)
        self.data_wait_seconds.observe(measures.data_wait_seconds)
        self.checkpoint_interval.set(self.beginning.checkpoint_steps * self.account.step_seconds)
        if measures.skipped:
            self.skipped_steps.inc(measures.skipped)
        if self.beginning.full_speed is not None:
            self.mfu.set(speed / self.beginning.full_speed)

    def nonfinite(self, measures: NonfiniteStep) -> None:
        self.nonfinite_steps.inc()
        self.last_step.set(measures.step)
        self.failed = measures.last

    def spike(self, measures: LossSpike) -> None:
        self.loss_spikes.inc()

    def validation(self, measures: ValidationMeasures) -> None:
        self.validation_loss.set(measures.loss)

    def checkpoint(self, measures: CheckpointMeasures) -> None:
        self.checkpoint_seconds.observe(measures.seconds)
        self.checkpoint_commit_seconds.observe(measures.commit_seconds)
        self.checkpoint_bytes.set(measures.bytes)
        self.checkpoint_step.set(measures.step)
        self.checkpoint_timestamp.set(measures.time)

    def checkpoint_failed(self, failure: CheckpointFailure) -> None:
        self.checkpoint_failures.inc()
        self.failed = failure.tries_left == 0

    def checkpoint_waited(self, step: int, seconds: float) -> None:
        self.checkpoint_wait_seconds.inc(seconds)

    def close(self) -> None:
        if self.failed:
            self.exposition.wait_until_read()
        self.exposition.close()


class _Later:
    """A gauge whose series begins with its first value."""

    def __init__(self, gauge: Any, labels: Mapping[str, str]) -> None:
        self._gauge, self._labels = gauge, labels
        self._series: Any = None

    def set(self, value: float) -> None:
        if self._series is None:
            self._series = self._gauge.labels(**self._labels)
        self._series.set(value)


class _Seconds:
    """The account as counters, asked for when they are read."""

    def __init__(self, account: Account, metadata: Metadata) -> None:
        self._account, self._labels = account, (metadata.namespace, metadata.name)

    def collect(self) -> Iterator[Family]:
        family = named.SECONDS.family()
        for state, seconds in self._account.seconds().items():
            family.add_metric((*self._labels, state), seconds)
        yield family
