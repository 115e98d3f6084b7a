"""The operator as a user installs it: from the chart, with its own image, for the namespaces of one test.

    crd         the CustomResourceDefinition, once a session; it stays, because other users of the cluster may have jobs
    operators   a function that installs an operator for namespaces; it is uninstalled after the test

Images: PRETRAIN_E2E_OPERATOR_IMAGE, PRETRAIN_E2E_PREPROCESS_IMAGE and PRETRAIN_E2E_TRAINER_IMAGE, names with a tag.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from pretrain_operator.crd import PLAIN_FILE

from tests.chart.helm import CHART, HELM, NO_HELM, ROOT, Object, helm
from tests.e2e.kubectl import Kubectl, new_namespace

RELEASE = "pretrain-operator"
READY_SECONDS = 180


def image(name: str) -> dict[str, str]:
    """Where one of our images is, as the chart's values say it."""
    where = os.environ.get(f"PRETRAIN_E2E_{name.upper()}_IMAGE", f"localhost/pretrain-{name}:dev")
    repository, _, tag = where.rpartition(":")
    return {"repository": repository, "tag": tag}


@dataclass(frozen=True)
class Operator:
    """One release of the chart, in a namespace of its own."""

    kubectl: Kubectl
    watched: tuple[str, ...]

    @property
    def user(self) -> str:
        """As whom it speaks to the API server."""
        return f"system:serviceaccount:{self.kubectl.namespace}:{RELEASE}"

    def values(self, more: Mapping[str, Any] | None = None) -> Object:
        """The values of an installation for its namespaces, with `more` of them instead."""
        images = {"preprocess": image("preprocess"), "trainer": image("trainer")}
        watch = {"namespaces": list(self.watched)}
        base = {
            "scope": "namespaced",
            "watch": watch,
            "crds": {"enabled": False},
            "image": image("operator"),
            "images": images,
        }
        return _merged(base, more or {})

    def install(self, more: Mapping[str, Any] | None = None) -> None:
        """Returns when the operator is ready."""
        self._helm("install", RELEASE, str(CHART), stdin=self.values(more))

    def upgrade(self, more: Mapping[str, Any] | None = None) -> None:
        self._helm("upgrade", RELEASE, str(CHART), stdin=self.values(more))

    def rollback(self, revision: int) -> None:
        self._helm("rollback", RELEASE, str(revision))

    def uninstall(self) -> None:
        self._helm("uninstall", RELEASE)

    def pods(self) -> list[Object]:
        """Its pods that are not about to end."""
        found = self.kubectl.get("pods", "--selector=app.kubernetes.io/component=operator")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def log(self) -> str:
        return self.kubectl("logs", "--selector=app.kubernetes.io/component=operator", "--tail=-1")

    def _helm(self, *arguments: str, stdin: Object | None = None) -> None:
        values = [] if stdin is None else ["--values", "-"]
        where = ["--namespace", self.kubectl.namespace, "--wait", "--timeout", f"{READY_SECONDS}s"]
        done = helm(
            *arguments, *values, *where, stdin=None if stdin is None else json.dumps(stdin), timeout=READY_SECONDS + 30
        )
        if done.returncode != 0:
            seen = self.kubectl.run("get", "pods,events").stdout + self.kubectl.run("logs", f"deploy/{RELEASE}").stdout
            raise AssertionError(f"helm {' '.join(arguments)}: {done.stderr}\n{seen}")


Operators = Callable[..., Operator]
"""Installs an operator for the namespaces it is given, with `values=` instead of the usual ones."""


@contextlib.contextmanager
def installed(*watched: str, values: Mapping[str, Any] | None = None) -> Iterator[Operator]:
    """An operator that is ready, for namespaces that exist; uninstalled afterwards."""
    if HELM is None:
        pytest.skip(NO_HELM)
    with new_namespace("installed") as kubectl:
        operator = Operator(kubectl, watched)
        operator.install(values)
        try:
            yield operator
        finally:
            helm("uninstall", RELEASE, "--namespace", kubectl.namespace, "--ignore-not-found", "--wait")


@pytest.fixture(scope="session")
def crd(kubectl: Kubectl) -> None:
    """The CustomResourceDefinition of this checkout."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / PLAIN_FILE))
    kubectl("wait", "--for=condition=Established", "-f", str(ROOT / PLAIN_FILE), "--timeout=30s")


@pytest.fixture
def operators(crd: None) -> Iterator[Operators]:
    """Installs operators; they are gone after the test."""
    with contextlib.ExitStack() as made:

        def make(*watched: str, values: Mapping[str, Any] | None = None) -> Operator:
            return made.enter_context(installed(*watched, values=values))

        yield make


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> Object:
    merged = dict(base)
    for key, value in more.items():
        merged[key] = _merged(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged
