"""A run that is killed in every stage ends with the same model, to the last bit, as one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.run import whole

SEED = 7
GONE_SECONDS = 10.0
RUN_SECONDS = 240
STARTED_SECONDS = 3.0
"""Until a run's own program has been loaded, or is left, on a busy machine: what it cannot count of itself."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "raw"
    whole.lay_out_text(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a run that was left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(whole.job(folder, text))
    return folder / "storage"


@pytest.mark.slow
def test_killed_in_every_stage(text: Path, undisturbed: Path, tmp_path: Path) -> None:
    job = whole.job(tmp_path, text)
    rng = random.Random(SEED)
    for stage in whole.STAGES:
        kill_in(job, f"{stage}: running", rng.uniform(0.0, 1.5))
    finish(job)
    assert whole.result(tmp_path / "storage") == whole.result(undisturbed)


@pytest.mark.slow
def test_killed_in_mid_training(text: Path, undisturbed: Path, tmp_path: Path) -> None:
    job = whole.job(tmp_path, text)
    whole.copy_tokens(undisturbed, tmp_path / "storage")
    began = time.time()
    # Far enough from the last step that some are left for the run that is not killed.
    for attempt, step in enumerate((4, 12, 20), start=1):
        kill_at_checkpoint(job, tmp_path / "storage" / "checkpoints" / f"step-{step:08d}-attempt-{attempt}" / "COMMITTED")
    finish(job)
    assert whole.result(tmp_path / "storage") == whole.result(undisturbed)
    check_ledger(tmp_path / "storage", time.time() - began, starts=4)


def check_ledger(storage: Path, wall: float, starts: int) -> None:
    """Every second of all runs is in one state, those between them too."""
    kept = json.loads((storage / "reports" / "goodput.json").read_text())
    booked = kept["until"] - kept["since"]
    assert sum(kept["seconds"].values()) == pytest.approx(booked, abs=0.01)
    assert wall - STARTED_SECONDS * starts - 0.01 * wall <= booked <= wall
    assert kept["state"] is None
    assert set(kept["seconds"]) >= {"preprocessing", "initializing", "productive", "checkpoint", "down"}


def start(job: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "pretrain_operator.cli",
        "run",
        str(job),
        "--plain",
        "--log-dir",
        str(job.parent / "logs"),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(job: Path) -> None:
    """Runs the job to its end."""
    run = start(job)
    output, _ = run.communicate(timeout=RUN_SECONDS)
    assert run.returncode == 0, output


def kill_in(job: Path, line: str, after: float) -> None:
    """Starts the job and kills it with SIGKILL that many seconds after it said `line`."""
    run = start(job)
    assert run.stdout is not None
    said = []
    for words in run.stdout:
        said.append(words)
        if words.startswith(line):
            break
    else:
        pytest.fail(f"the run ended before it said {line!r}:\n{''.join(said)}")
    time.sleep(after)
    kill(run)


def kill_at_checkpoint(job: Path, marker: Path) -> None:
    """Starts the job and kills it as soon as a checkpoint is committed, amid the steps that follow."""
    run = start(job)
    deadline = time.monotonic() + RUN_SECONDS
    while not marker.exists():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline, f"no {marker} after {RUN_SECONDS} s"
        time.sleep(0.01)
    kill(run)


def kill(run: subprocess.Popen[str]) -> None:
    """Kills the program alone; the processes that it had started must leave by themselves."""
    children = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    _, alive = psutil.wait_procs(children, timeout=GONE_SECONDS)
    assert not alive, f"still there {GONE_SECONDS} s after their parent was killed: {alive}"
