"""The operator is upgraded, rolled back, uninstalled and installed again beside one job: its pods go on as they are.

Another tag of the operator's image than the usual one is used where PRETRAIN_E2E_OPERATOR_NEXT_IMAGE names it.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.e2e.installed import Operators, image
from tests.e2e.jobs import tiny_job
from tests.e2e.kubectl import Kubectl, Namespaces
from tests.e2e.paced import PACED, STEP_TOKENS, STEPS
from tests.e2e.s3 import ClusterS3
from tests.e2e.undisturbed import NAME
from tests.e2e.waiting import RUN_SECONDS, eventually, succeeded, until

pytestmark = pytest.mark.e2e

TRAINING_LASTS = PACED | {"training.tokens": 3 * STEPS * STEP_TOKENS // 2}
"""Long enough for an upgrade, a rollback and an uninstallation meanwhile."""
CHANGED_PULL_SECRET = "changed"
CHANGED = {
    "operator": {"logLevel": "debug", "workers": 2},
    "images": {"pullSecrets": [CHANGED_PULL_SECRET]},  # of the pods of stages; a name that there is nothing of does no harm
    "image": image("operator_next") if "PRETRAIN_E2E_OPERATOR_NEXT_IMAGE" in os.environ else image("operator"),
}
GONE_SECONDS = 60.0


def test_a_job_goes_on_through_upgrade_rollback_uninstall_and_install(
    s3: ClusterS3, namespaces: Namespaces, operators: Operators
) -> None:
    kubectl = namespaces("upgrade")
    operator = operators(kubectl.namespace)
    kubectl("apply", "-f", "-", stdin=tiny_job(s3, kubectl.namespace, NAME, TRAINING_LASTS))
    eventually(lambda: phases(kubectl, "clean"), lambda found: "Running" in found, RUN_SECONDS)

    before = pods(kubectl)
    operator.upgrade(CHANGED)
    (upgraded,) = operator.pods()
    assert "--log-level=debug" in upgraded["spec"]["containers"][0]["args"]
    assert_still_there(before, pods(kubectl))

    eventually(lambda: phases(kubectl, "train"), lambda found: found == ["Running", "Running"], RUN_SECONDS)
    before = pods(kubectl)
    operator.upgrade(CHANGED | {"operator": {"logFormat": "text"}})
    assert_still_there(before, pods(kubectl))
    operator.rollback(1)
    assert_still_there(before, pods(kubectl))

    assert phases(kubectl, "train") == ["Running", "Running"]
    operator.uninstall()
    assert kubectl.get("customresourcedefinition", "pretrainjobs.pretrain.dev")
    assert kubectl.get("pretrainjob", NAME)["status"]["phase"] == "Training"
    assert phases(kubectl, "train") == ["Running", "Running"]
    eventually(lambda: phases(kubectl, "train"), lambda found: found == ["Succeeded", "Succeeded"], RUN_SECONDS)
    assert_still_there(before, pods(kubectl))
    assert not phases(kubectl, "evaluate"), "there is nobody who could start it"

    operator.install()
    job = until(kubectl, NAME, succeeded)
    after = pods(kubectl)
    assert_still_there(before, after)
    assert (job["status"]["training"]["attempt"], job["status"]["restarts"]) == (1, [])
    assert len(after) == sum(stage["tasks"] for stage in job["status"]["stages"])
    # What was changed took effect where a stage began after it, and nowhere else.
    changed = {
        stage_of(pod) for pod in after.values() if {"name": CHANGED_PULL_SECRET} in pod["spec"].get("imagePullSecrets", [])
    }
    assert {"tokenizer", "tokenize", "train"} <= changed
    assert not changed & {"preflight", "clean", "evaluate", "export", "report"}

    # The namespace goes with a job in flight, and its operator outlives it; then the operator goes.
    kubectl("apply", "-f", "-", stdin=tiny_job(s3, kubectl.namespace, "second"))
    eventually(lambda: phases(kubectl, "preflight", "second"), lambda found: found == ["Running"])
    started = time.monotonic()
    done = kubectl.run(
        "delete", "namespace", kubectl.namespace, timeout=GONE_SECONDS + 30
    )  # it warns of the flag --namespace
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < GONE_SECONDS
    (pod,) = operator.pods()
    assert [state["restartCount"] for state in pod["status"]["containerStatuses"]] == [0]
    operator.kubectl("rollout", "status", "deployment", "--timeout=30s")
    operator.uninstall()


def pods(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    """The pods of stages, by uid."""
    found = kubectl.get("pods", "--selector=pretrain.dev/job")["items"]
    return {pod["metadata"]["uid"]: pod for pod in found}


def phases(kubectl: Kubectl, stage: str, job: str = NAME) -> list[str]:
    """Asked of the pods, because the status of a job is written seconds later, and a stage may be over by then."""
    selector = f"pretrain.dev/job={job},pretrain.dev/stage={stage}"
    return [pod["status"]["phase"] for pod in kubectl.get("pods", "--selector", selector)["items"]]


def stage_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"]["pretrain.dev/stage"])


def assert_still_there(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> None:
    """No pod was deleted, and no container started again."""
    gone = [before[uid]["metadata"]["name"] for uid in before if uid not in after]
    assert not gone, gone
    assert {pod["metadata"]["name"] for pod in after.values() if "deletionTimestamp" in pod["metadata"]} == set()
    assert {state["restartCount"] for pod in after.values() for state in pod["status"].get("containerStatuses", [])} <= {0}
