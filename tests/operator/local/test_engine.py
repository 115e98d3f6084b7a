"""The engine with real processes and real signals. What it starts are stand-ins for the stage programs (program.py)."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pretrain_operator.local import engine, ledger
from pretrain_operator.local.engine import Machine, Run
from pretrain_operator.local.ledger import RunLedger
from pretrain_operator.local.view import LineView
from pretrain_stage.storage import open_folder
from rich.console import Console

from tests.operator.local.drive import stand_ins

DRIVE = [sys.executable, "-m", "tests.operator.local.drive"]


@pytest.fixture(autouse=True)
def heard_when_hung_up() -> Iterator[None]:
    """The tests may themselves run under nohup, whose children all ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@dataclass(frozen=True)
class Job:
    """A job of stand-in stages in a folder of its own."""

    folder: Path

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def command(self) -> list[str]:
        return [*DRIVE, str(self.folder / "job.json"), str(self.folder / "logs")]

    def wanting(self, stages: dict[str, dict[str, Any]]) -> Job:
        (self.folder / "job.json").write_text(json.dumps({"storage": str(self.storage), "stages": stages}))
        return self

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command, capture_output=True, text=True, timeout=60, check=False)

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def lines(self, name: str) -> list[str]:
        path = self.storage / name
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def environment(self, stage: str) -> dict[str, str]:
        """What the stage's first program found in its environment."""
        found: dict[str, str] = json.loads((self.storage / f"environment/{stage}-0.json").read_text())
        return found

    def processes(self) -> list[str]:
        """The command lines of this job's stage programs that are alive."""
        alive = subprocess.run(["ps", "-axwwo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
        return [line for line in alive if "program.py" in line and str(self.folder / "job.json") in line]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_stages_run_in_order_and_are_unchanged_the_next_time(job: Job) -> None:
    job.wanting({"preflight": {}, "clean": {"tasks": 5, "parallelism": 2}, "train": {"steps": 3}, "report": {}})
    first = job.run()
    assert first.returncode == 0, first.stderr
    assert [line.split()[:2] for line in first.stdout.splitlines()] == [
        [f"{stage}:", word] for stage in ("preflight", "clean", "train", "report") for word in ("running", "done")
    ]
    assert "clean: running (5 tasks)" in first.stdout
    assert ": 50 read, 40 kept, 10 dropped" in first.stdout
    assert sorted(job.lines("done.txt")) == [
        "clean 0",
        "clean 1",
        "clean 2",
        "clean 3",
        "clean 4",
        "preflight 0",
        "report 0",
    ]
    assert {path.name for path in job.storage.glob("environment/clean-*")} == {"clean-0.json", "clean-1.json"}

    second = job.run()
    assert second.returncode == 0, second.stderr
    assert "clean: unchanged" in second.stdout
    assert "report: unchanged" in second.stdout
    assert len(job.lines("done.txt")) == 7, "nothing ran again"


def test_lines_where_there_is_no_terminal(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if colours are forced, as some build servers do."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    job.wanting({"preflight": {}})
    said = subprocess.run([*job.command, "--table"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert [line.split()[:2] for line in said.splitlines()] == [["preflight:", "running"], ["preflight:", "done"]]


def test_a_changed_stage_runs_again(job: Job) -> None:
    job.wanting({"preflight": {}, "clean": {}})
    assert job.run().returncode == 0
    job.wanting({"preflight": {}, "clean": {"config": 1}})
    again = job.run()
    assert "preflight: unchanged" in again.stdout
    assert "clean: done" in again.stdout


def test_what_programs_find_in_their_environment(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    job.wanting({"clean": {"tasks": 2, "parallelism": 2}})
    assert job.run().returncode == 0
    found = json.loads((job.storage / "environment/clean-1.json").read_text())
    assert found["AWS_SECRET_ACCESS_KEY"] == "canary"
    assert found["PATH"] == f"/usr/bin:/bin:{Path(sys.executable).parent}", "the working directory must not be in it"
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["PYTHONSAFEPATH"] == "1"
    assert found["HOME"] == os.environ["HOME"]
    logs = [path.read_text() for path in (job.folder / "logs").rglob("*") if path.is_file()]
    assert logs
    assert not any("canary" in text for text in logs), "credentials stay out of log files"


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("user", 65, ["error: corpus.sources[0].uri: /nowhere holds no files; correct it"]),
        ("ours", 1, ["error: RuntimeError: a fault of ours"]),
        (
            "silent",
            3,
            ["error: stage clean ended with exit code 3 and gave no reason", "    the library says why"],
        ),
        (
            "killed",
            137,
            [
                "error: stage clean was ended by SIGKILL and gave no reason; most often the machine was out of memory: run "
                "fewer processes (corpus.parallelism) or a smaller microBatchSize"
            ],
        ),
    ],
)
def test_a_failure_is_the_last_thing_said(job: Job, fault: str, code: int, said: list[str]) -> None:
    """The other task would take a minute: it is stopped."""
    job.wanting(
        {"clean": {"tasks": 2, "parallelism": 2, "seconds": 60, "fault": fault, "fault_at": 1}, "train": {"steps": 1}}
    )
    begun = time.monotonic()
    ended = job.run()
    assert time.monotonic() - begun < 15
    assert ended.returncode == code
    *lines, log = ended.stderr.splitlines()
    assert lines == said
    path = Path(log.removeprefix("log: "))
    assert path.parts[-3:] == ("clean", "1", "stdout.log")
    assert path.exists()
    assert "clean: failed after" in ended.stdout
    assert "train" not in ended.stdout
    assert job.processes() == []


def test_wrong_input_counts_more_than_what_follows_from_it(job: Job) -> None:
    """Of two processes that fail at once, the one that the user can mend gives the reason."""
    job.wanting({"clean": {"tasks": 2, "parallelism": 2, "fault": "user", "fault_at": 1, "also": "ours", "awaits": "go"}})
    with job.started() as process:
        wait_for(lambda: len(list(job.storage.glob("environment/clean-*.json"))) == 2)
        # At once for the engine: it looks again only when both have ended.
        process.send_signal(signal.SIGSTOP)
        (job.storage / "go").touch()
        wait_for(lambda: not job.processes())
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err.splitlines()[0][:31]) == (65, "error: corpus.sources[0].uri: /")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_training_saves_when_asked_to_stop_and_continues_where_it_was(job: Job, signum: signal.Signals, code: int) -> None:
    job.wanting({"clean": {}, "train": {"steps": 100, "seconds": 0.02, "saving": 1.0}})
    with job.started() as process:
        wait_for(lambda: len(job.lines("steps.txt")) > 10)
        process.send_signal(signum)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "train: stopping: saves a checkpoint" in out
    assert "train: stopped" in out
    assert err.splitlines() == [
        "stopped in stage train; what is finished is kept. To continue: pretrain run job.yaml",
    ]
    assert int((job.storage / "checkpoint").read_text()) == len(job.lines("steps.txt")) < 100

    continued = job.run()
    assert continued.returncode == 0
    assert "clean: unchanged" in continued.stdout
    assert job.lines("steps.txt") == [str(step) for step in range(100)], "no step twice, none left out"


def test_fine_tuning_saves_too_and_its_processes_share_the_cores(job: Job) -> None:
    wanted = {"steps": 100, "seconds": 0.02, "saving": 0.5, "kind": "indexed", "processes": 2}
    job.wanting({"export": {}, "finetune-mood": wanted})
    with job.started() as process:
        wait_for(lambda: len(job.lines("steps.txt")) > 10)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert "finetune-mood: stopping: saves a checkpoint" in out
    assert int((job.storage / "checkpoint").read_text()) == len(job.lines("steps.txt")) < 100
    assert job.environment("finetune-mood")["OMP_NUM_THREADS"] == "2"
    assert job.environment("export")["OMP_NUM_THREADS"] == "4"
    continued = job.run()
    assert continued.returncode == 0
    assert "finetune-mood: done" in continued.stdout
    assert ", loss 0.050, 10,000 tokens/s" in continued.stdout
    assert len(job.lines("steps.txt")) == 100


def test_the_ledger_of_a_run_that_was_killed_goes_on_and_its_programs_know(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "KEEP_SECONDS", 0.05)
    kept: list[bytes] = []
    job.wanting({"clean": {"seconds": 0.3}, "train": {"steps": 1000}, "report": {}})
    first = in_this_process(job, StringIO())
    first.ledger = RunLedger(None, "t", kept.append)

    def ask() -> None:
        wait_for(lambda: kept and b"productive" in kept[-1])
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    assert first.all_stages().stopped
    asking.join()
    told = json.loads(kept[-1])
    assert told["state"] == "queued", "somebody wanted it to end"
    killed = json.dumps(told | {"state": "down"}).encode()

    job.wanting({"clean": {"seconds": 0.3}, "train": {"steps": told["furthest_step"] + 5}, "report": {}})
    again = in_this_process(job, StringIO())
    again.ledger = RunLedger(killed, "t", kept.append)
    outcome = again.all_stages()
    assert outcome.exit_code == 0
    assert set(outcome.state.goodput) >= {"preprocessing", "initializing", "productive", "down"}
    found = json.loads(kept[-1])
    assert found["state"] is None
    assert sum(found["seconds"].values()) == pytest.approx(time.time() - found["since"], abs=0.5)
    assert job.environment("train")["PRETRAIN_FURTHEST_STEP"] == str(told["furthest_step"])
    assert set(json.loads(job.environment("report")["PRETRAIN_LEDGER"])) == set(found["seconds"])


def test_asking_twice_ends_at_once(job: Job) -> None:
    job.wanting({"clean": {"tasks": 2, "parallelism": 2, "fault": "deaf", "seconds": 60}})
    with job.started() as process:
        wait_for(lambda: len(job.processes()) == 2 and "deaf" in logged(job))
        process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        assert process.poll() is None, "it waits for the deaf one"
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert time.monotonic() - asked < 3
    assert process.returncode == 130
    assert job.processes() == []


def test_a_program_that_does_not_stop_is_killed_after_a_while(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "GRACE_SECONDS", 1.0)
    job.wanting({"clean": {"fault": "deaf"}})
    output = StringIO()
    run = in_this_process(job, output)

    def ask() -> None:
        wait_for(lambda: "deaf" in logged(job))
        os.kill(os.getpid(), signal.SIGTERM)

    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    asking = threading.Thread(target=ask)
    asking.start()
    begun = time.monotonic()
    outcome = run.all_stages()
    asking.join()
    assert outcome.exit_code == 143
    assert "clean: stopped after" in output.getvalue()
    assert time.monotonic() - begun < 10
    assert job.processes() == []
    assert before == [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_what_the_engine_kills_is_not_the_reason(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process loses the storage; the other does not stop when asked, and is killed. The first gives reason and code."""
    monkeypatch.setattr(engine, "GRACE_SECONDS", 0.5)
    job.wanting({"clean": {"tasks": 2, "parallelism": 2, "fault": "storage", "fault_at": 1, "also": "deaf"}})
    outcome = in_this_process(job, StringIO()).all_stages()
    assert (outcome.exit_code, outcome.message) == (75, "storage: cannot write s3://bucket/key (503)")


def test_nobody_is_left_behind_by_kill_9(job: Job) -> None:
    job.wanting({"clean": {"tasks": 2, "parallelism": 2, "seconds": 0.1}, "train": {"steps": 50, "seconds": 0.05}})
    with job.started() as process:
        wait_for(lambda: len(job.lines("steps.txt")) > 5)
        assert len(job.processes()) == 1
        process.kill()
        process.wait()
        wait_for(lambda: job.processes() == [], seconds=2.0)
    steps = len(job.lines("steps.txt"))
    continued = job.run()
    assert continued.returncode == 0
    assert "clean: unchanged" in continued.stdout
    assert len(job.lines("steps.txt")) == steps + 50


def test_kill_9_while_a_program_still_starts(job: Job) -> None:
    """A program whose parent is dead before it looks must not take its new parent for the old one."""
    job.wanting({"clean": {"late": 1.0, "seconds": 1.0}})
    with job.started() as process:
        wait_for(lambda: len(job.processes()) == 1)
        process.kill()
        process.wait()
        wait_for(lambda: job.processes() == [], seconds=3.0)
    assert job.lines("done.txt") == []


def test_ctrl_c_on_a_terminal_reaches_the_engine_alone(job: Job) -> None:
    """The terminal sends SIGINT to its whole process group; the programs are not in it, and training can save."""
    job.wanting({"train": {"steps": 1000, "seconds": 0.02, "saving": 0.5}})
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [*job.command, "--table"])
    output = b""
    with contextlib.suppress(OSError):
        while not job.lines("steps.txt")[10:]:
            output += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        while data := os.read(terminal, 4096):
            output += data
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert b"saves a checkpoint; press Ctrl-C again" in output
    assert int((job.storage / "checkpoint").read_text()) == len(job.lines("steps.txt"))
    assert "KeyboardInterrupt" not in logged(job)


def test_a_closed_terminal_stops_the_run_cleanly(job: Job) -> None:
    job.wanting({"train": {"steps": 1000, "seconds": 0.02, "saving": 0.5}})
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [*job.command, "--table"])
    while not job.lines("steps.txt")[10:]:
        os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert int((job.storage / "checkpoint").read_text()) == len(job.lines("steps.txt"))


def test_a_reader_that_goes_away_does_not_end_the_run(job: Job) -> None:
    job.wanting({"preflight": {}, "clean": {"seconds": 0.5}, "report": {}})
    with job.started() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "preflight: running\n"
        process.stdout.close()
        assert process.wait(timeout=20) == 0
    assert job.lines("done.txt") == ["preflight 0", "clean 0", "report 0"]


def in_this_process(job: Job, output: StringIO) -> Run:
    """A run whose engine is this process."""
    return Run(
        "stand-in",
        stand_ins(job.folder / "job.json"),
        open_folder(job.storage),
        job.folder / "logs",
        Machine(cores=2, environment=os.environ),
        LineView(Console(file=output)),
    )


def logged(job: Job) -> str:
    """Everything in the log files."""
    return "".join(path.read_text() for path in (job.folder / "logs").rglob("std*.log"))
