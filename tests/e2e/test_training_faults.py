"""What training outlives, and what it does not: processes killed, pods and workloads deleted, memory and arithmetic at their end.

A run that was hit goes on from its newest checkpoint and ends with the same model, to the byte, as one that was not.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from pretrain_stage.storage import Storage

from tests.e2e.kubectl import Kubectl, Namespaces
from tests.e2e.paced import CHECKPOINT_STEPS, Paced, newest, newest_of, said, training_pods, went_on
from tests.e2e.served import Serving
from tests.e2e.undisturbed import outcome
from tests.e2e.waiting import Job, condition, failed, is_true, succeeded, until

pytestmark = pytest.mark.e2e

DIVERGING = {"learningRate": 10, "gradientClipping": 0, "beta2": 0.0, "eps": 1e-30}
KILL_RANKS = """
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_bytes().split(b"\\0")
    if b"pretrain_trainer" in words and b"train" in words:
        os.kill(int(process.name), signal.SIGKILL)
"""
"""Process 1 of the pod is the launcher; its argument is `launch`."""
FILL_MEMORY = """
with open("/dev/shm/full", "wb") as file:
    for _ in range(1024):
        file.write(bytes(2**20))
"""
"""What lies in shared memory counts as memory of the pod; the kernel kills the largest process, a rank."""


def test_a_group_that_is_hit_again_and_again_ends_with_the_same_model(
    paced: Paced, namespaces: Namespaces, serving: Serving
) -> None:
    kubectl = namespaces("faults")
    storage = paced.apply(kubectl)
    serving(kubectl)

    _rank_killed(kubectl, storage)
    _pod_deleted(kubectl, storage)
    _workload_deleted(kubectl, storage)
    job = _suspended_and_resumed(kubectl, storage)

    assert job["status"]["restartCount"] == 1, "only a fault of the group's own uses up the budget"
    assert outcome(storage) == paced.outcome
    restarts = [(restart["attempt"], restart["reason"]) for restart in job["status"]["restarts"]]
    assert restarts == [(1, "Infrastructure"), (2, "Disruption"), (3, "Suspended")]


def test_training_that_cannot_go_on_says_why(paced: Paced, namespaces: Namespaces, serving: Serving) -> None:
    """Three jobs at once: a budget that is used up, memory that is, and a loss that is not a number."""
    kubectl = namespaces("fatal")
    paced.apply(kubectl, "killed", {"training.maxRestarts": 0})
    paced.apply(kubectl, "starved", {"training.maxRestarts": 0, "training.resources": {"cpu": "50m", "memory": "1Gi"}})
    paced.apply(kubectl, "diverging", {"training.optimizer": DIVERGING})
    serving(kubectl)

    said(kubectl, "killed", 1, "step")
    kill_ranks(kubectl, "killed-train-worker-1")
    message = _failure(kubectl, "killed", "RestartsExhausted")
    assert "pod 1 ended with 137: rank 1: killed by SIGKILL" in message
    assert "spec.training.maxRestarts: 0 restarts are used up" in message

    said(kubectl, "starved", 1, "step")
    kubectl.run("exec", "starved-train-worker-0", "--container=pytorch", "--", "python", "-c", FILL_MEMORY, timeout=240)
    message = _failure(kubectl, "starved", "RestartsExhausted")
    assert "out of memory (OOMKilled); raise the memory in resources" in message

    message = _failure(kubectl, "diverging", "UserError")
    assert "spec.training.optimizer.learningRate: " in message
    assert "so training cannot go on" in message
    for name in ("killed", "starved", "diverging"):
        status = kubectl.get(f"pretrainjob/{name}")["status"]
        assert (status["restartCount"], status["restarts"], status["training"]["attempt"]) == (0, [], 1)
        assert not _running(kubectl, name), "a failed job holds no resources"


def _rank_killed(kubectl: Kubectl, storage: Storage) -> None:
    """A process of the second pod dies as at the hands of the kernel: the group is restarted, and the budget pays."""
    said(kubectl, "paced", 1, "step", CHECKPOINT_STEPS)
    old, begun = training_pods(kubectl), time.time()
    kill_ranks(kubectl, "paced-train-worker-1")
    job = until(kubectl, "paced", _attempt(2), seconds=60)
    detected = time.time()
    (restart,) = job["status"]["restarts"]
    assert restart["reason"] == "Infrastructure"
    assert restart["message"].startswith("pod 1 ended with 137: rank 1: killed by SIGKILL")
    assert job["status"]["restartCount"] == 1
    went_on(kubectl, 2, newest_of(kubectl, storage, old), {"killed": begun, "detected": detected})
    events = kubectl.get("events", "--field-selector=reason=GroupRestarted")["items"]
    assert [(event["type"], event["message"].split(":")[0]) for event in events] == [
        ("Warning", "attempt 1 ended (Infrastructure)")
    ]


def _pod_deleted(kubectl: Kubectl, storage: Storage) -> None:
    """A pod is taken away, as a node drain does it: all save first, and the budget does not pay."""
    reached = _goes_beyond(kubectl, storage, 2)
    old, begun = training_pods(kubectl), time.time()
    kubectl("delete", "pod", "paced-train-worker-1", "--wait=false")
    job = until(kubectl, "paced", _attempt(3), seconds=60)
    detected = time.time()
    restart = job["status"]["restarts"][-1]
    assert (restart["attempt"], restart["reason"]) == (2, "Disruption")
    assert "pod 1 was taken from node" in restart["message"]
    saved = newest_of(kubectl, storage, old)
    assert saved >= reached
    went_on(kubectl, 3, saved, {"deleted": begun, "detected": detected})


def _workload_deleted(kubectl: Kubectl, storage: Storage) -> None:
    """The PyTorchJob is deleted by hand and its pods still save: nothing writes beside them."""
    reached = _goes_beyond(kubectl, storage, 3)
    old, begun = training_pods(kubectl), time.time()
    uids = {item["metadata"]["uid"] for item in [*old, *kubectl.get("pytorchjobs")["items"]]}
    kubectl("delete", "pytorchjob", "paced-train", "--cascade=background", "--wait=false")
    seen_to_end = False
    while True:
        # Workloads are listed first: a new one beside an old pod was made too early, whatever happens in between.
        items = kubectl.get("pytorchjobs,pods")["items"]
        made = [item for item in items if item["kind"] == "PyTorchJob" and item["metadata"]["uid"] not in uids]
        left = [item for item in items if item["kind"] == "Pod" and item["metadata"]["uid"] in uids]
        assert not (made and left), "a new group beside pods of the old one"
        seen_to_end = seen_to_end or (bool(left) and not any(item["kind"] == "PyTorchJob" for item in items))
        if made:
            break
        assert time.time() < begun + 120, items
    assert seen_to_end, "the pods were never seen without their workload"
    again = time.time()
    saved = newest_of(kubectl, storage, old)
    assert saved >= reached
    went_on(kubectl, 3, saved, {"deleted": begun, "made again": again})


def _suspended_and_resumed(kubectl: Kubectl, storage: Storage) -> Job:
    """Everything is saved, no pod is left while the job is halted, and it goes on from the step that was saved."""
    reached = _goes_beyond(kubectl, storage, 3)
    begun = time.time()
    kubectl("patch", "pretrainjob", "paced", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    until(kubectl, "paced", lambda job: is_true(job, "Suspended") and not training_pods(kubectl), seconds=120)
    print(f"suspended 0.0 s, no pods left {time.time() - begun:.1f} s")
    saved = newest(storage)
    assert saved >= reached
    for _ in range(5):
        assert not training_pods(kubectl)
        assert not kubectl.get("pytorchjobs")["items"]
        time.sleep(1)
    job = kubectl.get("pretrainjob/paced")
    assert job["status"]["phase"] == "Suspended"
    assert condition(job, "Progressing")["reason"] == "Suspended"

    begun = time.time()
    kubectl("patch", "pretrainjob", "paced", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    went_on(kubectl, 4, saved, {"resumed": begun})
    return until(kubectl, "paced", succeeded)


def kill_ranks(kubectl: Kubectl, pod: str) -> None:
    kubectl("exec", pod, "--container=pytorch", "--", "python", "-c", KILL_RANKS)


def _attempt(number: int) -> Any:
    def holds(job: Job) -> bool:
        return bool(job["status"].get("training", {}).get("attempt") == number)

    holds.__name__ = f"at attempt {number}"
    return holds


def _goes_beyond(kubectl: Kubectl, storage: Storage, attempt: int) -> int:
    """Waits until the attempt has taken a few steps more than are saved; returns the step."""
    return int(said(kubectl, "paced", attempt, "step", newest(storage) + 2)["step"])


def _failure(kubectl: Kubectl, name: str, reason: str) -> str:
    """What the job says of its failure, for which it has this reason."""
    found = condition(until(kubectl, name, failed), "Failed")
    assert found["reason"] == reason, found
    return str(found["message"])


def _running(kubectl: Kubectl, name: str) -> list[dict[str, Any]]:
    pods = kubectl.get("pods", "-l", f"pretrain.dev/job={name}")["items"]
    return [pod for pod in pods if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]]
