"""helm on the chart of this checkout: the program that HELM names, or the one in PATH; without either, tests that need it skip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "pretrain-operator"
HELM = os.environ.get("HELM") or shutil.which("helm")
NO_HELM = "helm is neither in PATH nor named by HELM: the chart's templates are not tested"
RELEASE, NAMESPACE = "pretrain-operator", "pretrain-system"
NAMESPACED = {"scope": "namespaced", "watch": {"namespaces": ["team-a", "team-b"]}}
"""Values of an installation for two namespaces."""

Object = dict[str, Any]


def helm(*arguments: str, stdin: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """One call, whatever comes of it."""
    assert HELM is not None, NO_HELM
    return subprocess.run(
        [HELM, *arguments], input=stdin, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT
    )


def template(
    values: Object | None = None,
    *arguments: str,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    chart: Path = CHART,
) -> subprocess.CompletedProcess[str]:
    """`helm template` with these values, whatever comes of it; no cluster is asked."""
    return helm(
        "template", release, str(chart), "--namespace", namespace, *version(), *arguments, "--values", "-",
        stdin=json.dumps(values or {}),
    )  # fmt: skip


def version() -> Sequence[str]:
    """Which Kubernetes to render for: what a helm assumes without a cluster depends on how it was built."""
    return ("--kube-version", "1.34.0")


def render(values: Object | None = None, *arguments: str, **where: Any) -> list[Object]:
    """The objects that the chart renders with these values."""
    done = template(values, *arguments, **where)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if document is not None]


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    """Those of one kind."""
    return [item for item in objects if item["kind"] == kind]


def pods(objects: Sequence[Object]) -> list[Object]:
    """The specs of all pods that the objects are or make."""
    return [
        item["spec"] if item["kind"] == "Pod" else item["spec"]["template"]["spec"] for item in objects if _has_pods(item)
    ]


def _has_pods(item: Object) -> bool:
    return item["kind"] == "Pod" or "template" in item.get("spec", {})
