"""`logs`: what the pods of a job print, all tasks and ranks together.

Once: stage after stage, within each merged by the time at which the nodes took the lines down. Followed: as lines come; a pod
that starts later is taken up, a connection that breaks is made again from the last line on, and the end of the job is the end.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pretrain_operator.kubectl.connection import NETWORK_FAULTS, RETRY_SECONDS, Change, Cluster
from pretrain_operator.kubectl.lines import Style, split, written
from pretrain_operator.kubectl.plain import plain
from pretrain_operator.kubectl.pods import Choice, SeenPod, chosen, seen_pod
from pretrain_operator.kubectl.refusal import ClusterError
from pretrain_operator.kubectl.seen import SeenJob, seen
from pretrain_operator.names import JOB_LABEL, STAGE_LABEL

TAIL_WHEN_FOLLOWING = 20
"""Lines that are shown first of a pod that already runs when its log begins to be followed."""
GIVE_UP_AFTER = 8
"""Times in a row that the log of a pod cannot be read."""


@dataclass(frozen=True)
class Wanted:
    """What to read and how to show it."""

    name: str
    namespace: str
    choice: Choice = field(default_factory=Choice)
    style: Style = field(default_factory=Style)
    tail: int | None = None
    """Last lines of each pod; None for all, or TAIL_WHEN_FOLLOWING of those that run when following begins."""
    since_seconds: int | None = None
    at_once: int = 50
    """Logs that are read at the same time."""

    @property
    def selector(self) -> str:
        stage = "" if self.choice.stage is None else f",{STAGE_LABEL}={self.choice.stage}"
        return f"{JOB_LABEL}={self.name}{stage}"


def print_logs(cluster: Cluster, wanted: Wanted) -> None:
    """Prints what has been said so far. Raises ClusterError at the end if the log of some pod could not be read."""
    job = seen(cluster.job(wanted.name, wanted.namespace))
    pods = _pods(cluster, wanted)
    if not pods:
        _note(_nothing(job, wanted))
        return
    failures: list[str] = []
    for _, of_stage in itertools.groupby(pods, key=lambda pod: (pod.stage, pod.attempt)):
        for group in _in_groups(list(of_stage), wanted.at_once):
            streams = [_lines(cluster, pod, wanted, failures) for pod in group]
            for _, pod, stamp, line in heapq.merge(*streams, key=lambda item: item[0]):
                print(written(pod, stamp, line, wanted.style))
    sys.stdout.flush()
    if failures:
        raise ClusterError("; ".join(failures[:5]) + (f" (and {len(failures) - 5} more)" if len(failures) > 5 else ""))


def follow_logs(cluster: Cluster, wanted: Wanted) -> None:
    """Prints what is said from now on, until the job (or the one stage that was asked for) has come to its end."""
    job = seen(cluster.job(wanted.name, wanted.namespace))
    if _over(job, wanted):
        print_logs(cluster, wanted)
        _note(_ending(job, wanted))
        return
    _Following(cluster, wanted).run()


def _pods(cluster: Cluster, wanted: Wanted) -> list[SeenPod]:
    """The wanted pods."""
    found = (seen_pod(body) for body in cluster.pods(wanted.namespace, wanted.selector))
    return chosen([pod for pod in found if pod is not None], wanted.choice)


def _in_groups(pods: Sequence[SeenPod], size: int) -> Iterator[Sequence[SeenPod]]:
    for start in range(0, len(pods), size):
        yield pods[start : start + size]


def _lines(
    cluster: Cluster, pod: SeenPod, wanted: Wanted, failures: list[str]
) -> Iterator[tuple[tuple[str, int], SeenPod, str, str]]:
    """The lines of one pod, with what they are ordered by."""
    if not pod.begun:
        _note(f"[{pod.label}] has not started{': ' + pod.trouble if pod.trouble else ''}")
        return
    options = [("tailLines", str(wanted.tail))] * (wanted.tail is not None)
    options += [("sinceSeconds", str(wanted.since_seconds))] * (wanted.since_seconds is not None)
    try:
        last = ""
        for stamp, line in split(cluster.log(pod.name, pod.namespace, pod.container, options)):
            last = stamp or last
            yield (last, pod.index), pod, stamp, line
    except (ClusterError, *NETWORK_FAULTS) as error:
        failures.append(f"[{pod.label}] {plain(str(error))}")


@dataclass(frozen=True)
class _Said:
    pod: SeenPod
    stamp: str
    line: str


@dataclass(frozen=True)
class _Done:
    pod: SeenPod
    message: str = ""


class _Following:
    """All logs of a job at once. Threads read, the main thread prints, so that lines stay whole."""

    def __init__(self, cluster: Cluster, wanted: Wanted) -> None:
        self.cluster, self.wanted = cluster, wanted
        self.inbox: queue.Queue[_Said | _Done | tuple[str, Change] | Exception] = queue.Queue(maxsize=10_000)
        self.pods: dict[str, SeenPod] = {}
        self.first_list = True
        self.taken: set[str] = set()
        self.reading: set[str] = set()
        self.waiting: deque[tuple[SeenPod, int | None]] = deque()
        self.told: set[str] = set()
        self.attempts: dict[str, int] = {}

    def run(self) -> None:
        """Returns when there is nothing more to come."""
        wanted = self.wanted
        self._in_thread("job", lambda: self.cluster.watch_jobs(wanted.namespace, None, wanted.name))
        self._in_thread("pods", lambda: self.cluster.watch_pods(wanted.namespace, wanted.selector))
        ended = ""
        while not (ended and not self.reading and not self.waiting and self.inbox.empty()):
            match self.inbox.get():
                case _Said(pod, stamp, line):
                    print(written(pod, stamp, line, wanted.style), flush=self.inbox.empty())
                case _Done(pod, message):
                    self.reading.discard(pod.uid)
                    if message:
                        self._tell(f"[{pod.label}] {message}")
                    self._fill()
                case ("pods", Change() as change):
                    self._pods_changed(change)
                case ("job", Change() as change):
                    ended = ended or self._job_changed(change)
                case Exception() as error:
                    raise error
        _note(ended)

    def _in_thread(self, topic: str, changes: Callable[[], Iterator[Change]]) -> None:
        def read() -> None:
            try:
                for change in changes():
                    self.inbox.put((topic, change))
            except Exception as error:  # raised where the inbox is read
                self.inbox.put(error)

        threading.Thread(target=read, name=topic, daemon=True).start()

    def _job_changed(self, change: Change) -> str:
        """How the job has ended, or nothing."""
        if change.message:
            self._tell(change.message)
        if change.kind == "deleted" or (change.kind == "listed" and not change.objects):
            return f"{self.wanted.name} was deleted"
        for job in map(seen, change.objects):
            if _over(job, self.wanted):
                # The pods' own watch may be behind: nothing that was said may be missed.
                self._consider(_pods(self.cluster, self.wanted))
                return _ending(job, self.wanted)
            if job.suspended:
                self._tell(f"{job.name} is suspended; its logs go on when it is resumed")
        return ""

    def _pods_changed(self, change: Change) -> None:
        pods = [pod for pod in map(seen_pod, change.objects) if pod is not None]
        self.pods |= {pod.uid: replace(pod, ended=True) if change.kind == "deleted" else pod for pod in pods}
        # Most changes of a stage of thousands of pods are none for its logs.
        news = any(pod.trouble or (pod.begun and pod.uid not in self.taken) for pod in pods)
        if change.kind in ("deleted", "lost") or not (news or self.first_list):
            return
        if self.first_list:
            # What had ended before is not news. What runs is shown from its last lines on.
            self.taken |= {pod.uid for pod in self.pods.values() if pod.ended}
            tail = (
                TAIL_WHEN_FOLLOWING if self.wanted.tail is None and self.wanted.since_seconds is None else self.wanted.tail
            )
        else:
            tail = None
        self.first_list = False
        self._consider(chosen(list(self.pods.values()), self.wanted.choice), tail)

    def _consider(self, pods: Sequence[SeenPod], tail: int | None = None) -> None:
        for pod in pods:
            self.pods[pod.uid] = pod
            if pod.begun and pod.uid not in self.taken:
                self.taken.add(pod.uid)
                self.waiting.append((pod, tail))
            elif pod.trouble and not pod.ended:
                self._tell(f"[{pod.label}] waits: {pod.trouble}")
        if len(self.waiting) + len(self.reading) > self.wanted.at_once:
            self._tell(
                f"{self.wanted.at_once} logs are read at a time, the others when one of these ends; choose with --stage and "
                "--index, or raise --max-log-requests"
            )
        self._fill()

    def _fill(self) -> None:
        """Begins to read as many of the waiting logs as may be read at once."""
        while self.waiting and len(self.reading) < self.wanted.at_once:
            pod, tail = self.waiting.popleft()
            self.reading.add(pod.uid)
            if self.attempts.setdefault(pod.stage, pod.attempt) < pod.attempt:
                self.attempts[pod.stage] = pod.attempt
                _note(f"{pod.stage}: attempt {pod.attempt}")
            threading.Thread(target=self._read, args=(pod, tail), name=pod.name, daemon=True).start()

    def _read(self, pod: SeenPod, tail: int | None) -> None:
        """Reads one pod's log to its end, through broken connections."""
        last = ""
        failures = 0
        why = "the connection breaks again and again"
        first = [("tailLines", str(tail))] * (tail is not None)
        first += [("sinceSeconds", str(self.wanted.since_seconds))] * (self.wanted.since_seconds is not None)
        while True:
            # Times count whole seconds here, so that some lines come twice.
            since = [("sinceTime", re.sub(r"\.\d+", "", last))] if last else first
            try:
                for stamp, line in split(
                    self.cluster.log(pod.name, pod.namespace, pod.container, [("follow", "true"), *since])
                ):
                    failures = 0
                    if not stamp or stamp > last:
                        last = stamp or last
                        self.inbox.put(_Said(pod, stamp, line))
            except ClusterError as error:
                if error.status == 404:
                    break
                why = plain(str(error))
            except NETWORK_FAULTS:
                pass
            failures += 1
            if failures > GIVE_UP_AFTER:
                self.inbox.put(_Done(pod, f"its log cannot be read any more ({why})"))
                return
            if self._has_ended(pod, RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1]):
                break
        self.inbox.put(_Done(pod))

    def _has_ended(self, pod: SeenPod, seconds: float) -> bool:
        """Whether the pod has ended, which the watch may say a little later than its log comes to an end."""
        deadline = time.monotonic() + seconds
        while not self.pods[pod.uid].ended:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True

    def _tell(self, message: str) -> None:
        """Says something once."""
        if message not in self.told:
            self.told.add(message)
            _note(message)


def _over(job: SeenJob, wanted: Wanted) -> bool:
    """Whether nothing more will be said."""
    stage = None if wanted.choice.stage is None else job.stage_named(wanted.choice.stage)
    return job.finished is not None or (stage is not None and stage.state in ("Succeeded", "Failed"))


def _ending(job: SeenJob, wanted: Wanted) -> str:
    if job.finished is not None:
        condition = job.condition(job.finished)
        assert condition is not None, "finished says so"
        return f"{job.name}: {condition.type}: {condition.message}"
    stage = job.stage_named(wanted.choice.stage or "")
    assert stage is not None, "_over says so"
    return f"{job.name}: {stage.name}: {stage.state}"


def _nothing(job: SeenJob, wanted: Wanted) -> str:
    """Why there is nothing to show."""
    if wanted.choice.previous:
        return (
            f"{job.name} has no pods of earlier attempts: those of a training group are deleted before it is started again; "
            f"why it was is in `kubectl pretrain status {job.name}`"
        )
    stages = ", ".join(stage.name for stage in job.stages if stage.state == "Running")
    where = "" if wanted.choice.stage is None else f" of stage {wanted.choice.stage}"
    number = "".join(f" {index}" for index in wanted.choice.indices)
    which = f"no pod with index{number}" if number else "no pods"
    return f"{job.name} has {which}{where} now ({'running: ' + stages if stages else job.phase or 'no status yet'})"


def _note(message: str) -> None:
    sys.stdout.flush()
    print(f"note: {message}", file=sys.stderr, flush=True)
