"""kubectl against the cluster that KUBECONFIG names; tests that need one skip only where it is not set.

Wanted: kubectl and helm in PATH, rights to create namespaces and CRDs, the Kubeflow training operator in the cluster, and an
image with busybox that its nodes have or can pull (PRETRAIN_E2E_BUSYBOX).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Kubectl:
    """kubectl, in one namespace."""

    namespace: str

    def run(self, *arguments: str, stdin: Any = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """One call, whatever comes of it; `stdin` is sent as JSON, text as it is. timeout: seconds; one that waits needs more."""
        return subprocess.run(
            ["kubectl", "--namespace", self.namespace, *arguments],
            input=stdin if stdin is None or isinstance(stdin, str) else json.dumps(stdin),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def __call__(self, *arguments: str, stdin: Any = None, timeout: float = 60) -> str:
        """One call that has to succeed, without a warning; returns what it printed."""
        done = self.run(*arguments, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object, or a list of them."""
        found = json.loads(self("get", *arguments, "-o", "json"))
        assert isinstance(found, dict)
        return found

    def refused(self, manifest: dict[str, Any], *arguments: str) -> str:
        """What the API server says when it refuses the manifest."""
        done = self.run("apply", "--dry-run=server", "-f", "-", *arguments, stdin=manifest)
        assert done.returncode != 0, f"accepted: {json.dumps(manifest)}"
        return done.stderr


Namespaces = Callable[..., Kubectl]
"""Makes a namespace, with a word of its name."""


@pytest.fixture(scope="session")
def kubectl() -> Iterator[Kubectl]:
    """kubectl in a namespace of this test run's own, with restricted pod security."""
    with new_namespace() as kubectl:
        yield kubectl


@contextlib.contextmanager
def new_namespace(word: str = "") -> Iterator[Kubectl]:
    """kubectl in a new namespace with restricted pod security, which is deleted afterwards."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG is not set: this test needs a Kubernetes cluster")
    kubectl = Kubectl("-".join(["pretrain-e2e", *([word] if word else []), uuid.uuid4().hex[:8]]))
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    kubectl(
        "apply",
        "-f",
        "-",
        stdin={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kubectl.namespace, "labels": labels}},
    )
    try:
        yield kubectl
    finally:
        # A namespace waits for pods that their Jobs keep, so Jobs have to go first (docs/operator.md).
        for kind in ("pretrainjobs.pretrain.dev", "jobs"):
            kubectl.run("delete", kind, "--all", "--wait=false")
        # Jobs first: a namespace that is deleted around a running Indexed Job waits for ever. Pods go first, and the Job controller
        # keeps a failed one until it has been replaced (backoffLimitPerIndex), which cannot be in a namespace that ends.
        kubectl.run("delete", "pretrainjobs,jobs", "--all", "--wait=false")
        kubectl.run("delete", "namespace", kubectl.namespace, "--wait=false")
