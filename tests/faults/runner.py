"""Applies a schedule to a training of two processes, and starts its group again after each end, as the operator would."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain_stage.storage import Storage

from tests.faults.audit import Committed, committed, damage, late_commits, weights_digest
from tests.faults.group import Group, furthest, start_group
from tests.faults.proxy import FaultyProxy
from tests.faults.schedule import Damage, Fault, Kill, LeftBehind, Moment, Schedule, Stop, Weather

POLL_SECONDS = 0.005
SECONDS = {"step": 0.1, "save": 0.4, "upload": 0.4}
"""How long a step and a save are taken to last, where a fault is to come in the middle of one."""
UPLOAD_SECONDS = 5.0
"""How long an upload that does not come is waited for, from the end of its step."""
GONE_SECONDS = 120.0
LEFT_SECONDS = 30.0
RECORD = "reports/training.jsonl"


@dataclass(frozen=True)
class Site:
    """Where a training runs: its job file, the storage without anything between, TMPDIR, further variables, and the proxy if any."""

    job_file: Path
    storage: Storage
    temporary: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    proxy: FaultyProxy | None = None


@dataclass(frozen=True)
class Applied:
    """A fault that came."""

    fault: Fault
    attempt: int
    step: int
    """The last step that was done before it."""
    time: float
    """time.monotonic."""
    damaged: str | None = None
    """The folder of the checkpoint that was damaged."""


@dataclass(frozen=True)
class Start:
    """An attempt, as it was seen from outside. Times are of time.monotonic."""

    attempt: int
    began: float
    goes_on_from: int | None
    """The step; 0 for a start from the beginning, None if it never came so far."""
    first_step_at: float | None
    ended: float
    exit_code: int
    refused: tuple[str, ...]
    """What it said of checkpoints that it did not take."""
    error: str
    parts: Mapping[str, float]
    """Seconds of its start, part by part, as it said."""


@dataclass(frozen=True)
class Outcome:
    """All that was seen of a training under a schedule."""

    began: float
    ended: float
    starts: tuple[Start, ...]
    faults: tuple[Applied, ...]
    record: tuple[Mapping[str, Any], ...]
    """The steps, as the training recorded them: step, loss, time."""
    facts: Mapping[str, Any]
    weights: str
    """SHA-256."""
    broken: tuple[str, ...]
    """Committed checkpoints that were not whole at some end of a group, other than those that were damaged on purpose."""
    step_times: tuple[tuple[int, float], ...] = ()
    """When the note of a step was seen: all of them, those that were lost too. time.monotonic."""
    left_behind: tuple[tuple[str, ...], ...] = ()
    """What the groups that were left behind said as errors when they went on."""
    late: tuple[str, ...] = ()
    """What was committed by an attempt after a later one had begun."""


def run(site: Site, schedule: Schedule, most_starts: int, seconds: float) -> Outcome:
    """Trains to the end under the schedule. Raises AssertionError after so many starts, or seconds."""
    began = time.monotonic()
    due, applied, starts = list(schedule), list[Applied](), list[Start]()
    broken, damaged = set[str](), set[str]()
    noted: list[tuple[int, float]] = []
    left: list[tuple[Group, float]] = []
    while True:
        assert len(starts) < most_starts, f"{len(starts)} starts: {[(one.exit_code, one.error) for one in starts[-3:]]}"
        # A group that was left behind keeps its disk.
        disk = site.temporary / f"disk-{sum(isinstance(one.fault, LeftBehind) for one in applied)}"
        group = start_group(site.job_file, len(starts) + 1, disk, site.environment)
        try:
            fault = _attended(group, site, due, applied, noted, left, began + seconds)
        except BaseException:
            for one in (group, *(one for one, _ in left)):
                one.kill()
            raise
        if isinstance(fault, LeftBehind):
            left.append((group, fault.seconds))
            starts.append(_seen(group, -1))
            continue
        code = group.gone(GONE_SECONDS)
        if isinstance(fault, Damage):
            hit = damage(site.storage, fault)
            applied[-1] = Applied(fault, group.attempt, applied[-1].step, applied[-1].time, hit.folder if hit else None)
            damaged |= {hit.folder} if hit else set()
        starts.append(_seen(group, code))
        broken |= {f"{one.folder}: {one.wrong}" for one in _unwhole(site.storage, damaged)}
        if code == 0:
            break
    for one, _ in left:
        _given_time(one)
    trained = json.loads(site.storage.read("stages/train.json") or b"{}")
    facts = trained["facts"]
    lines = [json.loads(line) for line in (site.storage.read(RECORD) or b"").splitlines()]
    return Outcome(
        began=began,
        ended=time.monotonic(),
        starts=tuple(starts),
        faults=tuple(applied),
        record=tuple(line for line in lines if line["kind"] == "step"),
        facts=facts,
        weights=weights_digest(site.storage, trained["place"]),
        broken=tuple(sorted(broken)),
        step_times=tuple(noted),
        left_behind=tuple(tuple(event["message"] for _, event in one.events("error")) for one, _ in left),
        late=late_commits(site.storage),
    )


def _attended(
    group: Group,
    site: Site,
    due: list[Fault],
    applied: list[Applied],
    noted: list[tuple[int, float]],
    left: list[tuple[Group, float]],
    deadline: float,
) -> Fault | None:
    """Watches an attempt until it ends, or is left behind, and brings what is due; returns the fault that ended it, if one did.

    What is due is taken out of `due`. left: older groups that were stopped, and how long after a first step each goes on.
    """
    last, ending, trigger = furthest(group.temporary), None, None
    while not group.ended:
        now = time.monotonic()
        assert now < deadline, f"not finished in time: step {group.step}, due: {due[:1]}"
        step = group.step
        if step != last:
            noted.append((step, now))
            last = step
        for number, (one, wait) in enumerate(left):
            if group.first_step_at is not None and now > group.first_step_at + wait:
                one.send(signal.SIGCONT, "all")
                left[number] = (one, math.inf)
        if ending is None and due and group.first_step_at is not None:
            trigger = trigger or Trigger(due[0].at, site.proxy)
            if trigger.come(step):
                fault, trigger = due.pop(0), None
                applied.append(Applied(fault, group.attempt, group.step, time.monotonic()))
                ending = _brought(fault, group, site)
                if isinstance(fault, LeftBehind):
                    return fault
        time.sleep(POLL_SECONDS)
    return ending


class Trigger:
    """Says when a moment has come. An upload that is over already when it is asked for comes late, but comes."""

    def __init__(self, at: Moment, proxy: FaultyProxy | None) -> None:
        self.at, self.due = at, math.inf
        self.upload = None
        if at.phase == "upload" and proxy is not None:
            self.upload = proxy.watch_upload(lambda path: f"step-{at.step:08d}" in path and path.endswith(".pt"), at.part)

    def come(self, step: int) -> bool:
        """step: the last that was done."""
        if self.upload is not None and self.upload.is_set():
            return True
        if self.due == math.inf and step >= self.at.step - (self.at.phase == "step"):
            self.due = time.monotonic() + (
                UPLOAD_SECONDS if self.upload is not None else self.at.part * SECONDS[self.at.phase]
            )
        return time.monotonic() >= self.due


def _brought(fault: Fault, group: Group, site: Site) -> Fault | None:
    """Brings a fault; returns it if it ends the group."""
    match fault:
        case Weather():
            assert site.proxy is not None, "weather needs a proxy"
            site.proxy.begin(fault)
            return None
        case Stop():
            group.send(signal.SIGSTOP, fault.process)
        case LeftBehind():
            group.send(signal.SIGSTOP, "all")
        case Kill():
            group.send(signal.SIGKILL, fault.process)
        case Damage():
            group.send(signal.SIGKILL, "all")
    return fault


def _given_time(group: Group) -> None:
    """A group that was left behind and goes on may end by itself."""
    deadline = time.monotonic() + LEFT_SECONDS
    while not group.ended and time.monotonic() < deadline:
        time.sleep(0.1)
    group.kill()


def _unwhole(storage: Storage, damaged: set[str]) -> list[Committed]:
    return [one for one in committed(storage) if one.wrong is not None and one.folder not in damaged]


def _seen(group: Group, code: int) -> Start:
    errors = [event["message"] for _, event in group.events("error")]
    warnings = [event["message"] for _, event in group.events("warning")]
    parts: Mapping[str, float] = next((event["parts"] for _, event in group.events("started")), {})
    return Start(
        attempt=group.attempt,
        began=group.began,
        goes_on_from=group.goes_on_from,
        first_step_at=group.first_step_at,
        ended=time.monotonic(),
        exit_code=code,
        refused=tuple(said for said in warnings if "refused" in said),
        error=errors[0] if errors else "",
        parts=parts,
    )
