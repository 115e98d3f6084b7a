"""What the operator asked of the API server in the whole session is what the chart grants it: nothing more, and nothing less.

Told by the audit log, after all other tests, whoever ran the operator: installed by the chart, or as a process with all rights.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from pretrain_operator.cluster.access import USER_AGENT

from tests.chart.helm import HELM, NO_HELM, render
from tests.chart.permissions import granted
from tests.e2e import audit

pytestmark = [pytest.mark.e2e, pytest.mark.afterwards, pytest.mark.skipif(HELM is None, reason=NO_HELM)]

NAMESPACE = "team"
UNUSED: dict[tuple[str, str], str] = {}
"""What is granted and no test brings about, with the reason why it is granted."""

Grants = set[tuple[str, str]]
"""Verb and resource."""


def test_the_operator_asks_for_nothing_that_is_not_granted(began: datetime) -> None:
    used = _used(began)
    assert used
    assert used <= _granted(), f"asked for, but not granted: {sorted(used - _granted())}"


def test_nothing_is_granted_that_the_operator_does_not_ask_for(began: datetime, request: pytest.FixtureRequest) -> None:
    here = Path(__file__).parent
    missing = {path.name for path in here.glob("test_*.py")} - {item.path.name for item in request.session.items}
    if missing:
        pytest.skip(f"only the whole of tests/e2e uses all rights; without {', '.join(sorted(missing))} it cannot be told")
    unused = _granted() - _used(began)
    assert unused == UNUSED.keys(), (
        f"granted, but not used: {sorted(unused - UNUSED.keys())}; used after all: {sorted(UNUSED.keys() - unused)}"
    )


def _granted() -> Grants:
    """By the chart for one namespace, all of its rules together; which Lease may be touched is tested with the chart."""
    rules = granted(render({"scope": "namespaced", "watch": {"namespaces": [NAMESPACE]}}, namespace=NAMESPACE))[NAMESPACE]
    return {(verb, resource.partition(" ")[0]) for resource, verbs in rules.items() for verb in verbs}


def _used(since: datetime) -> Grants:
    """Server-side apply needs `patch`, and `create` too where it creates (201)."""
    used = set()
    for request in audit.requests(agent=USER_AGENT, since=since):
        if request.resource.startswith("/"):
            continue  # what API groups there are: open to everybody
        resource, _, part = request.resource.partition("/")
        name = f"{resource}.{request.group}".rstrip(".") + (f"/{part}" if part else "")
        used.add((request.verb, name))
        if request.verb == "patch" and request.code == 201:
            used.add(("create", name))
    return used
