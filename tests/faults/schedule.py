"""Schedules of faults: data, and how a seed becomes one. Pure: the same seed gives the same schedule everywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Phase = Literal["step", "save", "upload"]
"""When in a step a fault comes: while it computes, after it when its checkpoint is written, or while a file of that goes up."""

Process = Literal["rank 0", "rank 1", "launcher", "all"]

PHASES: tuple[Phase, ...] = ("step", "save", "upload")
PROCESSES: tuple[Process, ...] = ("rank 0", "rank 1", "launcher", "all")


@dataclass(frozen=True)
class Moment:
    """When a fault comes. step: of the training, from 1; of the phases save and upload a step that has a checkpoint."""

    step: int
    phase: Phase
    part: float
    """How far in the phase, from 0 up to 1: of a step's time, of a save's, or of the bytes of the file that goes up."""


@dataclass(frozen=True)
class Kill:
    """SIGKILL. The runner starts the group again."""

    at: Moment
    process: Process


@dataclass(frozen=True)
class Stop:
    """SIGSTOP of a rank, which then neither answers nor ends. Who watches the group has to end it."""

    at: Moment
    process: Process


@dataclass(frozen=True)
class LeftBehind:
    """The group is stopped, and goes on `seconds` after the first step of the one that was started in its place: a node that was lost
    and comes back. It may commit nothing any more."""

    at: Moment
    seconds: float


@dataclass(frozen=True)
class Damage:
    """All processes are killed, and the newest committed checkpoint is damaged before the next start."""

    at: Moment
    how: Literal["flip", "truncate", "remove", "swap"]
    file: float
    """Which of its files, from 0 up to 1 in the order of their names."""
    part: float
    """Where in the file."""


@dataclass(frozen=True)
class Weather:
    """Storage is not well for some seconds. Several may come at once."""

    at: Moment
    seconds: float
    latency: float = 0.0
    """Seconds before each request goes on."""
    errors: float = 0.0
    """Share of the requests that are answered 503; of every second one of them after it was carried out."""
    resets: float = 0.0
    """Share of the requests whose connection is reset in the middle of their body."""
    away: bool = False
    """Nobody answers: connections are reset at once."""


Fault = Kill | Stop | LeftBehind | Damage | Weather
Schedule = tuple[Fault, ...]
"""In the order of their steps."""


def kills(seed: int, count: int, steps: int, interval: int) -> Schedule:
    """`count` SIGKILLs spread over a training of that many steps with a checkpoint each `interval`: as many in each phase.

    At most one between two checkpoints, so that each start comes further than the one before it. Raises ValueError if there are
    fewer checkpoints than that.
    """
    saves = range(interval, steps, interval)
    if count > len(saves):
        raise ValueError(
            f"{count} kills need as many checkpoints before the last; {steps} steps at each {interval} have {len(saves)}"
        )
    drawn = random.Random(seed)
    phases = [PHASES[number % len(PHASES)] for number in range(count)]
    drawn.shuffle(phases)
    found: list[Fault] = []
    for save, phase in zip(sorted(drawn.sample(saves, count)), phases, strict=True):
        step = save if phase != "step" else save + drawn.randrange(1, interval)
        found.append(Kill(Moment(step, phase, drawn.random()), drawn.choice(PROCESSES)))
    return in_order(found)


def damages(seed: int, steps: int, interval: int) -> Schedule:
    """Each way to damage a checkpoint once, each after at least two have been committed."""
    drawn = random.Random(seed)
    ways: list[Literal["flip", "truncate", "remove", "swap"]] = ["flip", "truncate", "remove", "swap"]
    drawn.shuffle(ways)
    span = steps // (len(ways) + 1)
    found: list[Fault] = []
    for number, how in enumerate(ways, 1):
        step = max(3 * interval, number * span) + interval // 2
        found.append(Damage(Moment(step, "step", drawn.random()), how, drawn.random(), drawn.random()))
    return in_order(found)


def storm(steps: int) -> Schedule:
    """Over that many steps storage is slow (2 s a request), then wrong (a fifth of the requests), then away for a minute, then it
    resets connections."""
    return (
        Weather(Moment(steps // 40, "step", 0.0), 30.0, latency=2.0),
        Weather(Moment(steps // 4, "step", 0.0), 30.0, errors=0.2),
        Weather(Moment(steps * 9 // 20, "step", 0.0), 60.0, away=True),
        Weather(Moment(steps * 17 // 20, "step", 0.0), 20.0, resets=0.2),
    )


def in_order(faults: Sequence[Fault]) -> Schedule:
    return tuple(sorted(faults, key=lambda fault: (fault.at.step, PHASES.index(fault.at.phase), fault.at.part)))


def described(fault: Fault) -> dict[str, Any]:
    """A fault as JSON."""
    return {"fault": type(fault).__name__.lower(), **asdict(fault)}


def left_behind(seed: int, count: int, steps: int, interval: int) -> Schedule:
    """As many groups that are stopped and come back later, spread over the training."""
    drawn = random.Random(seed)
    moments = [Moment((number + 1) * steps // (count + 1), "step", drawn.random()) for number in range(count)]
    return in_order([LeftBehind(at, drawn.uniform(0.0, 1.0)) for at in moments])
