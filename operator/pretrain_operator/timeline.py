"""What a job was in at any time, as its pods and workloads show it: the operator's own part of the ledger. Pure.

Times are whole milliseconds since 1970. Counts at a time come from sorted times, since a stage may have thousands of pods and a
ledger that was long not kept thousands of cuts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pretrain_stage.ledger import State

from pretrain_operator.facts import Pod, Workload
from pretrain_operator.stages import TRAINING, after_training


@dataclass(frozen=True)
class Spans:
    """When pods were made, got their nodes, ran and ended."""

    made: Sequence[int]
    placed: Sequence[int]
    ran: Sequence[int]
    gone: Sequence[int]
    gone_placed: Sequence[int]
    gone_ran: Sequence[int]
    """When those ended that had a node, and that ran."""
    fallen: Sequence[int]
    """When those ended that did not succeed."""

    def there(self, at: int) -> int:
        return bisect_right(self.made, at) - bisect_right(self.gone, at)

    def on_nodes(self, at: int) -> int:
        return bisect_right(self.placed, at) - bisect_right(self.gone_placed, at)

    def running(self, at: int) -> int:
        return bisect_right(self.ran, at) - bisect_right(self.gone_ran, at)


@dataclass(frozen=True)
class Ended:
    """The attempt to train that ended last, where it was not the last of all."""

    attempt: int
    at: int
    suspended: bool
    """Whether it was ended because the job was suspended."""


@dataclass(frozen=True)
class Timeline:
    """A job's pods and workloads, as far as a ledger goes."""

    nodes: int
    """Pods of a training group."""
    before: Spans
    after: Spans
    """Pods of the stages before and after training."""
    groups: dict[int, Spans]
    """Pods of training, by attempt."""
    ended: Ended | None
    suspended: int | None
    """Since when the job is suspended, if it is."""
    waits: int | None
    """Since when the group of the present attempt waits to be admitted, if it does."""
    times: Sequence[int]
    """When something became different, in order."""

    def cuts(self, since: int, end: int) -> Sequence[int]:
        """The times between these two at which something became different."""
        found = self.times[bisect_right(self.times, since) : bisect_right(self.times, end - 1)]
        return sorted(set(found))

    def state(self, at: int, since: int) -> State | None:
        """What the job was in; None if nothing has happened since then that tells."""
        for spans, runs in ((self.after, "productive"), (self.before, "preprocessing")):
            if spans.there(at):
                state: State = "productive" if runs == "productive" else "preprocessing"
                return state if spans.running(at) else "starting" if spans.on_nodes(at) else "queued"
        group = self.group(at)
        if group is not None:
            return group
        return "queued" if bisect_right(self.times, at) > bisect_right(self.times, since) else None

    def group(self, at: int) -> State | None:
        """What training was in, `initializing` standing for all that running programs may do; None where there was none."""
        newest = max((attempt for attempt, spans in self.groups.items() if bisect_right(spans.made, at)), default=0)
        if self.ended is not None and self.ended.at <= at and newest <= self.ended.attempt:
            idle = self.ended.suspended or _past(self.suspended, at) or _past(self.waits, at)
            return "queued" if idle else "down"
        if not newest:
            return None
        spans = self.groups[newest]
        if bisect_right(spans.fallen, at):
            return "down"
        if not spans.there(at):
            return None
        if bisect_right(spans.gone, at):
            return "productive"  # some have ended well, the others are about to
        if bisect_right(spans.placed, at) < self.nodes:
            return "queued"
        return "initializing" if bisect_right(spans.ran, at) >= self.nodes else "starting"


def timeline(
    nodes: int, pods: Sequence[Pod], workloads: Sequence[Workload], ended: Ended | None, suspended: int | None
) -> Timeline:
    """What pods and workloads show."""
    training = [one for one in pods if one.stage == TRAINING]
    waiting = (one for one in workloads if one.stage == TRAINING and ended is not None and one.attempt > ended.attempt)
    times = [time for one in pods for time in (one.created, one.scheduled, one.started, one.gone)]
    times += [time for made in workloads for time in (made.created, made.halted, made.completed)]
    other = (ended.at if ended is not None else None, suspended)
    return Timeline(
        nodes=nodes,
        before=_spans(one for one in pods if one.stage != TRAINING and not after_training(one.stage)),
        after=_spans(one for one in pods if after_training(one.stage)),
        groups={
            attempt: _spans(one for one in training if one.attempt == attempt)
            for attempt in {one.attempt for one in training}
        },
        ended=ended,
        suspended=suspended,
        waits=next((milliseconds(one.halted) for one in waiting if one.halted is not None), None),
        times=sorted(
            [*(milliseconds(time) for time in times if time is not None), *(time for time in other if time is not None)]
        ),
    )


def milliseconds(time: datetime) -> int:
    """Whole seconds, as Kubernetes keeps times, in milliseconds since 1970."""
    return int(time.timestamp()) * 1000


def _spans(pods: Iterable[Pod]) -> Spans:
    """The times of pods, each pod's own in order whatever the clocks of nodes say."""
    made, placed, ran, gone, gone_placed, gone_ran, fallen = ([] for _ in range(7))
    for one in pods:
        at = milliseconds(one.created)
        end = None if one.gone is None else max(at, milliseconds(one.gone))
        made.append(at)
        if one.scheduled is not None:
            at = _between(at, milliseconds(one.scheduled), end)
            placed.append(at)
        if one.scheduled is not None and one.started is not None:
            ran.append(_between(at, milliseconds(one.started), end))
        if end is not None:
            gone.append(end)
            gone_placed += [end] if one.scheduled is not None else []
            gone_ran += [end] if one.scheduled is not None and one.started is not None else []
            fallen += [end] if one.phase != "Succeeded" and one.exit_code != 0 else []
    return Spans(*map(sorted, (made, placed, ran, gone, gone_placed, gone_ran, fallen)))


def _between(least: int, time: int, most: int | None) -> int:
    return max(least, time if most is None else min(time, most))


def _past(time: int | None, at: int) -> bool:
    return time is not None and time <= at
