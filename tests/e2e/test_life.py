"""The life of a job at its user's hands: halted and resumed, edited, queued, deleted, and ended by time.

Halting training is tested with the faults of training (test_training_faults.py), in one run that has to end with the same model.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.e2e.jobs import tiny_job
from tests.e2e.kubectl import Kubectl, Namespaces
from tests.e2e.paced import CHECKPOINT_STEPS, STEP_TOKENS, Paced, said
from tests.e2e.s3 import ClusterS3
from tests.e2e.served import Serving
from tests.e2e.waiting import Job, because, condition, eventually, failed, in_attempt, is_true, stage, until
from tests.operator.jobs import changed

pytestmark = pytest.mark.e2e

QUEUE = {"scheduling": {"queueName": "team"}}
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
NOT_REVERTED_SECONDS = 10.0
SHORT_STEPS = 35
"""Fewer than the job had, and more than it does until it has been edited."""
DEADLINE_SECONDS, TTL_SECONDS = 20, 10
OF_THE_JOB = "jobs,pytorchjobs,configmaps,pods"


def test_preprocessing_is_widened_halted_resumed_and_deleted(
    s3: ClusterS3, namespaces: Namespaces, serving: Serving
) -> None:
    kubectl = namespaces("text")
    serving(kubectl)
    kubectl("apply", "-f", "-", stdin=tiny_job(s3, kubectl.namespace, spec={"corpus.parallelism": 1}))
    storage = s3.storage(f"{kubectl.namespace}/tiny")

    # Widened: the Job that runs is changed, not made anew.
    eventually(lambda: _pods(kubectl, "clean"), lambda pods: len(pods) == 1, 180)
    before = kubectl.get("job/tiny-clean")
    _edit(kubectl, "tiny", {"corpus": {"parallelism": 2}})
    eventually(lambda: kubectl.get("job/tiny-clean")["spec"]["parallelism"], lambda wide: wide == 2)
    eventually(lambda: {_index(pod) for pod in _pods(kubectl, "clean")}, lambda indices: indices == {"0", "1"})
    assert kubectl.get("job/tiny-clean")["metadata"]["uid"] == before["metadata"]["uid"]

    # Halted: pods go, finished stages stay; resumed: only what was not finished runs.
    _edit(kubectl, "tiny", {"suspend": True})
    job = until(kubectl, "tiny", lambda job: is_true(job, "Suspended") and not _active(kubectl))
    assert (job["status"]["phase"], stage(job, "preflight")["state"]) == ("Suspended", "Succeeded")
    assert kubectl.get("job/tiny-clean")["metadata"]["uid"] == before["metadata"]["uid"]
    time.sleep(3)
    assert not _active(kubectl)
    preflight = kubectl.get("job/tiny-preflight")["metadata"]["uid"]
    _edit(kubectl, "tiny", {"suspend": False})
    until(kubectl, "tiny", lambda job: stage(job, "clean").get("state") == "Succeeded")
    assert kubectl.get("job/tiny-preflight")["metadata"]["uid"] == preflight
    assert sorted(path.path for path in storage.entries("stages/clean")) == [
        "stages/clean/00000.json",
        "stages/clean/00001.json",
    ]

    # Deleted in the midst: no child is left, and what was finished is.
    kubectl("delete", "pretrainjob", "tiny")
    eventually(lambda: kubectl.get(OF_THE_JOB, "-l", "pretrain.dev/job=tiny")["items"], lambda left: not left, 120)
    assert storage.size("stages/clean.json")


def test_training_is_edited(paced: Paced, namespaces: Namespaces, serving: Serving) -> None:
    """What may change restarts training where it is; what may not is refused with its field."""
    kubectl = namespaces("edited")
    storage = paced.apply(kubectl, "edited", {"training.maxRestarts": 0})
    serving(kubectl)
    reached = said(kubectl, "edited", 1, "step", CHECKPOINT_STEPS + 1)["step"]

    job = kubectl.get("pretrainjob/edited")
    for path, value in {"storage.uri": "s3://models/other", "model.layers": 3, "training.seed": 43}.items():
        section = path if path == "training.seed" else path.split(".")[0]
        refusal = kubectl.refused(_bare(changed(job, {path: value})))
        assert f"{section} is immutable; create another PretrainJob" in refusal, refusal

    _edit(kubectl, "edited", {"training": {"tokens": SHORT_STEPS * STEP_TOKENS}})
    job = until(kubectl, "edited", in_attempt(2), seconds=60)
    (restart,) = job["status"]["restarts"]
    assert (restart["attempt"], restart["reason"], restart["message"]) == (1, "Edited", "spec was edited")
    assert job["status"]["restartCount"] == 0
    began = said(kubectl, "edited", 2, "first_step")
    assert began["first_step"] > reached, "it saved before it ended"
    assert began["steps"] == SHORT_STEPS
    job = until(kubectl, "edited", lambda job: stage(job, "train").get("state") == "Succeeded")
    assert (job["status"]["training"]["step"], job["status"]["training"]["steps"]) == (SHORT_STEPS, SHORT_STEPS)
    assert job["status"]["observedGeneration"] == 2
    assert storage.size(f"checkpoints/step-{SHORT_STEPS:08d}-attempt-2/COMMITTED") is not None
    kubectl("delete", "pretrainjob", "edited")


def test_a_queue_decides_when_workloads_run(s3: ClusterS3, paced: Paced, namespaces: Namespaces, serving: Serving) -> None:
    """`suspend` of a queued workload belongs to Kueue, whose part is played by hand: taken back it is respected, not reverted."""
    kubectl = namespaces("queue")
    paced.apply(kubectl, "training", QUEUE)
    serving(kubectl)
    kubectl("apply", "-f", "-", stdin=tiny_job(s3, kubectl.namespace, "text", QUEUE))
    workloads = {"text": ("job", "text-preflight"), "training": ("pytorchjob", "training-train")}
    halt = {"job": {"suspend": True}, "pytorchjob": {"runPolicy": {"suspend": True}}}
    admit = {"job": {"suspend": False}, "pytorchjob": {"runPolicy": {"suspend": False}}}

    eventually(lambda: kubectl.run("get", "job", "text-preflight").returncode, lambda code: code == 0)
    _patch(kubectl, halt, *workloads["text"])
    said(kubectl, "training", 1, "step", 2)
    _patch(kubectl, halt, *workloads["training"])
    for kind, name in workloads.values():
        assert kubectl.get(f"{kind}/{name}")["metadata"]["labels"][QUEUE_LABEL] == "team"
    for name in workloads:
        found = condition(until(kubectl, name, because("Progressing", "Queued"), seconds=120), "Progressing")
        assert found["status"] == "False"
        assert "waits to be admitted by the queue team" in found["message"]
    eventually(lambda: _active(kubectl), lambda left: not left, 120)
    before = {name: kubectl.get(f"{kind}/{name}") for kind, name in workloads.values()}
    time.sleep(NOT_REVERTED_SECONDS)
    for kind, name in workloads.values():
        now = kubectl.get(f"{kind}/{name}")
        assert (now["metadata"]["uid"], now["spec"]) == (before[name]["metadata"]["uid"], before[name]["spec"])

    # A halt of its user's own takes the workload out of the queue, and the end of it puts a new one there.
    _edit(kubectl, "text", {"suspend": True})
    eventually(lambda: kubectl.run("get", "job", "text-preflight").returncode, lambda code: code != 0)
    _edit(kubectl, "text", {"suspend": False})
    eventually(lambda: kubectl.run("get", "job", "text-preflight").returncode, lambda code: code == 0)

    for kind, name in workloads.values():
        _patch(kubectl, admit, kind, name)
    until(kubectl, "text", lambda job: stage(job, "preflight").get("state") == "Succeeded")
    assert said(kubectl, "training", 1, "first_step")["first_step"] > 2, "what was saved when the queue took it back"
    status = kubectl.get("pretrainjob/training")["status"]
    assert (status["training"]["attempt"], status["restarts"]) == (1, [])
    assert kubectl.get("pytorchjob/training-train")["metadata"]["uid"] == before["training-train"]["metadata"]["uid"]


def test_time_and_other_controllers(paced: Paced, namespaces: Namespaces, serving: Serving) -> None:
    """A deadline ends a job and its pods; a finished job is deleted when its time is over, without what it stored; a job of
    another controller is not touched."""
    kubectl = namespaces("time")
    times = {"activeDeadlineSeconds": DEADLINE_SECONDS, "ttlSecondsAfterFinished": TTL_SECONDS}
    storage = paced.apply(kubectl, "timed", times)
    paced.apply(kubectl, "theirs", {"managedBy": "example.com/another"})
    theirs = kubectl.get("pretrainjob/theirs")
    serving(kubectl)

    job = until(kubectl, "timed", failed, seconds=120)
    found = condition(job, "Failed")
    assert found["reason"] == "DeadlineExceeded"
    assert found["message"].startswith(f"spec.activeDeadlineSeconds: {DEADLINE_SECONDS} s are over")
    eventually(lambda: _active(kubectl), lambda left: not left, 60)
    stored = {entry.path for entry in storage.entries()}
    assert stored

    eventually(lambda: kubectl.run("get", "pretrainjob", "timed").returncode, lambda code: code != 0, TTL_SECONDS + 60)
    eventually(lambda: kubectl.get(OF_THE_JOB, "-l", "pretrain.dev/job=timed")["items"], lambda left: not left)
    assert {entry.path for entry in storage.entries()} == stored
    assert kubectl.get("pretrainjob/theirs") == theirs
    assert not kubectl.get(OF_THE_JOB, "-l", "pretrain.dev/job=theirs")["items"]


def _edit(kubectl: Kubectl, name: str, spec: dict[str, Any]) -> None:
    _patch(kubectl, {"pretrainjob": spec}, "pretrainjob", name)


def _patch(kubectl: Kubectl, specs: dict[str, Any], kind: str, name: str) -> None:
    """Changes fields of an object's spec, those given for its kind."""
    kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": specs[kind]}))


def _bare(job: Job) -> Job:
    """As a user would apply it again."""
    return {**job, "metadata": {name: job["metadata"][name] for name in ("name", "namespace")}, "status": None}


def _index(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])


def _pods(kubectl: Kubectl, stage_name: str) -> list[dict[str, Any]]:
    return list(kubectl.get("pods", "-l", f"pretrain.dev/stage={stage_name}")["items"])


def _active(kubectl: Kubectl) -> list[str]:
    """Pods that have not ended."""
    pods = kubectl.get("pods")["items"]
    return [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]
