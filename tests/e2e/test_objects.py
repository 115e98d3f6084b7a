"""The objects of a job, taken and run by a real cluster with restricted Pod Security: Job controller and training operator.

The stage programs are not part of this: `echo` and `env` stand in their place and show what the programs would be given.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import pytest
from pretrain_operator.api import parse_job
from pretrain_operator.children import child, children, cluster_site
from pretrain_operator.config_map import config_map
from pretrain_operator.stages import Images, stages

from tests.e2e.kubectl import Kubectl
from tests.operator.golden import IMAGES, golden_jobs
from tests.operator.jobs import job

pytestmark = pytest.mark.e2e

BUSYBOX = os.environ.get("PRETRAIN_E2E_BUSYBOX", "localhost/busybox:1")
SMALL = {"cpu": "20m", "memory": "32Mi"}


@pytest.fixture(scope="module", autouse=True)
def secret(kubectl: Kubectl) -> None:
    """The storage credentials that the jobs name; a third key that no pod may see."""
    keys = {"AWS_ACCESS_KEY_ID": "its-id", "AWS_SECRET_ACCESS_KEY": "its-secret", "LD_PRELOAD": "canary"}
    kubectl("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": keys})


@pytest.mark.parametrize("name", golden_jobs())
def test_the_api_server_takes_every_object_without_a_warning(kubectl: Kubectl, name: str) -> None:
    """Strict field validation, the training operator's webhook, and no warning of restricted Pod Security."""
    objects = children(golden_jobs()[name], IMAGES)
    for item in objects:
        item["metadata"]["namespace"] = kubectl.namespace
    done = kubectl("apply", "--dry-run=server", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": objects})
    assert len(done.splitlines()) == len(objects)


@pytest.mark.parametrize("name", ["a", "7b", "a" * 63, "7" * 63])
def test_every_name_is_taken(kubectl: Kubectl, name: str) -> None:
    """The shortest and the longest names that a PretrainJob may have, with as many tasks and nodes as it may have."""
    manifest = job(
        {
            "corpus.tasks": 100_000,
            "training.nodes": 10_000,
            "training.globalBatchTokens": 512 * 10_000,
            "training.tokens": 10**9,
        }
    )
    manifest["metadata"] = {"name": name, "namespace": kubectl.namespace}
    objects = children(parse_job(manifest, "job.yaml"), IMAGES)
    kubectl("apply", "--dry-run=server", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": objects})


def test_a_task_is_told_its_index(kubectl: Kubectl) -> None:
    name = _run(kubectl, "echoing", "clean", "echo")
    kubectl("wait", "--for=condition=Complete", f"job/{name}", "--timeout=120s")
    said = {pod["index"]: pod["log"] for pod in _pods(kubectl, "echoing")}
    wanted = "-m pretrain_preprocess clean --job /etc/pretrain/job.json --index {} --metrics-port 9400 --metrics-address 0.0.0.0\n"
    assert said == {str(index): wanted.format(index) for index in range(2)}


def test_a_task_has_the_job_file_and_two_credentials(kubectl: Kubectl) -> None:
    name = _run(kubectl, "showing", "preflight", "env")
    kubectl("wait", "--for=condition=Complete", f"job/{name}", "--timeout=120s")
    (pod,) = _pods(kubectl, "showing")
    variables = dict(line.split("=", 1) for line in pod["log"].splitlines())
    assert (variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]) == ("its-id", "its-secret")
    assert "LD_PRELOAD" not in variables
    assert variables["TMPDIR"] == "/scratch"
    assert not [name for name in variables if name.endswith("_SERVICE_HOST") and "KUBERNETES" not in name]


def test_a_training_group_is_told_its_places(kubectl: Kubectl) -> None:
    name = _run(kubectl, "training", "train", "env")
    kubectl("wait", "--for=condition=Succeeded", f"pytorchjob/{name}", "--timeout=180s")
    pods = _pods(kubectl, "training")
    places = []
    for pod in pods:
        variables = dict(line.split("=", 1) for line in pod["log"].splitlines())
        places.append(variables["PET_NODE_RANK"])
        assert variables["PET_NNODES"] == "2"
        assert variables["PET_NPROC_PER_NODE"] == "1"
        assert variables["PET_MASTER_ADDR"] == f"{name}-worker-0"
        assert variables["PRETRAIN_ATTEMPT"] == "1"
    assert sorted(places) == ["0", "1"]
    assert sorted(pod["name"] for pod in pods) == [f"{name}-worker-0", f"{name}-worker-1"]


def _run(kubectl: Kubectl, name: str, stage_name: str, program: str) -> str:
    """Creates the object of one stage of a small job, with `program` in the place of Python; returns its name."""
    manifest = job({"corpus.tasks": 2, "corpus.parallelism": 2, "training.nodes": 2})
    manifest["spec"]["corpus"]["resources"] = manifest["spec"]["training"]["resources"] = SMALL
    manifest["metadata"] = {"name": name, "namespace": kubectl.namespace}
    parsed = parse_job(manifest, "job.yaml")
    site = dataclasses.replace(cluster_site(parsed, Images(BUSYBOX, BUSYBOX)), python=program)
    (stage,) = (stage for stage in stages(parsed, site) if stage.name == stage_name)
    if program == "env":  # busybox's env would take the arguments for a command
        stage.role.args.clear()
    made = child(parsed, stage)
    kubectl("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": [config_map(parsed), made]})
    return str(made["metadata"]["name"])


def _pods(kubectl: Kubectl, name: str) -> list[dict[str, Any]]:
    found = json.loads(kubectl("get", "pods", "-l", f"pretrain.dev/job={name}", "-o", "json"))["items"]
    return [
        {
            "name": pod["metadata"]["name"],
            "index": pod["metadata"]["labels"].get("batch.kubernetes.io/job-completion-index"),
            "log": kubectl("logs", pod["metadata"]["name"]),
        }
        for pod in found
    ]
