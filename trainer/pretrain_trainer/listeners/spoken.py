"""A run's measures as events on standard output."""

from __future__ import annotations

import time

from pretrain_stage.events import Events

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

SAY_SECONDS = 1.0


class SpokenEvents(Listener):
    """Events: steps at most once a second, everything else always."""

    def __init__(self, events: Events, steps: int, first_step: int, account: Account) -> None:
        self.events, self.steps, self.first_step, self.account = events, steps, first_step, account
        self.said_at = float("-inf")
        self.tokens, self.seconds = 0, 0.0

    def step(self, measures: StepMeasures) -> None:
        if measures.step == self.first_step + 1:
            self._say_started()
        self.tokens += measures.tokens
        self.seconds += measures.seconds
        now = time.monotonic()
        if now - self.said_at < SAY_SECONDS and measures.step not in (self.first_step + 1, self.steps):
            return
        self.said_at = now
        rate = self.tokens / self.seconds
        self.tokens, self.seconds = 0, 0.0
        self.events.say(
            "step",
            f"step {measures.step} of {self.steps}, loss {measures.loss:.4f}, {rate:,.0f} tokens/s",
            step=measures.step,
            steps=self.steps,
            loss=measures.loss,
            learning_rate=measures.learning_rate,
            grad_norm=measures.grad_norm,
            tokens=measures.tokens * measures.step,
            tokens_per_second=rate,
            eta_seconds=(self.steps - measures.step) * self.account.step_seconds,
            seconds=self.account.rounded(),
        )

    def nonfinite(self, measures: NonfiniteStep) -> None:
        self.events.warning(
            f"step {measures.step}: {measures.what}; its update was left out, weights are as before ({measures.in_a_row} in a row)",
            step=measures.step,
            learning_rate=measures.learning_rate,
            in_a_row=measures.in_a_row,
        )

    def spike(self, measures: LossSpike) -> None:
        self.events.warning(
            f"step {measures.step}: its loss is {measures.loss:.4f}, far above the {measures.level:.4f} of those before; look at its "
            "documents (pretrain trace) and at training.faults.lossSpike",
            step=measures.step,
            loss=measures.loss,
            level=measures.level,
            learning_rate=measures.learning_rate,
        )

    def validation(self, measures: ValidationMeasures) -> None:
        more = "" if measures.perplexity is None else f", perplexity {measures.perplexity:.2f}"
        message = f"validation at step {measures.step}: loss {measures.loss:.4f}{more}"
        self.events.say("validation", message, **vars(measures))

    def checkpoint(self, measures: CheckpointMeasures) -> None:
        message = (
            f"checkpoint of step {measures.step}: {measures.bytes:,} bytes, committed {measures.commit_seconds:.1f} s later; training "
            f"stood still for {measures.seconds:.3f} s"
        )
        fields = {name: value for name, value in vars(measures).items() if name != "time"}
        self.events.say("checkpoint", message, **fields)

    def checkpoint_failed(self, failure: CheckpointFailure) -> None:
        if failure.tries_left:
            self.events.warning(
                f"the checkpoint of step {failure.step} was not saved: {failure.reason}. Training goes on, and the next checkpoint is the "
                f"next try; if {'it fails' if failure.tries_left == 1 else f'{failure.tries_left} in a row fail'} too, the run ends",
                step=failure.step,
                tries_left=failure.tries_left,
            )

    def checkpoint_waited(self, step: int, seconds: float) -> None:
        self.events.warning(
            f"the checkpoint of step {step} was due, and training waited {seconds:.1f} s for the one before it: storage is slower than "
            "the interval between checkpoints; raise training.checkpoints.everySteps, or the storage's throughput",
            step=step,
            waited_seconds=seconds,
        )

    def _say_started(self) -> None:
        """What this start cost, from the process to the end of its first step."""
        parts = {part: round(seconds, 3) for part, seconds in self.account.parts.items()}
        told = ", ".join(f"{part.replace('_', ' ')} {seconds:.1f} s" for part, seconds in parts.items())
        self.events.say("started", f"first step after {sum(parts.values()):.1f} s: {told}", parts=parts)
