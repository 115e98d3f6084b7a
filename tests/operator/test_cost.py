"""What a job costs: GPU time that its pods held, and a budget that halts it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pretrain_operator import reasons
from pretrain_operator.children import cluster_site
from pretrain_operator.cost import gpus_of
from pretrain_operator.observed import Apply, Fault, Progress
from pretrain_operator.stages import stages
from pretrain_operator.status import PretrainJobStatus

from tests.operator.cluster_state import State
from tests.operator.golden import IMAGES, golden_jobs
from tests.operator.jobs import prediction, task

GPUS = {"training.gpusPerNode": 8, "training.globalBatchTokens": 8192, "training.tokens": 2_000_000}


def training(**cost: float) -> State:
    """A job whose two pods of eight GPUs have just begun to train."""
    state = State(GPUS | {"cost": cost}).until("train")
    state.settle()
    state.start("train", 0, 1)
    state.settle()
    return state


def cost(state: State) -> dict[str, Any]:
    """What is said once something else is to be said as well."""
    state.edit(ttlSecondsAfterFinished=state.job["metadata"]["generation"] + 1)
    state.reconcile()
    said = state.job["status"].get("cost", {})
    assert isinstance(said, dict)
    return said


def test_gpus_cost_from_when_pods_have_nodes_until_they_end() -> None:
    state = training(pricePerGPUHour=2.5)
    state.later(1800)
    assert cost(state) | {"since": ""} == {"since": "", "gpuSeconds": 16 * 1800, "spent": 20}
    state.finish("train")
    state.settle()
    state.later(600)
    assert cost(state)["spent"] == 20
    state.start("evaluate", 0)
    state.later(3600)
    assert cost(state)["spent"] == 22.5, "evaluation holds one"
    state.edit(cost__pricePerGPUHour=5.0)
    assert cost(state)["spent"] == 45


def test_pods_without_a_node_cost_nothing_and_neither_does_a_job_on_cpu() -> None:
    state = training(pricePerGPUHour=2.5)
    state.unschedulable("train", 1)
    state.later(200)
    assert cost(state)["gpuSeconds"] == 8 * 200
    on_cpu = State({"cost": {"pricePerGPUHour": 2.5, "budget": 1}}).until("train")
    on_cpu.start("train", 0, 1)
    on_cpu.later(10**6)
    assert cost(on_cpu) == {}
    assert on_cpu.condition("Suspended")["status"] == "False"


def test_fine_tuning_and_predicting_cost_what_they_hold_also_beside_training_on_cpu() -> None:
    course = {"finetune": [task({"gpus": 4})], "predict": [prediction({"task": "mood", "tasks": 3, "parallelism": 3})]}
    state = State(course | {"cost": {"pricePerGPUHour": 1}}).until("finetune-mood")
    state.start("finetune-mood", 0)
    state.later(3600)
    assert cost(state) | {"since": ""} == {"since": "", "gpuSeconds": 4 * 3600, "spent": 4}
    state.finish("finetune-mood")
    state.until("predict-new").start("predict-new", 0, 1, 2)
    state.later(3600)
    assert cost(state)["spent"] == 7


@pytest.mark.parametrize("name", golden_jobs())
def test_pods_cost_the_gpus_that_they_ask_for(name: str) -> None:
    parsed = golden_jobs()[name]
    asked = {
        one.name: one.role.resource.gpu for one in stages(parsed, cluster_site(parsed, IMAGES)) if one.role.resource.gpu
    }
    counted = gpus_of(parsed.spec.model_dump(by_alias=True, exclude_none=True))
    assert {stage: gpus for stage, gpus in counted.items() if gpus} == asked


def test_a_budget_that_is_spent_halts_the_job_as_suspending_does_until_it_is_raised() -> None:
    state = training(pricePerGPUHour=2.5, budget=20)
    again = state.settle().again_seconds
    assert again is not None
    assert 1800 < again <= 1802, "nothing else would tell"
    state.later(again)
    state.settle()
    halted = state.condition("Suspended")
    assert (halted["status"], halted["reason"], state.reason()) == ("True", reasons.BUDGET_EXCEEDED, reasons.BUDGET_EXCEEDED)
    assert "spec.cost.budget: 20 is spent (8.00 GPU hours x 2.5 = 20.01)" in halted["message"]
    assert "raise the budget" in halted["message"]
    restart = state.job["status"]["restarts"][-1]
    assert (restart["reason"], restart["message"]) == ("Suspended", halted["message"])
    assert "deletionTimestamp" in state.workloads["train"]["metadata"]
    assert state.job["status"]["phase"] == "Suspended"
    state.later(60)  # in which it saves
    state.gone("train")
    state.settle()
    assert "train" not in state.workloads
    state.edit(cost__budget=40.0)
    state.settle()
    assert state.condition("Suspended")["status"] == "False"
    assert state.workloads["train"]["metadata"]["labels"]["pretrain.dev/attempt"] == "2"


def test_an_indexed_stage_is_halted_too() -> None:
    state = training(pricePerGPUHour=2.5, budget=20)
    state.later(1700)
    state.finish("train")
    state.settle()
    state.start("evaluate", 0)
    state.later(3600)
    state.settle()
    assert state.reason("Suspended") == reasons.BUDGET_EXCEEDED
    assert state.workloads["evaluate"]["spec"]["suspend"] is True
    state.edit(cost__budget=100.0)
    state.settle()
    assert state.workloads["evaluate"]["spec"]["suspend"] is False


# What the ledger and the restarts tell programs


def heard(state: State, step: int, checkpoint: int, **seconds: float) -> Progress:
    uid = state.pod("train", 0)["metadata"]["uid"]
    return Progress(uid, state.now, step, 245, 1, checkpoint_step=checkpoint, seconds=seconds)


def variables(state: State, stage: str) -> dict[str, str]:
    spec = state.workloads[stage]["spec"]
    template = spec["template"] if "template" in spec else spec["pytorchReplicaSpecs"]["Worker"]["template"]
    return {one["name"]: one.get("value") for one in template["spec"]["containers"][0]["env"]}


def restart(state: State) -> None:
    state.end("train", 0, 137, "killed")
    state.later(11)
    state.settle()
    state.gone("train")
    state.later(700)
    state.settle()


def test_a_restart_tells_how_far_it_was_and_the_next_attempt_what_it_repeats() -> None:
    state = State({"training.nodes": 1}).until("train")
    state.settle()
    assert "PRETRAIN_FURTHEST_STEP" not in variables(state, "train")
    state.start("train", 0)
    state.later(60)
    state.progress = heard(state, 120, 100, initializing=10, productive=50)
    state.settle()
    state.progress = heard(state, 130, 100, initializing=10, productive=55)  # heard, and not yet told
    restart(state)
    said = state.job["status"]
    assert (said["restarts"][-1]["step"], said["restarts"][-1]["checkpointStep"]) == (130, 100)
    assert said["restartsByReason"] == {"Infrastructure": 1}
    assert variables(state, "train")["PRETRAIN_FURTHEST_STEP"] == "130"
    state.start("train", 0)
    restart(state)  # before it was heard
    assert "step" not in state.job["status"]["restarts"][-1]
    assert state.job["status"]["restartsByReason"] == {"Infrastructure": 2}
    assert variables(state, "train")["PRETRAIN_FURTHEST_STEP"] == "130"


def test_restarts_that_an_earlier_operator_told_of_are_counted() -> None:
    state = State({"training.nodes": 1}).until("train")
    state.start("train", 0)
    state.settle()
    restart(state)
    del state.job["status"]["restartsByReason"]
    state.start("train", 0)
    restart(state)
    assert state.job["status"]["restartsByReason"] == {"Infrastructure": 2}


def test_the_report_is_told_where_the_time_went_the_same_however_often_it_is_made() -> None:
    state = State({"training.nodes": 1}).until("export")
    state.settle()
    state.later(30)
    state.start("export", 0)
    state.later(50)
    state.finish("export")
    made = set()
    for _ in range(3):  # the operator is killed before it knows that it has made it
        state.later(7)
        (apply,) = (action for action in state.plan().actions if isinstance(action, Apply))
        env = apply.body["spec"]["template"]["spec"]["containers"][0]["env"]
        made.add(next(one["value"] for one in env if one["name"] == "PRETRAIN_LEDGER"))
    assert [json.loads(told) for told in made] == [{"queued": 30.0, "productive": 50.0}]


@pytest.mark.parametrize("stage", ["preflight", "train", "report"])
def test_time_alone_is_no_reason_to_write(stage: str) -> None:
    state = training(pricePerGPUHour=1.0) if stage == "train" else State().until(stage)
    state.settle()
    before = state.job["status"]
    state.later(3600)
    assert state.plan().status == before
    assert PretrainJobStatus.model_validate(before).goodput is not None


@pytest.mark.parametrize("finished", [False, True])
def test_an_upgrade_alone_is_no_reason_to_write(finished: bool) -> None:
    """The status of an operator that kept no accounts says nothing else."""
    state = State().until("report")
    if finished:
        state.finish("report")
    state.settle()
    for name in ("goodput", "cost", "restartsByReason"):
        state.job["status"].pop(name, None)
    state.later(100)
    assert state.plan().status == state.job["status"]


def test_a_fault_leaves_the_accounts_alone() -> None:
    state = State().until("clean")
    state.settle()
    before = state.job["status"]
    state.later(100)
    state.fault = Fault("ApplyRefused", "exceeded quota")
    state.settle()
    assert state.job["status"]["goodput"] == before["goodput"]
