"""`status`: one job, once, live, or until it has come to its end."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pretrain_stage.errors import EXIT_USER_ERROR
from rich.console import Console
from rich.live import Live

from pretrain_operator.kubectl import objects
from pretrain_operator.kubectl.connection import Change, Cluster
from pretrain_operator.kubectl.refusal import ClusterError
from pretrain_operator.kubectl.seen import SeenJob, seen
from pretrain_operator.kubectl.view import changes, draw
from pretrain_operator.kubectl.watched import Watched
from pretrain_operator.local.view import standard_console

REDRAW_SECONDS = 1.0
EXIT_TIMEOUT = 124
"""As timeout(1) has it."""


class Goal(StrEnum):
    """What `--wait-for` waits for."""

    succeeded = "succeeded"
    finished = "finished"


@dataclass(frozen=True)
class Waiting:
    """Until when a job is watched. Without a goal: until it has finished, or for ever where that does not count."""

    goal: Goal | None = None
    seconds: float | None = None
    show: bool = True


def show_once(cluster: Cluster, name: str, namespace: str, form: objects.Format | None) -> None:
    """Prints the job."""
    body = cluster.job(name, namespace)
    if form is None:
        standard_console().print(draw(seen(body), datetime.now(UTC)), end="")
    else:
        sys.stdout.write(objects.one(body, form))


def watch(cluster: Cluster, name: str, namespace: str, form: objects.Format | None, waiting: Waiting) -> int:
    """Shows the job until it has finished; returns the exit code that its end comes to.

    0 if it succeeded, or if only the end was waited for; 65 if it failed; 124 if time ran out. Raises ClusterError if there is
    no such job, or none any more.
    """
    cluster.job(name, namespace)
    deadline = None if waiting.seconds is None else time.monotonic() + waiting.seconds
    watched = Watched(lambda: cluster.watch_jobs(namespace, None, name))
    with _view(form, waiting.show) as view:
        while True:
            change = watched.next(_patience(deadline))
            job = view.take(change)
            if job is not None and job.finished is not None:
                break
            if change is not None and _gone(change):
                raise ClusterError(f"pretrainjob {name} in namespace {namespace} was deleted while it was watched")
            if deadline is not None and time.monotonic() >= deadline:
                print(f"error: --timeout: {name} has not finished in {waiting.seconds:g} s", file=sys.stderr)
                return EXIT_TIMEOUT
    return _exit_code(job, waiting.goal, form)


def _exit_code(job: SeenJob, goal: Goal | None, form: objects.Format | None) -> int:
    if job.finished != "Failed":
        return 0
    failed = job.condition("Failed")
    assert failed is not None, "finished says so"
    print(f"error: {job.name} failed ({failed.reason}): {failed.message}", file=sys.stderr)
    return 0 if goal is Goal.finished else EXIT_USER_ERROR


def _patience(deadline: float | None) -> float:
    return REDRAW_SECONDS if deadline is None else min(REDRAW_SECONDS, max(0.0, deadline - time.monotonic()))


def _gone(change: Change) -> bool:
    return change.kind == "deleted" or (change.kind == "listed" and not change.objects)


class _Live:
    """The drawn job, in place, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._job: SeenJob | None = None
        self._losses: dict[int, float] = {}
        self._note = ""

    def __enter__(self) -> _Live:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def take(self, change: Change | None) -> SeenJob | None:
        if change is not None:
            self._note = change.message
            for body in change.objects:
                self._job = seen(body)
        if self._job is not None:
            training = self._job.training
            if training is not None and training.loss is not None:
                self._losses[training.step] = training.loss
            losses = [self._losses[step] for step in sorted(self._losses)]
            self._live.update(
                draw(self._job, datetime.now(UTC), losses, self._note, self._live.console.height), refresh=True
            )
        return self._job


class _Lines:
    """A line for each change, where there is no terminal."""

    def __init__(self, show: bool) -> None:
        self._show = show
        self._job: SeenJob | None = None

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def take(self, change: Change | None) -> SeenJob | None:
        if change is None:
            return self._job
        if change.message:
            print(f"note: {change.message}", file=sys.stderr, flush=True)
        for body in change.objects:
            job = seen(body)
            if self._show:
                for line in changes(self._job, job, datetime.now(UTC)):
                    print(line, flush=True)
            self._job = job
        return self._job


class _Objects(_Lines):
    """The object after each change, for programs."""

    def __init__(self, form: objects.Format) -> None:
        super().__init__(show=False)
        self._form = form

    def take(self, change: Change | None) -> SeenJob | None:
        for body in change.objects if change is not None else ():
            if self._form == "yaml":
                print("---")
            sys.stdout.write(objects.one(body, self._form))
            sys.stdout.flush()
        return super().take(change)


def _view(form: objects.Format | None, show: bool) -> _Live | _Lines:
    if form is not None and show:
        return _Objects(form)
    if not show:
        return _Lines(show=False)
    console = standard_console()
    return _Live(console) if console.is_terminal else _Lines(show=True)
