"""Nodes that are drained, and one that is cut off, while training runs on them. Needs two nodes.

What only some clusters can do is asked of the environment: PRETRAIN_E2E_CUT is a command that takes the network from one node,
and gives it back when it is called with `heal` at its end; PRETRAIN_E2E_CUT_NODE is that node's name. SeaweedFS stays off it.

Pods are placed by a label of this test's own on nodes, so that nothing else in the cluster is moved; a drain evicts pods of this
test alone.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pretrain_operator.training_group import HURRIED_GRACE_SECONDS

from tests.e2e.kubectl import Kubectl, Namespaces
from tests.e2e.paced import CHECKPOINT_STEPS, Paced, newest, said, training_pods, went_on
from tests.e2e.s3 import CUT_NODE
from tests.e2e.served import Serving
from tests.e2e.undisturbed import outcome
from tests.e2e.waiting import eventually, is_true, succeeded, until

pytestmark = pytest.mark.e2e

CUT = os.environ.get("PRETRAIN_E2E_CUT")
LABEL = "pretrain.dev/e2e-place"
BUSYBOX = os.environ.get("PRETRAIN_E2E_BUSYBOX", "localhost/busybox:1")
NOTICED_SECONDS = 240.0
"""The node controller marks a node after about 50 s; our pods leave it after 30 s more."""


@dataclass(frozen=True)
class Nodes:
    """The nodes that pods can run on, and the label by which the pods of one test find theirs."""

    kubectl: Kubectl
    names: tuple[str, ...]

    @property
    def selector(self) -> dict[str, Any]:
        return {"scheduling": {"nodeSelector": {LABEL: self.kubectl.namespace}}}

    def allow(self, *names: str) -> None:
        for name in names:
            self.kubectl("label", "node", name, f"{LABEL}={self.kubectl.namespace}", "--overwrite")

    def fill(self, name: str, cores: float) -> None:
        """Takes that much of the node's CPU, on paper."""
        container = {
            "name": "filler",
            "image": BUSYBOX,
            "command": ["sleep", "3600"],
            "resources": {"requests": {"cpu": f"{cores:.2f}"}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        pod = {
            "nodeName": name,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        }
        self.kubectl(
            "apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "filler"}, "spec": pod}
        )

    def forget(self) -> None:
        for name in self.names:
            self.kubectl.run("label", "node", name, f"{LABEL}-")

    @contextlib.contextmanager
    def drained(self, name: str, pods: str) -> Iterator[None]:
        """The node without the pods of these labels, and closed to new ones; open again afterwards."""
        try:
            arguments = (
                "--pod-selector",
                pods,
                "--delete-emptydir-data",
                "--force",
                "--ignore-daemonsets",
                "--timeout=180s",
            )
            done = self.kubectl.run("drain", name, *arguments, timeout=200)
            assert done.returncode == 0, done.stderr
            yield
        finally:
            self.kubectl.run("uncordon", name)

    @contextlib.contextmanager
    def cut(self, name: str) -> Iterator[None]:
        """The node without a network; with it again, and ready, afterwards."""
        assert CUT is not None, "asked for by the test"
        try:
            subprocess.run(shlex.split(CUT), check=True, timeout=60)
            yield
        finally:
            subprocess.run([*shlex.split(CUT), "heal"], check=True, timeout=60)
            self.kubectl.run("wait", "--for=condition=Ready", f"node/{name}", "--timeout=180s", timeout=190)


@pytest.fixture
def nodes(namespaces: Namespaces) -> Iterator[Nodes]:
    """The nodes, and a namespace for a job on them."""
    kubectl = namespaces("nodes")
    names = tuple(
        node["metadata"]["name"]
        for node in kubectl.get("nodes")["items"]
        if not node["spec"].get("taints") and is_true(node, "Ready")
    )
    if len(names) < 2:
        pytest.skip(f"this test needs two nodes that take pods; the cluster has {len(names)}: add one")
    nodes = Nodes(kubectl, names)
    try:
        yield nodes
    finally:
        nodes.forget()


def test_a_drained_node_costs_neither_steps_nor_retries(paced: Paced, nodes: Nodes, serving: Serving) -> None:
    """The node under training is drained, then the node under a stage that is an Indexed Job; the model is the same."""
    kubectl, (first, second) = nodes.kubectl, nodes.names[:2]
    nodes.allow(first)
    storage = paced.apply(kubectl, "paced", nodes.selector)
    serving(kubectl)
    reached = said(kubectl, "paced", 1, "step", CHECKPOINT_STEPS + 2)["step"]
    assert {pod["spec"]["nodeName"] for pod in training_pods(kubectl)} == {first}

    nodes.allow(second)
    drained = time.time()
    with nodes.drained(first, "pretrain.dev/job=paced"):
        empty = time.time()
        saved = newest(storage)
        assert saved >= reached, "both pods saved before they went"
        job = until(kubectl, "paced", lambda job: job["status"]["training"]["attempt"] == 2, seconds=60)
        (restart,) = job["status"]["restarts"]
        assert restart["reason"] == "Disruption"
        assert "(EvictionByEvictionAPI)" in restart["message"], restart["message"]
        assert job["status"]["restartCount"] == 0
        times = {"drained": drained, "node empty": empty}
        went_on(kubectl, 2, saved, times)
        assert {pod["spec"]["nodeName"] for pod in training_pods(kubectl)} == {second}

    eventually(lambda: _evaluating(kubectl), lambda pods: bool(pods) and pods[0]["status"]["phase"] == "Running", 300)
    (pod,) = _evaluating(kubectl)
    drained = time.time()
    with nodes.drained(pod["spec"]["nodeName"], "pretrain.dev/job=paced"):
        new = eventually(lambda: [one for one in _evaluating(kubectl) if _uid(one) != _uid(pod)], bool, 120)
        print(f"drained 0.0 s, replaced {time.time() - drained:.1f} s")
        assert new[0]["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] == "0"
        until(kubectl, "paced", succeeded)
    assert outcome(storage) == paced.outcome


@pytest.mark.skipif(
    CUT is None or CUT_NODE is None, reason="PRETRAIN_E2E_CUT and PRETRAIN_E2E_CUT_NODE are not set (see module)"
)
def test_a_node_that_is_cut_off(paced: Paced, nodes: Nodes, serving: Serving) -> None:
    """One pod of the group is on it: the other one cannot save, and is not waited for; the group goes on without the node."""
    kubectl, lost = nodes.kubectl, str(CUT_NODE)
    assert paced.s3.node != lost, f"the storage of all jobs is on {lost}, the node that is to be cut off"
    (other, *_) = (name for name in nodes.names if name != lost)
    cores = float(kubectl.get(f"node/{other}")["status"]["allocatable"]["cpu"].removesuffix("m"))
    cores = cores / 1000 if cores > 512 else cores
    # Two of these fit on a node, but only one beside what fills the first; the second node is opened when that one is placed.
    nodes.fill(lost, 0.5 * cores)
    nodes.allow(lost)
    storage = paced.apply(
        kubectl, "paced", nodes.selector | {"training.resources": {"cpu": f"{0.4 * cores:.2f}", "memory": "2Gi"}}
    )
    serving(kubectl)
    eventually(lambda: [pod["spec"].get("nodeName") for pod in training_pods(kubectl)], lambda there: lost in there, 60)
    nodes.allow(other)
    said(kubectl, "paced", 1, "step", CHECKPOINT_STEPS + 2)
    before = {pod["spec"]["nodeName"]: pod for pod in training_pods(kubectl)}
    assert set(before) == {lost, other}, "one pod on each"

    times = {"cut off": time.time()}
    with nodes.cut(lost):
        job = until(kubectl, "paced", lambda job: job["status"]["training"]["attempt"] == 2, seconds=NOTICED_SECONDS)
        times["detected"] = time.time()
        (restart,) = job["status"]["restarts"]
        assert restart["reason"] == "Disruption"
        assert f"node {lost} did not answer" in restart["message"], restart["message"]
        assert job["status"]["restartCount"] == 0
        eventually(lambda: _uid(before[lost]) in map(_uid, training_pods(kubectl)), lambda there: not there, 60)
        times["lost pod forced"] = time.time()
        eventually(lambda: _uid(before[other]) in map(_uid, training_pods(kubectl)), lambda there: not there, 120)
        times["survivor gone"] = time.time()
        assert times["survivor gone"] < times["detected"] + HURRIED_GRACE_SECONDS + 20
        went_on(kubectl, 2, newest(storage), times)
        assert {pod["spec"]["nodeName"] for pod in training_pods(kubectl)} == {other}
        until(kubectl, "paced", succeeded)
    assert outcome(storage) == paced.outcome


def _evaluating(kubectl: Kubectl) -> list[dict[str, Any]]:
    return list(kubectl.get("pods", "--selector=pretrain.dev/stage=evaluate")["items"])


def _uid(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["uid"])
