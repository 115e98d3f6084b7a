"""The chart with an operator that runs: ready, tested, upgraded with a job in flight, uninstalled.

Wanted besides a cluster: the operator's image on its nodes or where they can pull it (PRETRAIN_E2E_OPERATOR_IMAGE). The images
of stages are not needed: the job's pods fit on no node, so it stays in flight for as long as a test takes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.chart.helm import CHART, HELM, NO_HELM, Object, helm
from tests.e2e.kubectl import Kubectl
from tests.operator.jobs import job

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(HELM is None, reason=NO_HELM)]

REPOSITORY, _, TAG = os.environ.get("PRETRAIN_E2E_OPERATOR_IMAGE", "localhost/pretrain-operator:dev").rpartition(":")
VALUES: Object = {"crds": {"enabled": False}, "image": {"repository": REPOSITORY, "tag": TAG}}
IN_FLIGHT: Object = {"corpus.tasks": 2, "scheduling": {"nodeSelector": {"pretrain.dev/e2e": "no-such-node"}}}


@pytest.fixture
def place(kubectl: Kubectl) -> Iterator[Kubectl]:
    """kubectl in a namespace with restricted Pod Security, in which no other test has jobs."""
    place = dataclasses.replace(kubectl, namespace=f"chart-test-{uuid.uuid4().hex[:8]}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace, "labels": labels}}
    place("apply", "-f", "-", stdin=namespace)
    yield place
    helm("uninstall", place.namespace, "--namespace", place.namespace, "--ignore-not-found")
    place.run("delete", "namespace", place.namespace, "--wait=false")


def test_a_job_in_flight_notices_neither_upgrade_nor_rollback_nor_uninstall(place: Kubectl) -> None:
    values = VALUES | {"scope": "namespaced"}
    _helm(place, "install", values)
    said = helm("test", place.namespace, "--namespace", place.namespace, timeout=180)
    assert said.returncode == 0, said.stderr
    assert "The API server knows PretrainJobs, and the operator is ready." in said.stdout + said.stderr
    assert place.run("get", "pod", f"{place.namespace}-pretrain-operator-test").returncode != 0, "the test's pod was left"

    place("apply", "-f", "-", stdin=job(IN_FLIGHT) | {"metadata": {"name": "flying"}})
    before = _until(lambda: _children(place), lambda found: {"Job", "Pod", "ConfigMap"} <= {kind for kind, *_ in found})

    _helm(place, "upgrade", values | {"operator": {"logLevel": "debug"}})
    assert _operators(place) == [["--log-level=debug"]]
    _helm(place, "rollback", None, "1")
    assert _operators(place) == [["--log-level=info"]]
    assert _children(place) == before
    _until(lambda: _log(place), lambda log: "holding Lease" in log)
    assert '"level": "error"' not in _log(place), _log(place)
    assert "forbidden" not in _log(place).lower()

    assert helm("uninstall", place.namespace, "--namespace", place.namespace, "--wait").returncode == 0
    assert _children(place) == before
    left = place(
        "get", "all,lease,serviceaccount,role,rolebinding", "-l", "app.kubernetes.io/part-of=pretrain-operator", "-o", "name"
    )
    assert {name.split("/")[0] for name in left.split()} == {"job.batch", "pod"}
    assert place.run("get", "lease", "pretrain-operator").returncode != 0

    # Nothing of the operator's holds the job back: it goes without an operator, and takes along what is its.
    place("delete", "pretrainjob", "flying", "--timeout=30s")
    _until(lambda: _children(place), lambda found: found == set())


def test_a_standby_for_all_namespaces_is_ready(place: Kubectl) -> None:
    """With the rights of scope `cluster` it lists and watches everything; another holds the Lease, so it writes nothing."""
    _helm(place, "install", VALUES | {"replicas": 0})
    other = {"spec": {"holderIdentity": "another", "leaseDurationSeconds": 3600, "renewTime": "2000-01-01T00:00:00.000000Z"}}
    place("patch", "lease", "pretrain-operator", "--type=merge", "-p", json.dumps(other))
    _helm(place, "upgrade", VALUES | {"replicas": 2})
    assert len(_operators(place)) == 2
    assert place.get("lease", "pretrain-operator")["spec"]["holderIdentity"] == "another"
    assert "forbidden" not in _log(place).lower()
    assert '"level": "error"' not in _log(place), _log(place)


def _helm(place: Kubectl, verb: str, values: Object | None, *arguments: str) -> None:
    """A call of helm for the namespace's one release, which waits until the operator is ready."""
    chart = [] if values is None else [str(CHART), "--values", "-"]
    command = [verb, place.namespace, *chart, *arguments, "--namespace", place.namespace, "--wait", "--timeout", "120s"]
    done = helm(*command, stdin=None if values is None else json.dumps(values), timeout=150)
    assert done.returncode == 0, done.stderr + place.run("get", "pods,events").stdout


def _operators(place: Kubectl) -> list[list[str]]:
    """What each operator that is not about to end was told of logging."""
    pods = place.get("pods", "-l", "app.kubernetes.io/component=operator")["items"]
    return [
        [argument for argument in pod["spec"]["containers"][0]["args"] if "log-level" in argument]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
    ]


def _children(place: Kubectl) -> set[tuple[str, str, str]]:
    """What there is for the job: kind, name and uid."""
    found = place.get("jobs,pytorchjobs,pods,configmaps", "-l", "pretrain.dev/job=flying")["items"]
    return {(item["kind"], item["metadata"]["name"], item["metadata"]["uid"]) for item in found}


def _log(place: Kubectl) -> str:
    return place("logs", "-l", "app.kubernetes.io/component=operator", "--tail=-1")


def _until(look: Callable[[], Any], enough: Callable[[Any], bool], seconds: float = 60) -> Any:
    """What is seen once it is enough; fails with what was seen last."""
    deadline = time.monotonic() + seconds
    while not enough(seen := look()):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still {seen}"
        time.sleep(0.5)
    return seen
