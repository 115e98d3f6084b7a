"""The chart with an operator that runs: ready, tested, upgraded with a job in flight, uninstalled.

The images of stages are not needed: the job's pods fit on no node, so it stays in flight for as long as a test takes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest

from tests.chart.helm import HELM, NO_HELM, Object, helm
from tests.e2e.installed import RELEASE, Operator, Operators
from tests.e2e.kubectl import Kubectl, new_namespace
from tests.e2e.waiting import eventually
from tests.operator.jobs import job

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(HELM is None, reason=NO_HELM)]

IN_FLIGHT: Object = {"corpus.tasks": 2, "scheduling": {"nodeSelector": {"pretrain.dev/e2e": "no-such-node"}}}
DEBUG: Object = {"operator": {"logLevel": "debug"}}
ALL_NAMESPACES: Object = {"scope": "cluster", "rbac": {"aggregateToUserRoles": False}}
OURS = "--selector=app.kubernetes.io/part-of=pretrain-operator"


@pytest.fixture
def jobs() -> Iterator[Kubectl]:
    """kubectl in a namespace for jobs."""
    with new_namespace("chart") as kubectl:
        yield kubectl


def test_a_job_in_flight_notices_neither_upgrade_nor_rollback_nor_uninstall(jobs: Kubectl, operators: Operators) -> None:
    operator = operators(jobs.namespace)
    assert "The API server knows PretrainJobs, and the operator is ready." in _tested(operator)

    jobs("apply", "-f", "-", stdin=job(IN_FLIGHT) | {"metadata": {"name": "flying"}})
    before = eventually(lambda: _children(jobs), lambda found: {"Job", "Pod", "ConfigMap"} <= {kind for kind, *_ in found})

    operator.upgrade(DEBUG)
    assert _log_levels(operator) == ["debug"]
    operator.rollback(1)
    assert _log_levels(operator) == ["info"]
    eventually(operator.log, lambda log: "holding Lease" in log)
    _assert_undisturbed(operator)
    assert _children(jobs) == before

    operator.uninstall()
    assert _children(jobs) == before
    eventually(lambda: _left(operator.kubectl), lambda left: left == [])
    assert {name.split("/")[0] for name in _left(jobs)} == {"configmap", "job.batch", "pod"}, "more than the job's children"

    # Nothing of the operator's holds the job back: it goes without an operator, and takes along what is its.
    jobs("delete", "pretrainjob", "flying", "--timeout=30s")
    eventually(lambda: _children(jobs), lambda found: found == set())


def test_a_standby_for_all_namespaces_is_ready(operators: Operators) -> None:
    """With the rights of scope `cluster` it lists and watches everything; another holds the Lease, so it writes nothing."""
    values = ALL_NAMESPACES | {"fullnameOverride": f"standby-{uuid.uuid4().hex[:8]}"}
    operator = operators(values=values | {"replicas": 0})
    other = {"holderIdentity": "another", "leaseDurationSeconds": 3600, "renewTime": "2000-01-01T00:00:00.000000Z"}
    operator.kubectl("patch", "lease", "pretrain-operator", "--type=merge", "-p", json.dumps({"spec": other}))
    operator.upgrade(values | {"replicas": 2})
    assert len(operator.pods()) == 2
    assert operator.kubectl.get("lease", "pretrain-operator")["spec"] == other
    _assert_undisturbed(operator)


def _tested(operator: Operator) -> str:
    """What `helm test` says; its pod is gone afterwards."""
    done = helm("test", RELEASE, "--namespace", operator.kubectl.namespace, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert operator.kubectl("get", "pods", "--selector=app.kubernetes.io/component=test", "-o", "name") == ""
    return done.stdout + done.stderr


def _log_levels(operator: Operator) -> list[str]:
    """What each of the operator's pods was told."""
    arguments = [argument for pod in operator.pods() for argument in pod["spec"]["containers"][0]["args"]]
    return [argument.removeprefix("--log-level=") for argument in arguments if argument.startswith("--log-level=")]


def _assert_undisturbed(operator: Operator) -> None:
    """Nothing was refused, nothing failed."""
    log = operator.log()
    assert '"level": "error"' not in log, log
    assert "forbidden" not in log.lower(), log


def _children(jobs: Kubectl) -> set[tuple[str, str, str]]:
    """What there is for the job: kind, name and uid."""
    found = jobs.get("jobs,pytorchjobs,pods,configmaps", "--selector=pretrain.dev/job=flying")["items"]
    return {(item["kind"], item["metadata"]["name"], item["metadata"]["uid"]) for item in found}


def _left(kubectl: Kubectl) -> list[str]:
    """Everything of ours in a namespace."""
    return kubectl("get", "all,configmaps,leases,serviceaccounts,roles,rolebindings", OURS, "-o", "name").split()
