"""SIGTERM at the moments that are far from a step's end, and a clock that is set: nothing is lost, nothing is computed otherwise."""

from __future__ import annotations

import pytest

from tests.trainer.conftest import Site, Trained
from tests.trainer.jobs import STEPS
from tests.trainer.watch.faults import start_faulty

pytestmark = pytest.mark.slow

DAY = 86_400.0
MOMENTS = [("accumulation", 1, 2), ("validation", 24, 26), ("accumulation", 30, 31)]
"""In the first step, between two steps, and between two micro-batches; and the step that is saved. All processes learn of a wish to
stop with the sum of a step's losses, which is read when the next step has ended."""


def test_a_step_soon_after_is_saved_and_the_next_start_goes_on_from_it(site: Site, trained: Trained) -> None:
    file = site.write()
    for where, step, saved in MOMENTS:
        run = start_faulty(file, asked=[where, step])
        assert run.ended() != 0
        assert run.of("result") == []
        *_, last = run.of("checkpoint")
        assert last["step"] == saved, f"asked to stop in {where}"
    ended = start_faulty(file)
    assert ended.result["final_loss"] == trained.facts["final_loss"]
    assert any(said["message"].endswith("going on from step 31") for said in ended.of("info"))
    assert ended.result["validation_loss"] == trained.facts["validation_loss"]


def test_a_clock_that_is_set_changes_nothing(site: Site, trained: Trained) -> None:
    """A day ahead, then a day behind, while checkpoints are made and the limits of steps are watched."""
    run = start_faulty(site.write(faults={"stepLimitSeconds": 20}), clock={"5": DAY, "20": -DAY, "40": 0.0})
    assert run.result["final_loss"] == trained.facts["final_loss"]
    assert run.of("warning") == run.of("error") == []
    assert [said["step"] for said in run.of("checkpoint")] == [16, 32, STEPS]
    steps = [line for line in site.record() if line["kind"] == "step"]
    assert len(steps) == STEPS
    assert all(0 < line["seconds"] < 20 for line in steps)
    (account,) = run.of("account")
    assert all(0 <= seconds < 120 for seconds in account["seconds"].values())
