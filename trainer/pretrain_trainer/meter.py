"""What a step measured, agreed on by all processes and told to whoever listens, without holding up the next step.

The sum of a step's losses and the wish to stop travel in one small all-reduce, which is started when the step ends and
read when the next one has ended. So a step never waits for a number, and all processes learn of a wish to stop after the
same step.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from pretrain_stage.errors import UserError
from torch import Tensor

from pretrain_trainer.account import Account, FurthestStep
from pretrain_trainer.listeners.listener import (
    CheckpointFailure,
    CheckpointMeasures,
    Listener,
    LossSpike,
    NonfiniteStep,
    StepMeasures,
    ValidationMeasures,
)
from pretrain_trainer.saver import Failed, Saved
from pretrain_trainer.snapshot import Resume
from pretrain_trainer.watch.spikes import Spikes

MOST_NONFINITE = 3
"""So many steps in a row that are no numbers are no accident, and end the run."""


class StopRequest:
    """Whether this process was asked to stop. Once made, it turns SIGTERM and SIGINT into no more than a note of it."""

    def __init__(self) -> None:
        self.made = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, signum: int, frame: object) -> None:
        self.made = True


class Sums:
    """Loss and wish to stop, summed over all processes, and the gradient's norm: on their way to this process."""

    def __init__(self, loss: Tensor, stop: bool, grad_norm: float | Tensor) -> None:
        self.values = torch.empty(3, dtype=torch.float64, device=loss.device)
        self.values[0], self.values[1], self.values[2] = loss, float(stop), grad_norm
        self.work = dist.all_reduce(self.values[:2], async_op=True)
        if loss.is_cuda:
            # The copy waits on the device, behind the sum; reading it later waits for it alone, not for the next step.
            self.work.wait()
            self.host = torch.empty(3, dtype=torch.float64, pin_memory=True)
            self.host.copy_(self.values, non_blocking=True)
            self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.copied.record()

    def read(self) -> tuple[float, bool, float]:
        """The loss, whether any process wants to stop, norm of the gradient."""
        if self.values.is_cuda:
            self.copied.synchronize()
            loss, stops, norm = self.host.tolist()
        else:
            self.work.wait()
            loss, stops, norm = self.values.tolist()
        return loss, stops > 0, norm


@dataclass(frozen=True)
class Taken:
    """A step that was taken: this process's share of its mean loss, in nats, fp64, on its device."""

    step: int
    loss: Tensor
    learning_rate: float
    grad_norm: float | Tensor
    """Before clipping, the same on all processes."""
    data_wait_seconds: float
    skipped: int = 0
    """Updates that the engine left out in it."""


@dataclass(frozen=True)
class _Pending:
    """A step whose sums are on their way."""

    taken: Taken
    sums: Sums
    seconds: float
    ended: float
    """Unix time."""


class Meter:
    """Measures steps, from the beginning or from `resume` on. All processes call it alike; those with listeners tell."""

    def __init__(
        self,
        step_tokens: int,
        listeners: Sequence[Listener],
        account: Account,
        resume: Resume | None = None,
        furthest: FurthestStep | None = None,
        learning_rate_field: str = "training.optimizer.learningRate",
    ) -> None:
        """learning_rate_field: what the user calls the learning rate, for the message about a loss that is no number."""
        self.step_tokens, self.listeners, self.account, self.furthest = step_tokens, listeners, account, furthest
        self.learning_rate_field = learning_rate_field
        self.measures = dict(resume.manifest.measures) if resume else {}
        """The last loss and validation loss, by name."""
        self.saved = resume.manifest.folder if resume else None
        """The checkpoint that was committed last, as far as is known."""
        self.arriving: Callable[[], None] = lambda: None
        """Waits for one that is on its way, and tells of it."""
        self.stop = False
        """Whether any process wants to stop."""
        self.nonfinite = 0
        """Steps in a row, up to the last that is known of, whose loss or gradient was not a number."""
        self.spikes: Spikes | None = None
        """Finds losses that stand out, if they are looked for."""
        self.spike: tuple[int, int] | None = None
        """First and last step of the spike that was seen last."""
        self._pending: _Pending | None = None
        self._clock = time.monotonic()

    def step(self, taken: Taken, request: StopRequest) -> None:
        """Takes note of a step, and tells of the one before."""
        now = time.monotonic()
        sums = Sums(taken.loss, request.made, taken.grad_norm)
        self.settle()
        self._pending = _Pending(taken, sums, now - self._clock, time.time())
        self._clock = now

    def settle(self) -> None:
        """Tells of the step that was taken last. Raises UserError if its loss or gradient is the third in a row that is no number."""
        if self._pending is None:
            return
        taken, seconds, ended = self._pending.taken, self._pending.seconds, self._pending.ended
        loss, self.stop, norm = self._pending.sums.read()
        self._pending = None
        self.account.took(seconds)
        if self.furthest is not None:
            self.furthest.note(taken.step)
        # DeepSpeed writes -1 for a norm that is not a number.
        if not math.isfinite(loss) or not math.isfinite(norm) or norm < 0:
            self._left_out(taken, loss, norm)
            return
        self.nonfinite = 0
        self.measures["loss"] = loss
        self._look_for_spikes(taken, loss)
        measures = StepMeasures(
            step=taken.step,
            loss=loss,
            learning_rate=taken.learning_rate,
            grad_norm=norm,
            tokens=self.step_tokens,
            seconds=seconds,
            data_wait_seconds=taken.data_wait_seconds,
            time=ended,
            skipped=taken.skipped,
        )
        for listener in self.listeners:
            listener.step(measures)

    def begins(self) -> None:
        """The next step begins: what was since the last belongs to none."""
        self._clock = time.monotonic()

    def validation(self, step: int, measured: Mapping[str, float]) -> None:
        """Tells of a validation: its measures by name, of which `validation_loss` is one."""
        self.settle()
        self.measures |= measured
        told = ValidationMeasures(step, measured["validation_loss"], measured.get("perplexity"), dict(measured))
        for listener in self.listeners:
            listener.validation(told)
        self._clock = time.monotonic()

    def checkpoint(self, saved: Saved) -> None:
        """Tells of a checkpoint that was committed, behind the steps since."""
        manifest = saved.manifest
        self.saved = manifest.folder
        told = CheckpointMeasures(manifest.step, saved.stall_seconds, manifest.size, saved.seconds, saved.time)
        for listener in self.listeners:
            listener.checkpoint(told)

    def checkpoint_failed(self, failed: Failed) -> None:
        """Tells of a checkpoint that disk or storage failed. A lost peer is no failure of the checkpoint's."""
        for listener in self.listeners:
            listener.checkpoint_failed(CheckpointFailure(failed.step, str(failed.error), failed.tries_left))

    def checkpoint_waited(self, step: int, seconds: float) -> None:
        """Tells that training had to wait until the checkpoint of `step` could be begun."""
        for listener in self.listeners:
            listener.checkpoint_waited(step, seconds)

    def publish(self) -> Callable[[], None]:
        """Makes ready what was told until now; what is returned brings it to storage, and may be called by another thread."""
        ready = [bring for listener in self.listeners if (bring := listener.publish()) is not None]

        def bring_all() -> None:
            for bring in ready:
                bring()

        return bring_all

    def close(self) -> None:
        """Ends the listeners. What was told since the last time has not been brought to storage."""
        for listener in self.listeners:
            listener.close()

    def _look_for_spikes(self, taken: Taken, loss: float) -> None:
        if self.spikes is None:
            return
        level = self.spikes.level
        if self.spikes.see(loss):
            goes_on = self.spikes.steps > 1 and self.spike is not None
            self.spike = (self.spike[0] if goes_on and self.spike else taken.step), taken.step
            if not goes_on:
                for listener in self.listeners:
                    listener.spike(LossSpike(taken.step, loss, level, taken.learning_rate))

    def _left_out(self, taken: Taken, loss: float, norm: float) -> None:
        """Tells of a step whose update the engine left out, on all processes alike (engine.py)."""
        self.nonfinite += 1
        what = f"loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {math.nan if norm < 0 else norm}"
        last = self.nonfinite == MOST_NONFINITE
        for listener in self.listeners:
            listener.nonfinite(NonfiniteStep(taken.step, taken.learning_rate, what, self.nonfinite, last))
        if last:
            raise self._diverged(taken, what)

    def _diverged(self, taken: Taken, what: str) -> UserError:
        self.arriving()
        kept = f"{self.saved} is the last good checkpoint" if self.saved else "there is no checkpoint yet"
        return UserError(
            f"spec.{self.learning_rate_field}: {taken.learning_rate:g} at step {taken.step}: {what}, the {MOST_NONFINITE}rd time in a "
            f"row, so training cannot go on; "
            f"{kept}. Lower the learning rate or lengthen the warm-up, and start again"
        )
