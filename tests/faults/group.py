"""A training group of two processes as the operator starts it, and what can be seen of it from outside: events, processes, its step."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain_stage.events import read_event

from tests.faults.schedule import Process
from tests.trainer.jobs import descendants

NOTE = "pretrain-scratch-*/furthest-step"
"""Where process 0 notes, below TMPDIR, the last step that was done."""
NOTE_DIGITS = 20


@dataclass
class Group:
    """One attempt: a launcher, and what it has said so far, each event with the time at which it was read."""

    attempt: int
    process: subprocess.Popen[str]
    temporary: Path
    began: float
    """time.monotonic."""
    said: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    reader: threading.Thread | None = None

    def events(self, kind: str) -> list[tuple[float, dict[str, Any]]]:
        return [(when, event) for when, event in list(self.said) if event["event"] == kind]

    @property
    def goes_on_from(self) -> int | None:
        """The step that this attempt goes on from; None while it has not said so."""
        for _, event in self.events("info"):
            if "first_step" in event:
                return int(event["first_step"]) - 1
        return None

    @property
    def first_step_at(self) -> float | None:
        return next((when for when, _ in self.events("step")), None)

    @property
    def step(self) -> int:
        """The last step that any attempt has done."""
        return furthest(self.temporary)

    def pids(self, process: Process) -> list[int]:
        """The processes of that name; empty where it is not there."""
        if process == "launcher":
            return [self.process.pid]
        ours = descendants(self.process.pid)
        if process == "all":
            return [*ours, self.process.pid]
        return [pid for pid in ours if _variable(pid, "RANK") == process.removeprefix("rank ")]

    def send(self, number: signal.Signals, process: Process) -> None:
        for pid in self.pids(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def gone(self, seconds: float) -> int:
        """Waits until the launcher has ended and nothing that it started is left; returns its exit code.

        Raises AssertionError after that many seconds.
        """
        deadline = time.monotonic() + seconds
        left = descendants(self.process.pid)
        while not self.ended:
            assert time.monotonic() < deadline, f"attempt {self.attempt} has not ended within {seconds:.0f} s"
            left = [*{*left, *descendants(self.process.pid)}]
            time.sleep(0.02)
        while any(is_alive(pid) for pid in left):
            assert time.monotonic() < deadline, f"attempt {self.attempt} has left processes behind for {seconds:.0f} s"
            time.sleep(0.02)
        assert self.reader is not None
        self.reader.join(10)
        return self.process.returncode

    def kill(self) -> None:
        """Ends everything at one stroke."""
        self.send(signal.SIGKILL, "all")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)


def start_group(job_file: Path, attempt: int, temporary: Path, environment: Mapping[str, str]) -> Group:
    """Starts an attempt. temporary: its TMPDIR, which a container's restart keeps and a new pod has not. environment: further variables."""
    temporary.mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PRETRAIN_METRICS_PORT": "0",
        "PRETRAIN_ATTEMPT": str(attempt),
        "TMPDIR": str(temporary),
        **environment,
    }
    command = [sys.executable, "-m", "pretrain_trainer", "launch", "--job", str(job_file)]
    return watch(command, attempt, temporary, variables)


def watch(command: list[str], attempt: int, temporary: Path, variables: Mapping[str, str]) -> Group:
    """Starts a command and reads what it says."""
    began = time.monotonic()
    with (temporary / f"stderr-{attempt}.txt").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=dict(variables))
    group = Group(attempt, process, temporary, began)

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                event = read_event(line)
                if event is not None:
                    group.said.append((time.monotonic(), event))

    group.reader = threading.Thread(target=read, daemon=True)
    group.reader.start()
    return group


def furthest(temporary: Path) -> int:
    """The last step that is noted below this TMPDIR, 0 if none."""
    for path in temporary.glob(NOTE):
        with contextlib.suppress(OSError):
            digits = path.read_text()[:NOTE_DIGITS]
            return int(digits) if digits.isdigit() else 0
    return 0


def _variable(pid: int, name: str) -> str | None:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((entry.partition(b"=")[2].decode() for entry in entries if entry.startswith(name.encode() + b"=")), None)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
