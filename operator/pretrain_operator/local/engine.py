"""Runs the stages of a job on this machine, one after another, and tells what they say."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pretrain_stage.errors import EXIT_STOPPED, EXIT_TEMPORARY, EXIT_USER_ERROR, UserError
from pretrain_stage.events import library_line, read_event
from pretrain_stage.manifest import read_manifest
from pretrain_stage.storage import Storage
from torchx.runner import Runner

from pretrain_operator.local.ledger import RunLedger
from pretrain_operator.local.plan import GRACE_SECONDS, TRAINING_GRACE_SECONDS, fold, settle
from pretrain_operator.local.progress import RunState, Word, apply, begin, book, close, tick
from pretrain_operator.local.scheduler import SCHEDULER, LocalProcesses, open_runner
from pretrain_operator.local.signals import StopRequests
from pretrain_operator.local.tail import Tail, last_lines
from pretrain_operator.local.view import View
from pretrain_operator.stages import Stage, with_environment

POLL_SECONDS = 0.1
SHOW_SECONDS = 0.5
LAST_LINES = 15


@dataclass(frozen=True)
class Machine:
    """What processes share, and what they inherit."""

    cores: int
    environment: Mapping[str, str]
    compiled: bool = False
    """Whether training compiles the model."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `message` is empty when all stages are done."""

    state: RunState
    exit_code: int = 0
    message: str = ""
    log: Path | None = None
    """Log file of the process that failed."""
    stopped: bool = False
    """Whether it ended because it was asked to."""


@dataclass
class Running:
    """The stage at work: its processes, their log files, what they gave as reasons."""

    stage: Stage
    runner: Runner
    scheduler: LocalProcesses
    handle: str
    tails: list[Tail]
    errors: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    logged: dict[int, deque[str]] = field(default_factory=dict)
    """The last lines of each process's libraries."""
    deadline: float | None = None
    """When its processes are killed, if they were asked to stop."""
    culprits: list[int] = field(default_factory=list)
    """Processes that had failed before any was asked to stop."""


@dataclass
class Run:
    """One run of a job's stages. What it has come to is in `state`."""

    job: str
    stages: Sequence[Stage]
    storage: Storage
    log_dir: Path
    machine: Machine
    view: View
    ledger: RunLedger = field(default_factory=RunLedger)
    state: RunState = field(init=False)
    _shown: float = float("-inf")

    def __post_init__(self) -> None:
        self.state = begin(self.job, self.stages, time.monotonic())

    def all_stages(self) -> Outcome:
        """Runs one stage after another until one fails or somebody asks to stop."""
        with StopRequests() as stop, self.view:
            outcome = self._until_one_fails(stop) or Outcome(self.state)
        finished = not outcome.exit_code and self.stages[-1].name == "report"
        seconds = self.ledger.close(None if finished else "down" if outcome.exit_code and not outcome.stopped else "queued")
        return replace(outcome, state=book(self.state, seconds))

    def _until_one_fails(self, stop: StopRequests) -> Outcome | None:
        for stage in self.stages:
            if stop.asked:
                return self._stopped(stop, f"stopped before stage {stage.name}")
            failure = self._one_stage(stage, stop)
            if failure is not None:
                return failure
        return None

    def _one_stage(self, stage: Stage, stop: StopRequests) -> Outcome | None:
        """Starts the stage's processes, follows them to their end, and says how it ended; None if all is well."""
        self._turn(stage, "running")
        running = self._start(with_environment(stage, self.ledger.environment(stage.name)))
        self.ledger.started(stage.name)
        try:
            self._follow(running, stop)
        finally:
            running.scheduler.kill()
            running.runner.close()
            self.ledger.ended(worked=self.state.stage(stage.name).worked)
        if not running.scheduler.failed():
            self._close(stage)
            self._turn(stage, "done")
            return None
        if stop.asked:
            self._turn(stage, "stopped")
            return self._stopped(stop, f"stopped in stage {stage.name}{_and_said(running)}")
        self._turn(stage, "failed")
        return _failure(running, self.state)

    def _start(self, stage: Stage) -> Running:
        app = fold(stage, max(1, min(stage.parallelism, self.machine.cores)))
        processes = app.roles[0].num_replicas * max(1, stage.processes)
        app = settle(
            app,
            cores=self.machine.cores,
            processes=processes,
            compiled=self.machine.compiled,
            inherited=self.machine.environment,
        )
        runner, scheduler = open_runner()
        share_gpus = app.roles[0].num_replicas > 1 and app.roles[0].resource.gpu > 0
        planned = runner.dryrun(
            app, SCHEDULER, cfg={"log_dir": str(self.log_dir), "auto_set_cuda_visible_devices": share_gpus}
        )
        tails = [Tail(Path(replica.stdout)) for replica in planned.request.role_params[stage.role.name]]
        return Running(stage, runner, scheduler, runner.schedule(planned), tails)

    def _follow(self, running: Running, stop: StopRequests) -> None:
        """Tells what the processes say until all have ended, and passes on the request to stop."""
        while True:
            ended = running.runner.status(running.handle).is_terminal()  # asked before the last lines are read
            for replica, tail in enumerate(running.tails):
                for line in tail.lines():
                    self._hear(running, replica, line)
            if ended:
                return
            self._stop_if_asked(running, stop)
            self.ledger.passes()
            self._show(book(tick(self.state, time.monotonic()), self.ledger.seconds()))
            time.sleep(POLL_SECONDS)

    def _hear(self, running: Running, replica: int, line: str) -> None:
        event = read_event(line)
        if event is None:
            return
        if event["event"] == "error":
            running.errors.setdefault(replica, []).append(event)
        if event["event"] == "log":
            running.logged.setdefault(replica, deque(maxlen=LAST_LINES)).append(library_line(event))
        self.state = apply(self.state, {**event, "stage": running.stage.name}, time.monotonic())
        self.ledger.heard(running.stage.name, event)

    def _stop_if_asked(self, running: Running, stop: StopRequests) -> None:
        """Asks the processes to stop if a person wants it or one of them has failed; kills those that take too long."""
        now = time.monotonic()
        if running.deadline is None and (stop.asked or running.scheduler.failed()):
            running.culprits = running.scheduler.failed()
            saves = running.stage.processes > 0 and not running.culprits
            running.deadline = now + (TRAINING_GRACE_SECONDS if saves else GRACE_SECONDS)
            running.runner.cancel(running.handle)
            what = "saves a checkpoint; press Ctrl-C again to end at once" if saves else "lets its processes end"
            self._turn(running.stage, "stopping", what)
        if stop.at_once or (running.deadline is not None and now > running.deadline):
            running.scheduler.kill()

    def _close(self, stage: Stage) -> None:
        """Takes the counts of all tasks from the stage's manifest, those of earlier runs too."""
        with contextlib.suppress(UserError):  # only the view needs it; who reads its outputs will complain
            manifest = read_manifest(self.storage, stage.name)
            if manifest is not None:
                self.state = close(self.state, stage.name, manifest)

    def _turn(self, stage: Stage, word: Word, note: str = "") -> None:
        event = {"event": "stage", "stage": stage.name, "state": word, "note": note}
        self.state = apply(self.state, event, time.monotonic())
        self._show(self.state, now=True)

    def _show(self, state: RunState, now: bool = False) -> None:
        self.state = state
        if now or state.now - self._shown >= SHOW_SECONDS:
            self._shown = state.now
            self.view.show(state)

    def _stopped(self, stop: StopRequests, message: str) -> Outcome:
        return Outcome(self.state, stop.exit_code, message, stopped=True)


def _failure(running: Running, state: RunState) -> Outcome:
    """The reason of the process that failed first; of several, of one whose user can mend it."""
    exit_code = running.scheduler.exit_code
    replica = min(running.culprits or running.scheduler.failed(), key=lambda i: (_severity(exit_code(i)), i))
    code = exit_code(replica)
    log = running.tails[replica].path
    errors = running.errors.get(replica, [])
    # The launcher of training speaks last: it knows which of its ranks failed first.
    said = next((error for error in reversed(errors) if error.get("exit_code") == code), errors[-1] if errors else None)
    if said is not None:
        return Outcome(state, code, str(said.get("message", "")), log)
    last = [*running.logged.get(replica, ()), *last_lines(log.with_name("stderr.log"), LAST_LINES)][-LAST_LINES:]
    return Outcome(state, code, _unexplained(running.stage.name, code, last), log)


def _severity(code: int) -> int:
    """How likely a code is the reason: wrong input first; failures of network and storage may follow from another one."""
    order = {EXIT_USER_ERROR: 0, EXIT_TEMPORARY: 3, EXIT_STOPPED: 4}
    return order.get(code, 1 if code < 128 else 2)


def _unexplained(stage: str, code: int, lines: Sequence[str]) -> str:
    """What can be said of a program that ended without a reason. lines: the last that its libraries said and it printed."""
    how = f"ended with exit code {code}"
    if code > 128:
        with contextlib.suppress(ValueError):
            how = f"was ended by {signal.Signals(code - 128).name}"
    hint = ""
    if code == 128 + signal.SIGKILL:
        hint = "; most often the machine was out of memory: run fewer processes (corpus.parallelism) or a smaller microBatchSize"
    return "\n".join([f"stage {stage} {how} and gave no reason{hint}", *(f"    {line}" for line in lines)])


def _and_said(running: Running) -> str:
    """What went wrong while the stage was being stopped, if anything."""
    messages = [str(error.get("message", "")) for errors in running.errors.values() for error in errors]
    return f" ({'; '.join(messages)})" if messages else ""
