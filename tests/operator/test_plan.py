"""What is decided about a job, as tables: each test drives a job through states that an API server could show."""

from __future__ import annotations

from typing import Any

import pytest
from pretrain_operator import reasons
from pretrain_operator.observed import Apply, Delete, Fault, Patch, Progress
from pretrain_stage.errors import PEER_LEFT
from pretrain_stage.process import TRACEBACK_BELOW

from tests.operator.cluster_state import NOW, State, stamp
from tests.operator.jobs import prediction, task

TRAINING_STAGES = ["train", "evaluate", "export", "report"]


def kinds(actions: Any) -> list[str]:
    return [
        f"{type(action).__name__} {action.body['kind'] if isinstance(action, Apply) else action.kind}" for action in actions
    ]


# The course


def test_a_job_runs_its_stages_in_order_and_succeeds() -> None:
    state = State()
    seen: list[str] = []
    for stage in state.all_stages():
        state.settle()
        assert list(state.workloads) == [*seen, stage.name]  # a barrier: nothing of the next before
        assert state.job["status"]["stage"] == stage.name
        seen.append(stage.name)
        state.finish(stage.name)
    state.settle()
    assert seen[-4:] == TRAINING_STAGES
    assert state.condition("Succeeded")["status"] == "True"
    assert state.job["status"]["phase"] == "Succeeded"
    assert "s3://models/right/export/" in state.condition("Succeeded")["message"]


def test_the_first_reconcile_makes_config_map_and_first_stage_and_says_all_conditions() -> None:
    state = State()
    decided = state.reconcile()
    assert kinds(decided.actions) == ["Apply ConfigMap", "Apply Job"]
    assert decided.urgent
    assert [one["type"] for one in state.job["status"]["conditions"]] == [
        "Accepted",
        "Progressing",
        "Suspended",
        "Succeeded",
        "Failed",
    ]
    assert {one["observedGeneration"] for one in state.job["status"]["conditions"]} == {1}


@pytest.mark.parametrize("stage", [stage.name for stage in State().all_stages()])
def test_at_rest_nothing_is_done_and_the_status_stays(stage: str) -> None:
    state = State().until(stage)
    state.settle()
    before = state.job["status"]
    state.later(3600)
    decided = state.plan()
    assert (decided.actions, decided.status, decided.urgent) == ((), before, False)


@pytest.mark.parametrize("stage", [stage.name for stage in State().all_stages()])
def test_another_version_of_the_operator_restarts_nothing(stage: str) -> None:
    """A newer operator renders other templates, and fills in fields that the older one did not know."""
    state = State().until(stage)
    state.settle()
    made = state.workloads[stage]
    made["metadata"]["annotations"]["pretrain.dev/spec-digest"] = "0000000000-0000000000"
    assert state.plan().actions == ()


def test_finished_stages_whose_workloads_were_removed_are_not_run_again() -> None:
    state = State().until("train")
    state.settle()
    for stage in list(state.workloads):
        if stage != "train":
            del state.workloads[stage]
    assert state.plan().actions == ()


# What is refused


def test_arithmetic_that_the_api_server_cannot_check_is_refused_by_field() -> None:
    state = State({"training.schedule": {"warmupSteps": 1000}, "training.resources.memory": "64Mi"})
    state.settle()
    accepted = state.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", reasons.INVALID)
    assert "spec.training.schedule.warmupSteps: 1,000 is more than the 245 steps" in accepted["message"]
    assert "raise training.resources.memory" in accepted["message"]
    assert state.workloads == {}


def test_the_older_of_two_jobs_has_the_storage() -> None:
    older, younger = State(name="older", uid="u-1"), State(name="younger", uid="u-2")
    younger.job["metadata"]["creationTimestamp"] = stamp(NOW.replace(minute=30))
    younger.rivals, older.rivals = [older.job], [younger.job]
    older.settle()
    decided = younger.settle()
    assert younger.reason("Accepted") == reasons.STORAGE_IN_USE
    assert "PretrainJob older" in younger.condition("Accepted")["message"]
    assert younger.workloads == {}
    assert decided.again_seconds is not None
    assert older.reason("Accepted") == reasons.VALID

    older.until("report").finish("report")
    older.settle()
    younger.settle()
    assert younger.reason("Accepted") == reasons.VALID


def test_of_two_jobs_made_in_one_second_the_one_that_was_accepted_keeps_the_storage() -> None:
    first, second = State(name="first", uid="u-2"), State(name="second", uid="u-1")
    first.settle()
    first.rivals, second.rivals = [second.job], [first.job]
    second.settle()
    first.settle()
    assert first.reason("Accepted") == reasons.VALID
    assert second.reason("Accepted") == reasons.STORAGE_IN_USE


@pytest.mark.parametrize(
    ("mine", "other", "refused"),
    [
        ("s3://models/a", "s3://models/a/", True),
        ("s3://models/a/b", "s3://models/a", True),
        ("s3://models", "s3://models/a", True),
        ("s3://models/a", "s3://models/ab", False),
        ("s3://models/a", "s3://other/a", False),
    ],
)
def test_folders_that_overlap_are_one_storage(mine: str, other: str, refused: bool) -> None:
    state = State({"storage.uri": mine}, uid="u-2")
    state.rivals = [State({"storage.uri": other}, name="other", uid="u-1").job]
    state.settle()
    assert (state.reason("Accepted") == reasons.STORAGE_IN_USE) is refused


def test_a_job_of_another_namespace_is_not_named() -> None:
    rival = State(name="secret-plan", uid="u-0").job
    rival["metadata"]["namespace"] = "elsewhere"
    state = State()
    state.rivals = [rival]
    state.settle()
    message = state.condition("Accepted")["message"]
    assert "another namespace" in message
    assert "secret-plan" not in message
    assert "elsewhere" not in message


def test_a_job_of_another_controller_is_left_alone() -> None:
    state = State({"managedBy": "kueue.x-k8s.io/multikueue"})
    decided = state.plan()
    assert (decided.actions, decided.status) == ((), None)
    assert State({"managedBy": "pretrain.dev/pretrain-operator"}).plan().actions != ()


def test_a_job_that_is_being_deleted_is_left_alone() -> None:
    state = State()
    state.job["metadata"]["deletionTimestamp"] = stamp(NOW)
    assert state.plan().actions == ()


# Preprocessing


def test_a_mistake_in_preprocessing_fails_the_job_with_the_pods_own_words() -> None:
    state = State().until("clean")
    state.settle()
    state.start("clean", 0, 1)
    state.end("clean", 1, 65, "spec.corpus.sources[0].uri: s3://raw/none matches no file; correct it")
    state.fail("clean")
    state.settle()
    failed = state.condition("Failed")
    assert (failed["status"], failed["reason"]) == ("True", reasons.USER_ERROR)
    assert failed["message"].startswith("stage clean, task 1: spec.corpus.sources[0].uri: s3://raw/none matches no file")
    assert "apply it again" in failed["message"]
    assert state.stage("clean")["state"] == "Failed"


def test_a_task_that_is_tried_again_is_spoken_of() -> None:
    state = State().until("clean")
    state.start("clean", 0, 1)
    state.end("clean", 1, 75, "s3://raw: 503 Slow Down")
    state.settle()
    assert state.reason() == reasons.STAGE_RUNNING
    assert "task 1 has failed and is tried again: s3://raw: 503 Slow Down" in state.condition("Progressing")["message"]


@pytest.mark.parametrize(
    ("reason", "expected", "words"),
    [
        ("ImagePullBackOff", reasons.IMAGE_PULL, "the operator's administrator sets the images"),
        ("ErrImageNeverPull", reasons.IMAGE_PULL, "the operator's administrator sets the images"),
        ("CreateContainerConfigError", reasons.CONTAINER_CONFIG, "Secret s3 (spec.storage.credentialsSecretRef)"),
    ],
)
@pytest.mark.parametrize("stage", ["clean", "train"])
def test_a_pod_that_cannot_start_says_what_mends_it(stage: str, reason: str, expected: str, words: str) -> None:
    state = State().until(stage)
    state.start(stage, 0, 1)
    state.waiting(stage, 1, reason, "said by the kubelet")
    state.settle()
    progressing = state.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", expected)
    assert words in progressing["message"]
    assert "said by the kubelet" in progressing["message"]


def test_a_task_on_a_lost_node_is_spoken_of() -> None:
    state = State().until("clean")
    state.start("clean", 0, 1)
    state.disrupt("clean", 0, "DeletionByTaintManager")
    state.settle()
    assert state.reason() == reasons.NODE_LOST
    assert "node-0 does not answer" in state.condition("Progressing")["message"]


def test_a_job_that_cannot_replace_its_deleted_pods_is_deleted_with_them() -> None:
    """As in a namespace that is being deleted, which would wait for these pods for ever."""
    state = State().until("clean")
    state.start("clean", 0, 1)
    for index in (0, 1):
        state.pod("clean", index)["metadata"]["deletionTimestamp"] = stamp(NOW)
        state.end("clean", index, 143, "stopped; start again to continue")
    decided = state.settle()
    assert decided.actions == ()
    assert decided.again_seconds is not None
    state.later(decided.again_seconds + 1)
    assert kinds(state.plan().actions) == ["Delete Job"]


@pytest.mark.parametrize("pod", ["running", "replaced", "drained"])
def test_a_job_whose_pods_are_replaced_is_left_alone(pod: str) -> None:
    state = State().until("clean")
    state.start("clean", 0, 1)
    state.pod("clean", 0)["metadata"]["deletionTimestamp"] = stamp(NOW)
    state.end("clean", 0, 143)
    if pod == "drained":
        state.disrupt("clean", 1)
        state.end("clean", 1, 143)
    elif pod == "replaced":
        state.pod("clean", 1)["metadata"]["deletionTimestamp"] = stamp(NOW)
        state.end("clean", 1, 143)
        state.start("clean", 2)
    state.later(3600)
    assert state.plan().actions == ()


def test_counts_of_tasks() -> None:
    state = State({"corpus.tasks": 20}).until("clean")
    state.start("clean", 3, 4)
    state.workloads["clean"]["status"] = {"succeeded": 3, "failedIndexes": "5,7-9"}
    state.settle()
    stage = state.stage("clean")
    assert (stage["tasks"], stage["succeeded"], stage["active"], stage["failed"]) == (20, 3, 2, 4)
    assert state.job["status"]["progress"] == "3/20"


# Training


def training(spec: dict[str, Any] | None = None) -> State:
    state = State(spec).until("train")
    state.settle()
    state.start("train", 0, 1)
    state.settle()
    return state


def end_group(state: State) -> None:
    """The plan deletes the group, and it ends."""
    state.settle()
    state.gone("train")


def test_a_group_is_restarted_as_a_whole_as_the_next_attempt() -> None:
    state = training()
    state.end("train", 1, 137, "rank 1: killed by SIGKILL")
    decided = state.reconcile()
    # The number of the next attempt is written first; the group that carries the older one is taken away by the next look.
    assert (decided.actions, decided.urgent) == ((), True)
    assert state.job["status"]["training"]["attempt"] == 2
    decided = state.reconcile()
    assert kinds(decided.actions) == ["Delete Pod", "Delete PyTorchJob"]  # the one that still runs
    assert state.reason() == reasons.RESTARTING
    state.later(60)
    assert state.reconcile().actions == ()  # pods of the first attempt are still there
    state.gone("train")
    decided = state.reconcile()
    assert kinds(decided.actions) == ["Apply PyTorchJob"]
    labels = state.workloads["train"]["metadata"]["labels"]
    assert labels["pretrain.dev/attempt"] == "2"
    assert state.job["status"]["restartCount"] == 1
    restart = state.job["status"]["restarts"][-1]
    assert (restart["attempt"], restart["reason"]) == (1, "Infrastructure")
    assert restart["message"] == "pod 1 ended with 137: rank 1: killed by SIGKILL"


def test_the_cause_is_told_not_its_echo() -> None:
    state = training()
    state.end("train", 0, 75, f"rank 0: {PEER_LEFT}: Connection closed by peer")
    decided = state.settle()
    assert state.job["status"]["training"]["attempt"] == 1  # somebody else may still say why
    assert decided.again_seconds is not None
    assert decided.again_seconds <= 10
    state.later(2)
    state.end("train", 1, 1, "rank 1: CUDA error")
    state.reconcile()
    assert state.job["status"]["restarts"][-1]["message"] == "pod 1 ended with 1: rank 1: CUDA error"


def test_an_echo_alone_is_acted_on_after_a_while() -> None:
    state = training()
    state.end("train", 0, 75, f"rank 0: {PEER_LEFT}: timed out")
    state.later(11)
    state.reconcile()
    assert state.job["status"]["training"]["attempt"] == 2


def test_a_mistake_in_training_is_not_tried_again() -> None:
    state = training()
    state.end("train", 0, 75, f"rank 0: {PEER_LEFT}: x")
    state.end("train", 1, 65, "rank 1: loss is not a number at step 3; lower training.optimizer.learningRate")
    state.settle()
    failed = state.condition("Failed")
    assert (failed["status"], failed["reason"]) == ("True", reasons.USER_ERROR)
    assert "lower training.optimizer.learningRate" in failed["message"]


def test_the_budget_counts_faults_and_not_disruptions() -> None:
    state = training({"training.maxRestarts": 1})
    for number in range(3):
        state.disrupt("train", 0)
        end_group(state)
        state.later(700)
        state.settle()
        state.start("train", 0, 1)
        assert state.job["status"]["training"]["attempt"] == number + 2
    assert state.job["status"]["restartCount"] == 0
    for _ in range(2):
        state.end("train", 0, 1, "rank 0: boom")
        state.settle()
        if state.condition("Failed")["status"] == "True":
            break
        state.gone("train")
        state.later(700)
        state.settle()
        state.start("train", 0, 1)
    assert state.reason("Failed") == reasons.RESTARTS_EXHAUSTED
    assert "rank 0: boom" in state.condition("Failed")["message"]
    assert "spec.training.maxRestarts: 1" in state.condition("Failed")["message"]


def test_a_drained_node_is_a_disruption_and_pods_that_save_are_waited_for() -> None:
    state = training()
    state.disrupt("train", 0)
    state.fail("train", "PyTorchJob right-train is failed because 1 Worker replica(s) failed.")
    state.settle()
    assert state.job["status"]["restarts"][-1]["reason"] == "Disruption"
    assert "node-0 (EvictionByEvictionAPI)" in state.job["status"]["restarts"][-1]["message"]
    assert state.plan().actions == ()  # deleted in the foreground, nothing is forced


def test_pods_of_a_lost_node_are_forced_away() -> None:
    state = training()
    state.disrupt("train", 1, "DeletionByTaintManager")
    state.reconcile()
    decided = state.reconcile()
    # The other one hangs in a collective: nothing can be saved, so it need not have its whole grace period.
    assert kinds(decided.actions) == ["Delete Pod", "Delete PyTorchJob"]
    assert [(one.name, one.grace_seconds) for one in decided.actions[:1] if isinstance(one, Delete)] == [
        ("right-train-0", 20)
    ]
    # Kubernetes deletes the lost one by its name, which the next attempt's pod is to have: it gets the time for it.
    assert decided.again_seconds == 3
    state.later(2)
    assert state.plan().actions == ()
    state.later(1)
    assert [(one.name, one.grace_seconds) for one in state.plan().actions if isinstance(one, Delete)] == [
        ("right-train-1", 0)
    ]


def test_a_pod_of_a_lost_node_is_lost_before_it_is_deleted() -> None:
    """Its condition comes first: were the group deleted then, the survivor would be given its whole grace period."""
    state = training()
    state.disrupt("train", 1, "DeletionByTaintManager")
    del state.pod("train", 1)["metadata"]["deletionTimestamp"]
    state.reconcile()
    assert kinds(state.reconcile().actions) == ["Delete Pod", "Delete PyTorchJob"]


def test_a_pod_that_was_deleted_while_the_operator_was_away_is_a_disruption() -> None:
    """It is gone; all that is left to see is that the other one was asked to stop, and saved."""
    state = training()
    del state.pods["right-train-0"]
    state.end("train", 1, 143, "stopped; start again to continue")
    state.fail("train", "PyTorchJob right-train is failed because 1 Worker replica(s) failed.")
    state.settle()
    assert state.job["status"]["restartCount"] == 0
    restart = state.job["status"]["restarts"][-1]
    assert (restart["reason"], restart["message"]) == ("Disruption", "1 of 2 pods were deleted")


def test_pods_that_overstay_their_grace_period_are_forced_away() -> None:
    state = training()
    state.disrupt("train", 1)  # its grace period ends in 300 s
    state.settle()
    state.later(359)
    assert state.plan().actions == ()
    state.later(2)
    forced = state.plan().actions[0]
    assert isinstance(forced, Delete)
    assert (forced.name, forced.grace_seconds) == ("right-train-1", 0)


def test_no_group_begins_beside_pods_of_the_one_before() -> None:
    state = training()
    state.end("train", 1, 1, "boom")
    state.settle()
    del state.workloads["train"]  # the group is gone, its pods are not
    state.later(15)
    assert state.settle().actions == ()
    state.pods.clear()
    assert kinds(state.plan().actions) == ["Apply PyTorchJob"]


def test_attempts_that_get_nowhere_wait_longer_each_time() -> None:
    state = training({"training.maxRestarts": 100})
    waits = []
    for _ in range(9):
        state.end("train", 0, 1, "boom")
        end_group(state)
        decided = state.reconcile()
        waits.append(round(decided.again_seconds or 0))
        assert state.reason() == reasons.RESTARTING
        state.later(waits[-1])
        state.settle()
        state.start("train", 0, 1)
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600]


def test_progress_shortens_the_wait_again() -> None:
    state = training()
    for checkpoint in (100, 200, 300):
        state.progress = progress(state, step=checkpoint, checkpoint_step=checkpoint)
        state.settle()
        state.end("train", 0, 1, "boom")
        end_group(state)
        assert state.reconcile().again_seconds == pytest.approx(5)
        state.later(5)
        state.settle()
        state.start("train", 0, 1)


def test_a_pod_that_cannot_be_scheduled_frees_the_others() -> None:
    state = training()
    state.unschedulable("train", 1, "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")
    decided = state.settle()
    assert state.reason() == reasons.UNSCHEDULABLE
    assert "Insufficient nvidia.com/gpu" in state.condition("Progressing")["message"]
    assert decided.again_seconds == pytest.approx(300)
    state.later(301)
    state.reconcile()
    decided = state.reconcile()
    # Those that run have waited for the one that does not: there is nothing that they could save.
    assert [(one.name, one.grace_seconds) for one in decided.actions if isinstance(one, Delete)] == [
        ("right-train-0", 20),
        ("right-train-1", 20),
        ("right-train", None),
    ]
    restart = state.job["status"]["restarts"][-1]
    assert restart["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in restart["message"]
    assert state.job["status"]["restartCount"] == 0
    state.gone("train")
    assert state.reconcile().again_seconds == pytest.approx(60)


def test_a_group_that_somebody_deleted_is_made_again() -> None:
    state = training()
    state.workloads["train"]["metadata"]["deletionTimestamp"] = stamp(NOW)
    assert state.settle().actions == ()
    state.gone("train")
    assert kinds(state.reconcile().actions) == ["Apply PyTorchJob"]


def progress(state: State, **fields: Any) -> Progress:
    known: dict[str, Any] = {
        "at": NOW,
        "step": 120,
        "steps": 245,
        "tokens": 491_520,
        "loss": 3.14159,
        "tokens_per_second": 1234.5,
    }
    return Progress(pod=state.pod("train", 0)["metadata"]["uid"], **(known | fields))


def test_progress_is_that_of_the_first_pod_of_this_attempt() -> None:
    state = training()
    read = state.plan().read_progress
    assert read is not None
    assert read["metadata"]["name"] == "right-train-0"
    state.progress = progress(state, eta_seconds=3905.0)
    state.settle()
    said = state.job["status"]["training"]
    assert (said["step"], said["steps"], said["loss"], said["tokensPerSecond"]) == (120, 245, 3.1416, 1234)
    assert said["eta"] == "1h5m"
    assert state.job["status"]["progress"] == "48%"
    state.progress = Progress(pod="of another attempt", at=NOW, step=7, steps=245, tokens=1)
    state.settle()
    assert state.job["status"]["training"]["step"] == 120


def test_finished_training_tells_its_final_loss() -> None:
    state = training()
    state.finish("train")
    state.end("train", 0, 0, '{"final_loss": 2.34567, "validation_loss": 2.5, "steps": 245}')
    state.settle()
    said = state.job["status"]["training"]
    assert (said["step"], said["loss"], said["validationLoss"], said["tokens"]) == (245, 2.3457, 2.5, 245 * 4096)


def test_progress_alone_is_not_urgent() -> None:
    state = training()
    state.progress = progress(state)
    decided = state.plan()
    assert decided.status != state.job["status"]
    assert not decided.urgent


# The life of a job


@pytest.mark.parametrize("stage", ["clean", "evaluate"])
def test_suspending_and_resuming_a_stage(stage: str) -> None:
    state = State().until(stage)
    state.settle()
    state.edit(suspend=True)
    decided = state.reconcile()
    assert [action.patch for action in decided.actions if isinstance(action, Patch)] == [{"spec": {"suspend": True}}]
    assert decided.urgent
    assert state.condition("Suspended")["status"] == "True"
    assert state.job["status"]["phase"] == "Suspended"
    assert state.settle().actions == ()
    state.edit(suspend=False)
    decided = state.reconcile()
    assert [action.patch for action in decided.actions if isinstance(action, Patch)] == [{"spec": {"suspend": False}}]
    assert state.condition("Suspended")["status"] == "False"


def test_suspending_training_ends_the_group_which_saves_and_goes_on_as_the_next_attempt() -> None:
    state = training()
    state.edit(suspend=True)
    state.reconcile()
    assert kinds(state.reconcile().actions) == ["Delete PyTorchJob"]
    state.gone("train")
    assert state.settle().actions == ()
    state.later(86_400)
    assert state.settle().actions == ()
    state.edit(suspend=False)
    assert kinds(state.reconcile().actions) == ["Apply PyTorchJob"]
    assert state.workloads["train"]["metadata"]["labels"]["pretrain.dev/attempt"] == "2"
    assert state.job["status"]["restartCount"] == 0


def test_a_suspended_job_starts_nothing() -> None:
    state = State({"suspend": True})
    state.settle()
    assert state.workloads == {}
    state.edit(suspend=False)
    state.settle()
    assert list(state.workloads) == ["preflight"]


def test_in_a_queue_suspend_is_kueues() -> None:
    state = State({"scheduling.queueName": "gpus"}).until("clean")
    made = state.workloads["clean"]
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "suspend" not in made["spec"]
    made["spec"]["suspend"] = True  # by Kueue's webhook
    state.settle()
    assert state.reason() == reasons.QUEUED
    assert made["spec"]["suspend"] is True
    made["spec"]["suspend"] = False
    state.settle()
    assert state.reason() == reasons.STAGE_RUNNING
    state.edit(suspend=True)  # the user's own wish: the workload goes, and its quota with it
    assert kinds(state.reconcile().actions) == ["Delete Job"]


def test_a_queued_group_is_waited_for() -> None:
    state = State({"scheduling.queueName": "gpus"}).until("train")
    state.workloads["train"]["spec"]["runPolicy"]["suspend"] = True
    state.settle()
    assert state.reason() == reasons.QUEUED
    assert "queue gpus" in state.condition("Progressing")["message"]


def test_parallelism_takes_effect_on_a_running_stage() -> None:
    state = State({"corpus.tasks": 8, "corpus.parallelism": 2}).until("clean")
    state.settle()
    state.edit(corpus__parallelism=6)
    decided = state.reconcile()
    assert [action.patch for action in decided.actions if isinstance(action, Patch)] == [{"spec": {"parallelism": 6}}]


@pytest.mark.parametrize(
    ("stage", "path", "value", "action"),
    [
        ("clean", "corpus__resources", {"cpu": "2", "memory": "8Gi"}, ["Delete Job"]),
        ("clean", "scheduling__nodeSelector", {"disk": "fast"}, ["Delete Job"]),
        ("clean", "training__tokens", 2_000_000, []),
        ("clean", "evaluation__maxNewTokens", 8, []),
        ("train", "training__tokens", 2_000_000, ["Delete PyTorchJob"]),
        ("train", "training__resources", {"cpu": "2", "memory": "32Gi"}, ["Delete PyTorchJob"]),
        ("train", "training__maxRestarts", 3, []),
        ("train", "corpus__resources", {"cpu": "2", "memory": "8Gi"}, []),
        ("train", "evaluation__maxNewTokens", 8, []),
        ("evaluate", "evaluation__maxNewTokens", 8, ["Delete Job"]),
    ],
)
def test_an_edit_restarts_what_it_concerns_and_nothing_else(stage: str, path: str, value: Any, action: list[str]) -> None:
    state = State().until(stage)
    state.settle()
    state.edit(**{path: value})
    done = []
    for _ in range(3):
        done += kinds(one for one in state.reconcile().actions if isinstance(one, Delete) and one.kind != "ConfigMap")
    assert done == action
    if action:
        state.gone(stage)
        state.settle()
        assert stage in state.workloads
    if action == ["Delete PyTorchJob"]:
        assert state.job["status"]["restarts"][-1]["reason"] == "Edited"


COURSE = {
    "finetune": [task(), task({"name": "names"})],
    "predict": [prediction({"task": "names"}), prediction({"name": "plain"})],
}


def _of(name: str) -> set[str]:
    return {f"{what}-{name}" for what in ("examples", "finetune", "evaluate", "export")}


@pytest.mark.parametrize(
    ("stage", "change", "again"),
    [
        ("evaluate-names", {"finetune": [task({"epochs": 5}), task({"name": "names"})]}, _of("mood")),
        ("predict-new", {"predict": [prediction({"task": "names", "stop": ["."]}), prediction({"name": "plain"})]}, {"predict-new"}),
        ("predict-plain", {"finetune": [task(), task({"name": "names", "epochs": 5})]}, {*_of("names"), "predict-new"}),
        ("predict-plain", {"finetune": [task({"name": "names"}), task()]}, set()),
        ("predict-plain", {"evaluation": {"maxNewTokens": 8}}, {"evaluate", "export"}),
    ],
)  # fmt: skip
def test_an_edited_entry_concerns_its_own_stages_alone(stage: str, change: dict[str, Any], again: set[str]) -> None:
    state = State(COURSE).until(stage)
    state.edit(**change)
    state.settle()
    if "deletionTimestamp" not in state.workloads[stage]["metadata"]:
        state.finish(stage)  # what is at work and not concerned comes first
    deleted = set()
    for _ in range(3):
        state.settle()
        for name in [name for name, made in state.workloads.items() if "deletionTimestamp" in made["metadata"]]:
            deleted.add(name)
            state.gone(name)
    assert deleted == again
    state.until("report")
    assert state.condition("Failed")["status"] == "False"


def test_a_task_that_is_added_while_the_model_is_trained_does_not_end_training() -> None:
    state = training({"finetune": [task()]})
    state.edit(finetune=[task(), task({"name": "names"})])
    state.settle()
    assert (state.job["status"]["stage"], state.job["status"]["training"]["attempt"]) == ("train", 1)
    assert (state.reason(), "examples-names" in state.workloads) == (reasons.STAGE_RUNNING, False)
    state.edit(suspend=True)
    state.settle()
    assert "deletionTimestamp" in state.workloads["train"]["metadata"], "it is the stage that is looked after"
    state.gone("train")
    state.edit(suspend=False)
    state.settle()
    assert (state.job["status"]["stage"], "train" in state.workloads) == ("examples-names", False), "before it begins again"
    state.finish("examples-names")
    state.until("report")


def test_what_an_older_operator_has_brought_far_gets_a_new_stage_and_loses_none() -> None:
    """Its jobs train, and knew no stage `vocabulary`."""
    state = training()
    del state.workloads["vocabulary"]
    state.job["status"]["stages"] = [one for one in state.job["status"]["stages"] if one["name"] != "vocabulary"]
    state.settle()
    assert (state.job["status"]["stage"], "vocabulary" in state.workloads) == ("train", False)
    state.finish("train")
    state.settle()
    assert state.job["status"]["stage"] == "vocabulary"
    assert state.stage("train")["state"] == "Succeeded"
    assert "deletionTimestamp" not in state.workloads["train"]["metadata"]


def test_the_stages_of_an_entry_that_is_taken_out_are_ended() -> None:
    state = State(COURSE).until("finetune-names")
    state.start("finetune-names", 0)
    state.edit(finetune=[task()], predict=[])
    state.settle()
    assert "deletionTimestamp" in state.workloads["finetune-names"]["metadata"]
    assert state.job["status"]["stage"] == "report"
    assert "finetune-names" not in [one["name"] for one in state.job["status"]["stages"]]


def test_fine_tuning_says_how_far_it_is_and_is_not_taken_for_training() -> None:
    state = State(COURSE).until("finetune-mood")
    assert state.job["status"]["phase"] == "Finishing"
    state.start("finetune-mood", 0)
    pod = state.pod("finetune-mood", 0)
    assert state.settle().read_progress == pod
    before = state.job["status"].get("training")
    state.progress = Progress(pod=pod["metadata"]["uid"], at=NOW, step=30, steps=40, tokens=9, loss=0.5)
    state.settle()
    assert state.job["status"]["progress"] == "75%"
    assert state.job["status"].get("training") == before
    state.finish("finetune-mood")
    state.settle()
    assert (state.job["status"]["stage"], state.job["status"]["progress"]) == ("evaluate-mood", "0/1")
    assert state.settle().read_progress is None


def test_more_tokens_after_training_train_on() -> None:
    state = State().until("export")
    state.settle()
    state.edit(training__tokens=2_000_000)
    state.settle()
    deleted = {stage for stage, made in state.workloads.items() if "deletionTimestamp" in made["metadata"]}
    assert deleted == {"evaluate", "export"}
    state.gone("evaluate")
    state.gone("export")
    state.settle()
    assert state.job["status"]["training"]["attempt"] == 2
    state.gone("train")
    state.settle()
    assert state.workloads["train"]["metadata"]["labels"]["pretrain.dev/attempt"] == "2"


def test_the_job_file_of_an_edited_job_is_made_and_the_unused_one_deleted() -> None:
    state = State().until("train")
    state.settle()
    (first,) = state.config_maps
    state.edit(training__tokens=2_000_000)
    state.settle()
    state.gone("train")
    for stage in list(state.workloads):
        del state.workloads[stage]
    state.settle()
    (second,) = state.config_maps
    assert first != second
    volumes = state.workloads["train"]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["volumes"]
    assert volumes[0]["configMap"]["name"] == second


def test_the_deadline_fails_the_job_and_frees_its_pods() -> None:
    state = training({"activeDeadlineSeconds": 60})
    assert state.settle().again_seconds == pytest.approx(60)
    state.later(61)
    state.settle()
    assert state.reason("Failed") == reasons.DEADLINE_EXCEEDED
    assert "deletionTimestamp" in state.workloads["train"]["metadata"]


def test_a_failed_group_lets_go_of_the_pods_that_still_run() -> None:
    state = training({"training.maxRestarts": 0})
    state.end("train", 1, 1, "boom")
    state.fail("train")
    state.settle()
    assert state.reason("Failed") == reasons.RESTARTS_EXHAUSTED
    deleted = {name for name, pod in state.pods.items() if "deletionTimestamp" in pod["metadata"]}
    assert deleted == {"right-train-0"}  # the failed one stays, for its log


def test_a_finished_job_stays_finished_whatever_is_edited() -> None:
    state = State().until("report")
    state.finish("report")
    state.settle()
    ended = state.job["status"]["completionTime"]
    state.later(100)
    state.edit(training__tokens=2_000_000)
    decided = state.settle()
    assert decided.actions == ()
    assert state.condition("Succeeded")["status"] == "True"
    assert state.job["status"]["completionTime"] == ended
    assert state.job["status"]["observedGeneration"] == 2


def test_a_finished_job_is_deleted_when_its_time_is_over() -> None:
    state = State({"ttlSecondsAfterFinished": 100}).until("report")
    state.finish("report")
    assert state.settle().again_seconds == pytest.approx(100)
    state.later(99)
    state.settle()
    assert not state.deleted_job
    state.later(2)
    state.reconcile()
    assert state.deleted_job


def test_a_fault_is_said_and_tried_again() -> None:
    state = State()
    state.fault = Fault(reasons.APPLY_REFUSED, "Job right-preflight: pods is forbidden: exceeded quota")
    decided = state.reconcile()
    assert decided.actions != ()
    progressing = state.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", reasons.APPLY_REFUSED)
    assert "exceeded quota" in progressing["message"]
    state.fault = None
    state.settle()
    assert state.condition("Progressing")["status"] == "True"


def test_a_status_of_a_newer_operator_is_read_as_far_as_it_can_be() -> None:
    state = training()
    state.job["status"]["phase"] = "Dreaming"
    state.job["status"]["novelty"] = {"a": 1}
    state.job["status"]["training"]["attempt"] = 1
    assert state.plan().actions == ()


def test_the_status_tells_a_fault_in_a_sentence_without_where_it_happened() -> None:
    state = training()
    state.end("train", 0, 1, f"rank 0: KeyError: 'x'{TRACEBACK_BELOW}  File loop.py, line 3")
    state.settle()
    assert state.job["status"]["restarts"][0]["message"] == "pod 0 ended with 1: rank 0: KeyError: 'x'"
