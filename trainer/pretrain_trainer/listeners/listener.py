"""What a run measures, and what somebody who is told of it offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepMeasures:
    """One optimizer step. `step` counts finished steps, so the first is 1; the norm is before clipping."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    data_wait_seconds: float
    time: float = 0.0
    """Unix time at which it ended."""
    skipped: int = 0
    """Updates that were left out in it, for a gradient that overflowed."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class NonfiniteStep:
    """A step whose loss or gradient was not a finite number."""

    step: int
    learning_rate: float
    what: str
    """What was not a number, and what it was."""
    in_a_row: int
    """Such steps one after the other, this one included."""
    last: bool
    """Whether it ends the run."""


@dataclass(frozen=True)
class LossSpike:
    """A step whose loss stands far above those before it, the first of its spike."""

    step: int
    loss: float
    level: float
    """What it was compared with."""
    learning_rate: float


@dataclass(frozen=True)
class ValidationMeasures:
    """What was measured on what is held out, after `step` steps: the loss in nats per target, and more by name."""

    step: int
    loss: float
    perplexity: float | None = None
    """Of a model that says how likely a text is; others have none."""
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointMeasures:
    """A committed checkpoint. It was made behind the steps that followed it."""

    step: int
    seconds: float
    """That training stood still for it."""
    bytes: int
    commit_seconds: float = 0.0
    """From when it was due until it was committed."""
    time: float = 0.0
    """Unix time of that."""


@dataclass(frozen=True)
class CheckpointFailure:
    """A checkpoint that could not be saved."""

    step: int
    reason: str
    tries_left: int = 0
    """How many more may fail before the run ends; 0 if it ends now."""


class Listener:
    """Somebody who is told what a run measures; what a listener does not care for, it leaves as it is here."""

    def step(self, measures: StepMeasures) -> None:
        """A step was taken. Must return within microseconds: the next step waits."""

    def nonfinite(self, measures: NonfiniteStep) -> None:
        """The loss or gradient of a step was not a number; its update was left out."""

    def spike(self, measures: LossSpike) -> None:
        """The loss stands out."""

    def validation(self, measures: ValidationMeasures) -> None:
        """The model was validated."""

    def checkpoint(self, measures: CheckpointMeasures) -> None:
        """A checkpoint was committed."""

    def checkpoint_failed(self, failure: CheckpointFailure) -> None:
        """A checkpoint could not be saved."""

    def checkpoint_waited(self, step: int, seconds: float) -> None:
        """The checkpoint of `step` was due, but training waited for the one before it, which was still on its way to storage."""

    def publish(self) -> Callable[[], None] | None:
        """Makes ready what should be in storage, as it is now; what is returned brings it there, and may be called by another thread.

        Called at checkpoints and at the end.
        """
        return None

    def close(self) -> None:
        """The run is over, finished or not."""
