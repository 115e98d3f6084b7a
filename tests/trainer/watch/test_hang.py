"""Two processes, one of which is stopped: the group is over within its limit, all say where they stand, and a new one goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import Site, Trained
from tests.trainer.jobs import Run, descendants, start

pytestmark = pytest.mark.slow

SLOWEST_EXIT = 20.0
"""From the end of the limit on, on a busy machine: to see it, to say where all stand, to leave."""


def of_rank(run: Run, rank: int) -> int:
    """The process of a rank."""
    for pid in descendants(run.process.pid):
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"no rank {rank}")


def test_a_rank_that_is_stopped_ends_the_group_within_its_limit(site: Site, trained_by_two: Trained) -> None:
    settings: dict[str, Any] = {"processesPerNode": 2, "deepspeed": {"zeroStage": 3}, "faults": {"stepLimitSeconds": 6}}
    run = start("launch", site.write(**settings))
    run.until("checkpoint", step=16)
    victim = of_rank(run, 1)
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    assert run.ended() == 75
    assert 4 < time.monotonic() - began < 6 + SLOWEST_EXIT
    assert not descendants(run.process.pid)

    of_node = run.errors[-1]
    assert of_node.startswith("rank 1 did not answer for "), run.errors
    (error,) = [said for said in run.of("error") if said.get("rank") == 0]
    assert error["message"] == of_node
    assert error["traceback"].startswith("thread MainThread:")
    assert "in take_step" in error["traceback"]
    assert "(most recent call first)" in run.stderr.read_text(), "of the one that was stopped too, as it was killed"
    assert "in take_step" in run.stderr.read_text()
    assert run.of("account"), "where the time went is said all the same"

    again = start("launch", site.write(**settings))
    assert again.result["final_loss"] == trained_by_two.facts["final_loss"]
    assert any("going on from step" in said["message"] for said in again.of("info"))


def test_a_single_rank_is_looked_after_by_its_launcher(site: Site) -> None:
    run = start("launch", site.write(faults={"stepLimitSeconds": 6}))
    run.until("step", step=1)
    run.until("checkpoint", step=16)
    os.kill(of_rank(run, 0), signal.SIGSTOP)
    began = time.monotonic()
    assert run.ended() == 75
    assert time.monotonic() - began < 6 + SLOWEST_EXIT
    assert run.errors[-1].startswith("rank 0 did not answer for "), run.errors
