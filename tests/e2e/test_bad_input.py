"""Jobs that cannot work as they are: each says in a condition what is wrong and how to mend it, and goes on when it is mended.

One operator serves all of these jobs, so a job that is stuck also has to leave the others alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.jobs import tiny_job
from tests.e2e.kubectl import Kubectl, Namespaces, new_namespace
from tests.e2e.paced import Paced
from tests.e2e.s3 import BUCKET, ClusterS3
from tests.e2e.served import Served, Serving, served
from tests.e2e.waiting import Job, because, condition, eventually, failed, is_true, stage, until

pytestmark = pytest.mark.e2e

UNSCHEDULABLE_SECONDS = 15


@dataclass(frozen=True)
class Place:
    """A namespace, its operator, and the storage for its jobs."""

    kubectl: Kubectl
    operator: Served
    s3: ClusterS3

    def apply(self, name: str, spec: dict[str, Any] | None = None) -> None:
        self.kubectl("apply", "-f", "-", stdin=tiny_job(self.s3, self.kubectl.namespace, name, spec))

    def delete(self, name: str) -> None:
        self.kubectl("delete", "pretrainjob", name)

    def pods(self, name: str) -> list[dict[str, Any]]:
        return list(self.kubectl.get("pods", "-l", f"pretrain.dev/job={name}")["items"])


@pytest.fixture(scope="module")
def place(s3: ClusterS3, crd: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place for jobs that are wrong, one of which cannot be scheduled for 15 s rather than 5 min."""
    folder = tmp_path_factory.mktemp("bad-input")
    with new_namespace("bad") as kubectl:
        kubectl("apply", "-f", "-", stdin=s3.secret())
        with served(kubectl, folder, f"--unschedulable-seconds={UNSCHEDULABLE_SECONDS}") as operator:
            yield Place(kubectl, operator, s3)


def test_an_image_that_does_not_exist(s3: ClusterS3, namespaces: Namespaces, serving: Serving) -> None:
    kubectl = namespaces("image")
    operator = serving(kubectl, "--preprocess-image", "localhost/no-such-image:1")
    kubectl("apply", "-f", "-", stdin=tiny_job(s3, kubectl.namespace))
    found = condition(until(kubectl, "tiny", because("Progressing", "ImagePull"), seconds=120), "Progressing")
    assert found["status"] == "False"
    assert "stage preflight, task 0: the image cannot be pulled" in found["message"]
    assert "localhost/no-such-image:1" in found["message"]
    assert "the operator's administrator sets the images and their pull secrets" in found["message"]
    assert [event["type"] for event in _events(kubectl, "tiny", "ImagePull")] == ["Warning"]

    # Mended by whoever runs the operator: the job goes on when its stage is made anew.
    operator.stop()
    serving(kubectl)
    kubectl("delete", "job", "tiny-preflight", "--cascade=foreground", timeout=120)
    until(kubectl, "tiny", _done("preflight"))


def test_a_secret_that_comes_late(place: Place) -> None:
    place.apply("late", {"storage.credentialsSecretRef": {"name": "late-credentials"}})
    found = condition(until(place.kubectl, "late", because("Progressing", "ContainerConfig"), seconds=120), "Progressing")
    assert found["status"] == "False"
    assert 'secret "late-credentials" not found' in found["message"]
    assert "look at Secret late-credentials (spec.storage.credentialsSecretRef)" in found["message"]

    secret = place.s3.secret()
    place.kubectl("apply", "-f", "-", stdin=secret | {"metadata": {"name": "late-credentials"}})
    job = until(place.kubectl, "late", _done("preflight"))
    assert condition(job, "Progressing")["status"] == "True"
    assert _events(place.kubectl, "late", "Recovered")
    place.delete("late")


def test_a_secret_without_the_keys_and_one_with_wrong_ones(place: Place) -> None:
    keys = {"username": "a", "password": "b"}
    _secret(place.kubectl, "without", keys)
    _secret(place.kubectl, "wrong", {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "canary-of-a-secret"})
    place.apply("without", {"storage.credentialsSecretRef": {"name": "without"}})
    place.apply("wrong", {"storage.credentialsSecretRef": {"name": "wrong"}})

    found = condition(until(place.kubectl, "without", because("Progressing", "ContainerConfig"), seconds=120), "Progressing")
    assert "couldn't find key AWS_ACCESS_KEY_ID in Secret" in found["message"]
    assert "look at Secret without (spec.storage.credentialsSecretRef)" in found["message"]

    job = until(place.kubectl, "wrong", failed)
    found = condition(job, "Failed")
    assert found["reason"] == "UserError"
    assert f"s3://{BUCKET}/{place.kubectl.namespace}/wrong" in found["message"]
    assert "credentials" in found["message"]
    assert "canary-of-a-secret" not in json.dumps(job) + place.operator.log.read_text()
    place.delete("without")
    place.delete("wrong")


def test_a_source_that_matches_nothing(place: Place) -> None:
    uri = f"s3://{BUCKET}/raw/no-such-*.jsonl"
    place.apply("nothing", {"corpus.sources": [{"name": "web", "uri": uri}]})
    job = until(place.kubectl, "nothing", failed)
    found = condition(job, "Failed")
    assert found["reason"] == "UserError"
    assert found["message"].startswith("stage preflight: ")
    assert uri in found["message"]
    (pod,) = place.pods("nothing")
    said = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert said["exitCode"] == 65
    assert said["message"] in found["message"], "the pod's own sentence"
    assert stage(job, "preflight")["state"] == "Failed"
    place.delete("nothing")


def test_a_training_pod_that_fits_on_no_node(paced: Paced, place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One pod more than nodes, each of which takes more than half a node: what runs is let go, and it is tried again later."""
    nodes = place.kubectl.get("nodes")["items"]
    largest = max(_cores(node["status"]["allocatable"]["cpu"]) for node in nodes)
    pods = len(nodes) + 1
    spec = {
        "training.nodes": pods,
        "training.globalBatchTokens": pods * 1024,
        "training.tokens": pods * 1024 * 24,
        "training.resources": {"cpu": f"{largest * 0.55:.2f}", "memory": "1Gi"},
    }
    with new_namespace("full") as kubectl:
        kubectl("apply", "-f", "-", stdin=place.s3.secret())
        paced.apply(kubectl, "full", spec)
        with served(kubectl, tmp_path_factory.mktemp("full"), f"--unschedulable-seconds={UNSCHEDULABLE_SECONDS}"):
            job = until(kubectl, "full", lambda job: bool(job.get("status", {}).get("restarts")), seconds=180)
            (restart,) = job["status"]["restarts"]
            assert restart["reason"] == "Unschedulable"
            assert "Insufficient cpu" in restart["message"]
            assert f"could not be started for {UNSCHEDULABLE_SECONDS} s" in restart["message"]
            assert job["status"]["restartCount"] == 0, "waiting for a node is not the job's fault"
            eventually(lambda: kubectl.get("pods")["items"], lambda left: not left)
            job = kubectl.get("pretrainjob/full")
            assert condition(job, "Progressing")["status"] == "False"
            assert job["status"]["training"]["attempt"] == 2
            again = eventually(lambda: kubectl.get("pytorchjobs")["items"], bool, 90)
            assert again[0]["metadata"]["labels"]["pretrain.dev/attempt"] == "2"


def test_a_job_whose_arithmetic_is_wrong(place: Place) -> None:
    """More warm-up than steps: no rule of the API server knows both numbers."""
    place.apply("late-warm", {"training.schedule": {"warmupSteps": 1_000}})
    job = until(place.kubectl, "late-warm", because("Accepted", "Invalid"), seconds=60)
    found = condition(job, "Accepted")
    assert found["status"] == "False"
    assert found["message"].startswith("spec.training.schedule.warmupSteps: 1,000 is more than the 24 steps of training")
    assert not place.kubectl.get("jobs", "-l", "pretrain.dev/job=late-warm")["items"]

    place.apply("late-warm", {"training.schedule": {"warmupSteps": 2}})
    job = until(place.kubectl, "late-warm", lambda job: is_true(job, "Accepted"), seconds=60)
    assert job["status"]["observedGeneration"] == 2
    place.delete("late-warm")


def test_two_jobs_that_would_write_to_one_place(place: Place) -> None:
    """The second is refused, and goes on when the first is gone."""
    place.apply("first", {"suspend": True})
    until(place.kubectl, "first", lambda job: is_true(job, "Accepted"), seconds=60)
    uri = f"s3://{BUCKET}/{place.kubectl.namespace}/first"
    place.apply("second", {"storage.uri": f"{uri}/below"})
    found = condition(until(place.kubectl, "second", because("Accepted", "StorageInUse"), seconds=60), "Accepted")
    assert found["message"].startswith(f"spec.storage.uri: {uri}/below is in use by PretrainJob first, which is older")
    assert not place.pods("second")

    place.delete("first")
    until(place.kubectl, "second", lambda job: is_true(job, "Accepted"), seconds=60)
    until(place.kubectl, "second", _done("preflight"))
    place.delete("second")


@pytest.mark.parametrize(
    "labels", [{}, {"pretrain.dev/job": "taken", "pretrain.dev/stage": "preflight"}], ids=["plain", "ours"]
)
def test_a_job_of_somebody_else_that_has_the_name(place: Place, labels: dict[str, str]) -> None:
    """It is left as it is, whatever its labels say, and its name is waited for."""
    place.kubectl("apply", "-f", "-", stdin=_foreign("taken-preflight", labels))
    before = place.kubectl.get("job/taken-preflight")
    place.apply("taken")
    found = condition(until(place.kubectl, "taken", because("Progressing", "NameTaken"), seconds=60), "Progressing")
    assert f"Job {place.kubectl.namespace}/taken-preflight" in found["message"] or "taken-preflight" in found["message"]
    after = place.kubectl.get("job/taken-preflight")
    assert {**after, "status": None} == {**before, "status": None}

    place.kubectl("delete", "job", "taken-preflight")
    until(place.kubectl, "taken", _done("preflight"))
    place.delete("taken")
    eventually(lambda: place.kubectl.get("jobs", "-l", "pretrain.dev/job=taken")["items"], lambda left: not left)


def _secret(kubectl: Kubectl, name: str, content: dict[str, str]) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}
    kubectl("apply", "-f", "-", stdin=secret)


def _foreign(name: str, labels: dict[str, str]) -> dict[str, Any]:
    """A Job that is not ours, and waits."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "stage", "image": "localhost/busybox:1", "securityContext": context}],
    }
    metadata = {"name": name, "labels": labels}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"suspend": True, "template": {"spec": pod}},
    }


def _done(name: str) -> Any:
    def holds(job: Job) -> bool:
        return bool(stage(job, name).get("state") == "Succeeded")

    holds.__name__ = f"done with {name}"
    return holds


def _events(kubectl: Kubectl, name: str, reason: str) -> list[dict[str, Any]]:
    selector = f"involvedObject.kind=PretrainJob,involvedObject.name={name},reason={reason}"
    return list(kubectl.get("events", "--field-selector", selector)["items"])


def _cores(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
