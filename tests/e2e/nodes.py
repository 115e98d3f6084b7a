"""Nodes of the cluster that a test drains, or cuts off.

    nodes   the nodes that take pods, of which there must be two, and a namespace for a job on them

What only some clusters can do is asked of the environment: PRETRAIN_E2E_CUT is a command that takes the network from one node, or,
called with `kubelet` at its end, from its kubelet alone, while its pods go on; with `heal` at its end it gives back either.
PRETRAIN_E2E_CUT_NODE is that node's name. SeaweedFS stays off it.

Pods are placed by a label of the test's own on nodes, so that nothing else in the cluster is moved; a drain evicts pods of the test
alone.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.kubectl import Kubectl, Namespaces
from tests.e2e.s3 import CUT_NODE
from tests.e2e.waiting import eventually, is_true

CUT = os.environ.get("PRETRAIN_E2E_CUT")
LABEL = "pretrain.dev/e2e-place"
BUSYBOX = os.environ.get("PRETRAIN_E2E_BUSYBOX", "localhost/busybox:1")
NOTICED_SECONDS = 240.0
"""The node controller marks a node after about 50 s; our pods leave it after 30 s more."""

needs_cut = pytest.mark.skipif(
    CUT is None or CUT_NODE is None, reason="PRETRAIN_E2E_CUT and PRETRAIN_E2E_CUT_NODE are not set (see tests/e2e/nodes.py)"
)


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
    def cut(self, name: str, *what: str) -> Iterator[None]:
        """The node without a network, or its kubelet alone; with it again, and ready, afterwards."""
        assert CUT is not None, "asked for by the test"
        try:
            subprocess.run([*shlex.split(CUT), *what], check=True, timeout=60)
            yield
        finally:
            subprocess.run([*shlex.split(CUT), "heal"], check=True, timeout=60)
            self.kubectl.run("wait", "--for=condition=Ready", f"node/{name}", "--timeout=180s", timeout=190)
            # Its taint outlasts that for a moment.
            eventually(lambda: self.kubectl.get(f"node/{name}")["spec"].get("taints"), lambda taints: not taints, 60)


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
