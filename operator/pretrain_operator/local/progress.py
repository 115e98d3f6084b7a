"""The state of a run, folded from events. Pure: no clock, no terminal, no process.

Two kinds of events come in: what stage programs say (pretrain_stage.events), and `stage` events of the engine, which
tell that a stage was started or has ended. `now` is the engine's monotonic clock, so that no change of the wall clock
and no program's own clock can make a time negative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pretrain_stage.manifest import Counts, Manifest, add_counts

if TYPE_CHECKING:  # views of a run need no torchx
    from pretrain_operator.stages import Stage

Word = Literal["waiting", "running", "stopping", "done", "unchanged", "failed", "stopped"]

PACE_SECONDS = 300.0
"""How slowly an estimate of the remaining time forgets: a pause of some seconds for a validation hardly moves it."""

LOSSES = 256
"""Most points of the loss curve that are kept."""

WARNINGS = 5
"""Warnings that are kept; earlier ones are in the log files."""


@dataclass(frozen=True)
class Pace:
    """How much is done a second: the plain average at first, then one that forgets over PACE_SECONDS."""

    since: float
    at: float
    done: float
    rate: float | None = None

    def moved(self, done: float, now: float) -> Pace:
        """The pace after `done` was reached at `now`. Work that shrinks (a total was corrected) says nothing about it."""
        if done < self.done:
            return replace(self, at=max(now, self.at), done=done)
        if now <= self.at:
            return self
        elapsed = now - self.at
        weight = max(elapsed / (now - self.since), 1 - math.exp(-elapsed / PACE_SECONDS))
        before = self.rate or 0.0
        return Pace(self.since, now, done, before + weight * ((done - self.done) / elapsed - before))

    def remaining(self, total: float) -> float | None:
        """Seconds from `at` until `total`, at least 0; None while nothing is known. Does not count down by itself: where
        nothing moves for a while, the end does not come nearer.
        """
        return max(0.0, (total - self.done) / self.rate) if self.rate else None


@dataclass(frozen=True)
class Task:
    """How far one task of a stage is."""

    done: float
    total: float | None
    unit: str
    read: int = 0
    """Documents read and kept so far, if the stage counts documents."""
    kept: int = 0

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


@dataclass(frozen=True)
class Training:
    """What the trainer last said."""

    step: int
    steps: int
    loss: float | None = None
    validation_loss: float | None = None
    perplexity: float | None = None
    tokens_per_second: float | None = None
    checkpoint: int | None = None
    """Step of the newest checkpoint."""
    losses: tuple[float, ...] = ()
    every: int = 1
    """The curve holds the loss of each so many steps said."""
    said: int = 0


@dataclass(frozen=True)
class StageState:
    """One stage of a run."""

    name: str
    tasks: int = 1
    word: Word = "waiting"
    started: float | None = None
    ended: float | None = None
    running: Mapping[int, Task] = field(default_factory=dict)
    finished: int = 0
    """Tasks that have given their result."""
    unchanged: int = 0
    """Those of them that had been done before."""
    done: float = 0.0
    """Work of finished tasks, in `unit`."""
    unit: str = ""
    pace: Pace | None = None
    counts: Counts = field(default_factory=Counts)
    facts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    """What the programs last told."""
    training: Training | None = None

    @property
    def worked(self) -> bool:
        """Whether anything was done that had not been done before."""
        return self.unchanged < max(1, self.finished) and self.name != "preflight"  # which looks, and leaves nothing

    @property
    def active(self) -> bool:
        return self.word in ("running", "stopping")

    def elapsed(self, now: float) -> float | None:
        """Seconds since the start, until the end if there is one."""
        return None if self.started is None else (self.ended if self.ended is not None else now) - self.started

    @property
    def fraction(self) -> float | None:
        """Share of the work that is done; None if it cannot be known."""
        if self.training is not None:
            return min(1.0, self.training.step / self.training.steps) if self.training.steps else None
        if any(task.total is None for task in self.running.values()):
            return None
        return (self.finished + sum(task.fraction for task in self.running.values())) / self.tasks

    @property
    def remaining(self) -> float | None:
        """Seconds left, at least 0; None while it cannot be known."""
        if self.word != "running" or self.pace is None or self.fraction is None:
            return None
        return self.pace.remaining(self.training.steps if self.training else self.tasks - self.unchanged)


@dataclass(frozen=True)
class Warned:
    """A warning that a stage's programs gave, and how often."""

    stage: str
    message: str
    times: int = 1


@dataclass(frozen=True)
class RunState:
    """A run of a job on this machine."""

    job: str
    stages: tuple[StageState, ...]
    started: float
    now: float
    warnings: tuple[Warned, ...] = ()
    goodput: Mapping[str, float] = field(default_factory=dict)
    """Seconds in each state of the job's ledger, those of earlier runs too."""

    def stage(self, name: str) -> StageState:
        return next(stage for stage in self.stages if stage.name == name)


def begin(job: str, stages: Iterable[Stage], now: float) -> RunState:
    """The state before anything runs."""
    return RunState(job, tuple(StageState(stage.name, stage.tasks) for stage in stages), now, now)


def apply(state: RunState, event: Mapping[str, Any], now: float) -> RunState:
    """The state after an event. An event of a stage that is not in the plan, or of an unknown kind, changes only the time."""
    state = tick(state, now)
    name = event.get("stage")
    if not any(stage.name == name for stage in state.stages):
        return state
    if event.get("event") == "warning" or (event.get("event") == "error" and "exit_code" not in event):
        # An error with an exit code ends its program, and is told as the reason why the stage failed.
        state = replace(state, warnings=_warned(state.warnings, str(name), str(event.get("message", ""))))
    return replace(
        state, stages=tuple(_apply(stage, event, state.now) if stage.name == name else stage for stage in state.stages)
    )


def tick(state: RunState, now: float) -> RunState:
    """The state when nothing has happened but time."""
    return replace(state, now=max(state.now, now))


def book(state: RunState, seconds: Mapping[str, float]) -> RunState:
    """The state with the job's ledger."""
    return replace(state, goodput=seconds)


def close(state: RunState, stage: str, manifest: Manifest) -> RunState:
    """The state with what the stage's manifest says: the sums over all tasks, those of earlier runs too."""
    return replace(
        state,
        stages=tuple(
            replace(known, counts=manifest.counts, facts=manifest.facts) if known.name == stage else known
            for known in state.stages
        ),
    )


def _apply(stage: StageState, event: Mapping[str, Any], now: float) -> StageState:
    match event.get("event"):
        case "stage":
            return replace(_turned(stage, event["state"], now), note=event.get("note") or stage.note)
        case "progress":
            return _progressed(stage, event, now)
        case "step":
            return _stepped(stage, event, now)
        case "validation" if stage.training is not None:
            return replace(
                stage,
                training=replace(
                    stage.training,
                    validation_loss=_number(event, "loss"),
                    perplexity=_number(event, "perplexity"),
                ),
            )
        case "checkpoint" if stage.training is not None:
            return replace(stage, training=replace(stage.training, checkpoint=int(_number(event, "step") or 0)))
        case "result":
            return _resulted(stage, event, now)
        case "info":
            return replace(stage, note=str(event.get("message", "")))
        case _:
            return stage


def _turned(stage: StageState, word: Word, now: float) -> StageState:
    """The engine started or ended the stage, or asks it to stop."""
    match word:
        case "running":
            return replace(stage, word=word, started=now)
        case "stopping":
            return replace(stage, word=word)
        case "done" if stage.unchanged and stage.unchanged == stage.finished:
            return replace(stage, word="unchanged", ended=now, running={})
        case _:
            return replace(stage, word=word, ended=now, running={})


def _progressed(stage: StageState, event: Mapping[str, Any], now: float) -> StageState:
    done = _number(event, "done")
    if done is None:
        return stage
    task = Task(
        done,
        _number(event, "total"),
        str(event.get("unit", "")),
        read=int(_number(event, "read") or 0),
        kept=int(_number(event, "kept") or 0),
    )
    running = {**stage.running, _index(event): task}
    return _paced(replace(stage, running=running, unit=task.unit), now)


def _stepped(stage: StageState, event: Mapping[str, Any], now: float) -> StageState:
    step, steps = _number(event, "step"), _number(event, "steps")
    if step is None or steps is None:
        return stage
    before = stage.training or Training(0, 0)
    training = replace(
        before,
        step=int(step),
        steps=int(steps),
        loss=_number(event, "loss"),
        tokens_per_second=_number(event, "tokens_per_second"),
    )
    pace = stage.pace.moved(step, now) if stage.pace else Pace(now, now, step)
    return replace(stage, training=_drawn(training), pace=pace)


def _drawn(training: Training) -> Training:
    """The training with its newest loss in the curve; a full curve drops every second point."""
    if training.loss is None or not math.isfinite(training.loss):
        return training
    said = training.said + 1
    if (said - 1) % training.every:
        return replace(training, said=said)
    losses = (*training.losses, training.loss)
    if len(losses) <= LOSSES:
        return replace(training, said=said, losses=losses)
    return replace(training, said=said, losses=losses[::2], every=training.every * 2)


def _resulted(stage: StageState, event: Mapping[str, Any], now: float) -> StageState:
    """A task is finished. Its progress becomes part of the stage's."""
    index = _index(event)
    task = stage.running.get(index)
    counts, facts = event.get("counts"), event.get("facts")
    return _paced(
        replace(
            stage,
            running={key: value for key, value in stage.running.items() if key != index},
            finished=min(stage.tasks, stage.finished + 1),
            unchanged=min(stage.tasks, stage.unchanged + (event.get("unchanged") is True)),
            done=stage.done + (task.done if task else 0.0),
            counts=add_counts([stage.counts, Counts.model_validate(counts)]) if counts else stage.counts,
            facts={**stage.facts, **facts} if isinstance(facts, dict) else stage.facts,
            note=str(event.get("message", "")),
        ),
        now,
    )


def _paced(stage: StageState, now: float) -> StageState:
    """The stage with its pace in tasks, from its start on: the first progress of a process tells of work done since then.
    Tasks that had been done before say nothing about how fast work goes.
    """
    if stage.training is not None:
        return stage
    worked = stage.finished - stage.unchanged + sum(task.fraction for task in stage.running.values())
    since = now if stage.started is None else stage.started
    return replace(stage, pace=(stage.pace or Pace(since, since, 0.0)).moved(worked, now))


def _warned(warnings: tuple[Warned, ...], stage: str, message: str) -> tuple[Warned, ...]:
    """The last warnings, each once."""
    same = next((old for old in warnings if (old.stage, old.message) == (stage, message)), None)
    times = 1 if same is None else same.times + 1
    return (*(old for old in warnings if old is not same), Warned(stage, message, times))[-WARNINGS:]


def _index(event: Mapping[str, Any]) -> int:
    return int(_number(event, "index") or 0)


def _number(event: Mapping[str, Any], key: str) -> float | None:
    value = event.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
