"""The operator's pod is taken away again and again, all through a job: the job does not notice.

What it decides follows from what it sees, not from what it remembers, so it may end between any two of its writes.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import pytest

from tests.e2e.installed import Operator, Operators
from tests.e2e.jobs import STAGES, tiny_job
from tests.e2e.kubectl import Namespaces
from tests.e2e.s3 import ClusterS3
from tests.e2e.undisturbed import NAME, Undisturbed, outcome
from tests.e2e.waiting import Job, eventually, succeeded, until

pytestmark = pytest.mark.e2e

SEED = 20
PAUSE_SECONDS = (3.0, 9.0)
CHILDREN = "jobs,pytorchjobs,configmaps,pods"
SECONDS = 900
"""The operator is away for a part of the time, so the job takes longer; what runs goes on without it."""


class Killer:
    """Kills the operator's pod at random times, without a grace period, and notes what there was of the job's objects."""

    def __init__(self, operator: Operator, children: Any) -> None:
        self.operator, self.children = operator, children
        self.chance = random.Random(SEED)
        self.killed: list[str] = []
        """The stage that was running each time, as far as pods tell, else as the job's status named it."""
        self.seen: dict[str, str] = {}
        """Every object of the job that there ever was: uid and name."""
        self.next = time.monotonic() + self.chance.uniform(*PAUSE_SECONDS)

    def __call__(self, job: Job) -> None:
        children = self.children()
        self.seen |= {item["metadata"]["uid"]: f"{item['kind']} {item['metadata']['name']}" for item in children}
        running = [item for item in children if item["kind"] == "Pod" and item["status"].get("phase") == "Running"]
        stages = [item["metadata"]["labels"]["pretrain.dev/stage"] for item in running]
        # However short the training is, the operator is killed at least once during it.
        if time.monotonic() < self.next and not ("train" in stages and "train" not in self.killed):
            return
        for pod in self.operator.pods():
            self.operator.kubectl.run("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")
        self.killed.append(next(iter(stages), job.get("status", {}).get("stage", "")))
        self.next = time.monotonic() + self.chance.uniform(*PAUSE_SECONDS)


def test_a_job_does_not_notice(
    undisturbed: Undisturbed,
    s3: ClusterS3,
    namespaces: Namespaces,
    operators: Operators,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kubectl = namespaces("killed")
    operator = operators(kubectl.namespace)

    def children() -> list[dict[str, Any]]:
        return list(kubectl.get(CHILDREN, "--selector", f"pretrain.dev/job={NAME}")["items"])

    kubectl("apply", "-f", "-", stdin=tiny_job(s3, kubectl.namespace, NAME))
    killer, started = Killer(operator, children), time.monotonic()
    job = until(kubectl, NAME, succeeded, seconds=SECONDS, meanwhile=killer)
    with capsys.disabled():
        seconds = time.monotonic() - started
        print(f"\noperator killed {len(killer.killed)} times in {seconds:.0f} s: {dict(Counter(killer.killed))}")
    assert len(killer.killed) >= 5
    assert "train" in killer.killed

    assert outcome(s3.storage(f"{kubectl.namespace}/{NAME}")) == undisturbed.outcome
    left = {item["metadata"]["uid"]: item for item in children()}
    # What was ever there is still there: nothing was made twice, nothing was deleted, nothing ran again.
    assert killer.seen.keys() <= left.keys(), [name for uid, name in killer.seen.items() if uid not in left]
    pods = [item for item in left.values() if item["kind"] == "Pod"]
    tasks = sum(stage["tasks"] for stage in job["status"]["stages"])
    assert len(pods) == tasks, [pod["metadata"]["name"] for pod in pods]
    assert {state["restartCount"] for pod in pods for state in pod["status"]["containerStatuses"]} == {0}
    assert (job["status"]["training"]["attempt"], job["status"]["restarts"]) == (1, [])
    assert Counter(item["kind"] for item in left.values()) == {
        "Job": len(STAGES) - 1,
        "PyTorchJob": 1,
        "ConfigMap": 1,
        "Pod": tasks,
    }

    # The same change, announced by two operators, is one Event.
    events = kubectl.get("events", "--field-selector", f"involvedObject.uid={job['metadata']['uid']}")["items"]
    said = Counter((event["reason"], event["message"]) for event in events)
    assert set(said.values()) == {1}, said
    assert Counter(reason for reason, _ in said) == {"Accepted": 1, "StageSucceeded": len(STAGES), "Succeeded": 1}

    # And it goes with everything that was its when its time is over, which the operator sees to.
    kubectl("patch", "pretrainjob", NAME, "--type=merge", "-p", '{"spec": {"ttlSecondsAfterFinished": 1}}')
    eventually(children, lambda there: not there)
    assert kubectl.run("get", "pretrainjob", NAME).returncode != 0
