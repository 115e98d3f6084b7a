"""A run's measures for those who keep them elsewhere: TensorBoard's files, MLflow, Weights & Biases.

None of them can slow or stop a step. A step leaves its measures in a list; a thread of each tracker's own takes them from
there every few seconds. What cannot be sent is kept and tried again while there is room; what finds no room is lost, which
is said once. Whatever a tracker does wrong is a warning.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pretrain_stage.errors import StorageError
from pretrain_stage.events import Events
from pretrain_stage.storage import Storage

from pretrain_trainer.config.sections import MLflow, WeightsAndBiases
from pretrain_trainer.listeners.listener import CheckpointMeasures, Listener, StepMeasures, ValidationMeasures
from pretrain_trainer.plan import RunPlan

STEP_SECONDS = 1.0
"""Trackers are told of steps at most so often: shorter ones would keep their threads in the way of training."""
SEND_SECONDS, RETRY_SECONDS = 2.0, 20.0
"""Between two sendings, and after one that failed."""
CLOSE_SECONDS = 5.0
"""How long the end of the run waits for the rest to be sent."""
MOST_POINTS = 10_000
"""That wait to be sent."""


@dataclass(frozen=True)
class Point:
    """What was measured after a step, by name. time: Unix."""

    step: int
    time: float
    values: dict[str, float]


class Tracker(Protocol):
    """Whoever keeps measures. It is called by one thread, which may wait in it, and may raise anything."""

    FIELD: str
    """That asks for it."""

    def begin(self) -> None:
        """Makes the run, or takes it up again. Called until it succeeds."""
        ...

    def send(self, points: Sequence[Point]) -> None:
        """Sends points: all, or if it raises, perhaps some of them."""
        ...

    def end(self, finished: bool) -> None:
        """Ends the run. finished: whether it took all its steps."""
        ...

    def files(self) -> Sequence[tuple[Path, str]]:
        """Files for storage, each with its path there."""
        ...


def trackers(storage: Storage, plan: RunPlan, scratch: Path, done: int, events: Events) -> list[Listener]:
    """The trackers that the job asks for, of a run that goes on after `done` steps; a warning of each that is not installed."""
    training = plan.job.spec.training
    asked = training.tracking
    made: list[Listener] = []
    if training.tensorboard:
        made.append(Tracking(tensorboard(scratch, done), storage, plan.batch.steps, events, step_seconds=0.0))
    if asked is not None and asked.mlflow is not None:
        made.append(Tracking(mlflow(asked.mlflow, plan), storage, plan.batch.steps, events))
    if asked is not None and asked.wandb is not None:
        try:
            made.append(Tracking(wandb(asked.wandb, plan, scratch), storage, plan.batch.steps, events))
        except ImportError as error:
            events.warning(
                f"training.tracking.wandb: not told of this run: {error}; install pretrain-operator[tracking], in a cluster "
                "build the trainer's image with EXTRA=tracking (docs/tracking.md)"
            )
    return made


def tensorboard(scratch: Path, done: int) -> Tracker:
    from pretrain_trainer.listeners.tensorboard import TensorBoardFile

    return TensorBoardFile(scratch, done)


def mlflow(section: MLflow, plan: RunPlan) -> Tracker:
    from pretrain_trainer.listeners.mlflow import MLflowRun

    return MLflowRun(section, plan)


def wandb(section: WeightsAndBiases, plan: RunPlan, scratch: Path) -> Tracker:
    """Raises ImportError if the package is missing."""
    from pretrain_trainer.listeners.wandb import WandbRun

    return WandbRun(section, plan, scratch)


class Tracking(Listener):
    """Brings points to a tracker, in a thread of its own. steps: that the whole run has."""

    def __init__(
        self, tracker: Tracker, storage: Storage, steps: int, events: Events, step_seconds: float | None = None
    ) -> None:
        self.tracker, self.storage, self.steps, self.events = tracker, storage, steps, events
        self.step_seconds = STEP_SECONDS if step_seconds is None else step_seconds
        self.waiting: deque[Point] = deque()
        self.lost = 0
        """Points that found no room."""
        self.told_at, self.last_step = float("-inf"), 0
        self.closing = threading.Event()
        self.warned: set[str] = set()
        self.thread = threading.Thread(target=self._run, name=f"{tracker.FIELD}", daemon=True)
        self.thread.start()

    def step(self, measures: StepMeasures) -> None:
        self.last_step = measures.step
        now = time.monotonic()
        if now - self.told_at < self.step_seconds and measures.step != self.steps:
            return
        self.told_at = now
        values = {
            "training/loss": measures.loss,
            "training/learning_rate": measures.learning_rate,
            "training/grad_norm": measures.grad_norm,
            "training/tokens_per_second": measures.tokens_per_second,
            "training/tokens": float(measures.tokens * measures.step),
        }
        self._leave(Point(measures.step, measures.time, values))

    def validation(self, measures: ValidationMeasures) -> None:
        values = {f"validation/{name.removeprefix('validation_')}": value for name, value in measures.measures.items()}
        values["validation/loss"] = measures.loss
        if measures.perplexity is not None:
            values["validation/perplexity"] = measures.perplexity
        self._leave(Point(measures.step, time.time(), values))

    def checkpoint(self, measures: CheckpointMeasures) -> None:
        values = {
            "checkpoint/seconds": measures.seconds,
            "checkpoint/commit_seconds": measures.commit_seconds,
            "checkpoint/bytes": float(measures.bytes),
        }
        self._leave(Point(measures.step, measures.time, values))

    def publish(self) -> Callable[[], None]:
        return self._upload

    def close(self) -> None:
        self.closing.set()
        self.thread.join(CLOSE_SECONDS)
        unsent = len(self.waiting) + self.lost
        if self.thread.is_alive() or unsent:
            self._warn("end", f"did not finish within {CLOSE_SECONDS:g} s; {unsent} of its points were not sent")
        self._upload()

    def _upload(self) -> None:
        for path, name in self.tracker.files():
            try:
                self.storage.upload(path, name)
            except StorageError as error:
                self._warn("storage", f"its files are not in storage: {error}")

    def _leave(self, point: Point) -> None:
        if len(self.waiting) < MOST_POINTS:
            self.waiting.append(point)
            return
        self.lost += 1
        self._warn("full", f"{MOST_POINTS} points wait to be sent; those that come now are lost, and training goes on")

    def _run(self) -> None:
        """The thread: begins, then sends what waits until the run is over."""
        if not self._tried(self.tracker.begin):
            return
        while not self.closing.wait(SEND_SECONDS):
            if not self._tried(self._send):
                return
        if self._tried(self._send):
            self._tried(lambda: self.tracker.end(self.last_step == self.steps))

    def _send(self) -> None:
        points = list(self.waiting)
        if points:
            self.tracker.send(points)
        for _ in points:
            self.waiting.popleft()

    def _tried(self, action: Callable[[], None]) -> bool:
        """Does it, again and again until it succeeds; gives up, and returns False, when the run is over meanwhile."""
        while True:
            try:
                action()
                return True
            except Exception as error:
                what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                self._warn("call", f"{what}; training goes on, and what waits is tried again")
            if self.closing.is_set() or self.closing.wait(RETRY_SECONDS):
                return False

    def _warn(self, about: str, message: str) -> None:
        """Said once of each thing that can go wrong."""
        if about not in self.warned:
            self.warned.add(about)
            self.events.warning(f"{self.tracker.FIELD}: {message}")
