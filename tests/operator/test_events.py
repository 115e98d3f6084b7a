"""Which changes of a status are announced."""

from __future__ import annotations

from pretrain_operator.events import Announcement, events
from pretrain_operator.observed import Fault

from tests.operator.cluster_state import State


def announced(state: State) -> list[Announcement]:
    """Reconciles until rest and returns what was announced on the way."""
    said = []
    for _ in range(4):
        before = state.job.get("status") or {}
        state.reconcile()
        said += events(before, state.job["status"])
    return said


def reasons(said: list[Announcement]) -> list[str]:
    return [f"{one.type} {one.reason}" for one in said]


def test_a_job_announces_its_start_its_stages_and_its_end() -> None:
    state = State({"corpus.deduplicate": {"method": "none"}})
    said = []
    for stage in state.all_stages():
        said += announced(state)
        state.finish(stage.name)
    said += announced(state)
    stages = len(state.all_stages())
    assert reasons(said) == ["Normal Accepted", *["Normal StageSucceeded"] * stages, "Normal Succeeded"]


def test_progress_is_not_announced() -> None:
    state = State({"corpus.tasks": 20}).until("clean")
    announced(state)
    state.start("clean", 0, 1, 2)
    state.workloads["clean"]["status"] = {"succeeded": 7}
    assert announced(state) == []


def test_a_restart_is_announced_once_with_its_cause() -> None:
    state = State().until("train")
    state.settle()
    state.start("train", 0, 1)
    announced(state)
    state.end("train", 1, 137, "rank 1: killed by SIGKILL")
    said = announced(state)
    assert reasons(said) == ["Warning GroupRestarted"]
    assert said[0].message == "attempt 1 ended (Infrastructure): pod 1 ended with 137: rank 1: killed by SIGKILL"


def test_suspending_and_resuming() -> None:
    state = State().until("clean")
    announced(state)
    state.edit(suspend=True)
    assert reasons(announced(state)) == ["Normal Suspended"]
    state.edit(suspend=False)
    assert reasons(announced(state)) == ["Normal Resumed"]


def test_what_hinders_a_job_and_its_end() -> None:
    state = State().until("clean")
    announced(state)
    state.start("clean", 0)
    state.waiting("clean", 0, "ImagePullBackOff", "no such host")
    assert reasons(announced(state)) == ["Warning ImagePull"]
    state.pods.clear()
    state.start("clean", 0)
    assert reasons(announced(state)) == ["Normal Recovered"]


def test_a_group_that_is_let_go_has_not_recovered() -> None:
    state = State({"training.nodes": 2}).until("train")
    state.start("train", 0, 1)
    state.unschedulable("train", 1, "0/2 nodes are available: 2 Insufficient cpu.")
    assert reasons(announced(state))[-1] == "Warning Unschedulable"
    state.later(301)
    assert reasons(announced(state)) == ["Warning GroupRestarted"]


def test_a_fault_is_announced() -> None:
    state = State()
    state.fault = Fault("ApplyRefused", "quota")
    said = announced(state)
    assert reasons(said) == ["Normal Accepted", "Warning ApplyRefused"]


def test_a_refused_job() -> None:
    state = State({"training.nodes": 3})
    assert reasons(announced(state)) == ["Warning Invalid"]


def test_a_failed_job() -> None:
    state = State().until("clean")
    announced(state)
    state.start("clean", 0)
    state.end("clean", 0, 65, "no such file")
    state.fail("clean")
    assert reasons(announced(state)) == ["Warning UserError"]


def test_editing_a_finished_job() -> None:
    state = State().until("report")
    state.finish("report")
    announced(state)
    state.edit(training__tokens=2_000_000)
    assert reasons(announced(state)) == ["Warning AlreadyFinished"]
