"""The operator's process against a real API server: what it writes, and what happens when it, or the API server, fails.

The pods of these jobs do nothing (tests/e2e/images/instant.Dockerfile): what is tested is what happens between them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from tests.e2e.api_proxy import ApiProxy, Asked
from tests.e2e.operator_process import Operator, Place, timeless, until

pytestmark = pytest.mark.e2e

JOB_SECONDS = 240.0
"""For a whole job of instant pods, on a machine that is busy with other things."""
AGENT = re.compile(r"pretrain-operator/[0-9.]+")


def test_a_job_and_the_same_with_the_operator_killed_after_every_write(place: Place) -> None:
    """One operator is left alone; the other is killed whenever the API server has taken a write, before it hears of that."""
    undisturbed = _left_alone(place)
    place.kubectl("delete", "pretrainjob/job", "--cascade=foreground")
    until(lambda: not place.kubectl.get("pods", "-l", "pretrain.dev/job=job")["items"], 60)

    proxy = place.proxy()
    operator = place.operator(proxy)
    killed: set[str] = set()

    def kill(asked: Asked) -> None:
        if asked.write and _content(asked) not in killed:
            killed.add(_content(asked))
            assert operator.process is not None
            os.kill(operator.process.pid, signal.SIGKILL)

    proxy.before_answer = kill
    place.apply("job")

    def done() -> bool:
        if operator.process is not None and operator.process.poll() is not None:
            operator.start()
        return place.condition("job", "Succeeded").get("status") == "True"

    until(done, 3 * JOB_SECONDS, lambda: json.dumps(place.status("job"), indent=1))
    until(lambda: place.outcome("job") == undisturbed, 30, lambda: _difference(place.outcome("job"), undisturbed))
    print(f"killed {len(killed)} times")
    assert len(killed) > 20
    assert _made_twice(proxy.writes()) == []


def _left_alone(place: Place) -> dict[str, Any]:
    proxy = place.proxy()
    operator = place.operator(proxy).leading()
    place.kubectl("get", "pods")  # the API server's caches are warm
    time.sleep(7)  # the list after the watches' own
    before = len(proxy.asked)
    place.apply("job")
    place.succeeds("job", JOB_SECONDS)
    _quiet(proxy)
    asked = proxy.asked[before:]
    writes = [one for one in asked if one.write]
    print(f"\n{len(writes)} writes for one job: {dict(Counter(_kind(one) for one in writes))}")
    assert [one.path for one in asked if one.read] == [], "it read what its watches bring"
    assert _made_twice(writes) == []
    assert [(one.path, one.status) for one in writes if one.status >= 300] == []
    assert all(AGENT.fullmatch(one.agent) for one in proxy.asked), {one.agent for one in proxy.asked}
    _assert_counted(operator, proxy)
    _assert_logged(operator)
    outcome = place.outcome("job")
    assert [event for event in outcome["events"] if event[2] != 1] == []
    operator.send(signal.SIGTERM)
    assert operator.wait(15) == 0
    return outcome


def _assert_logged(operator: Operator) -> None:
    """JSON on every line; what is about a job says which."""
    lines = operator.lines()
    applied = [line for line in lines if line["message"].startswith("applied ")]
    assert applied
    for line in applied:
        assert {"time", "level", "namespace", "name", "uid", "generation"} <= line.keys()
    assert [line for line in lines if line["level"] in ("warning", "error")] == []


def _assert_counted(operator: Operator, proxy: ApiProxy) -> None:
    """The metrics agree with what the proxy saw."""
    _, text = operator.get("/metrics", metrics=True)
    patches = sum(one.method == "PATCH" for one in proxy.asked)
    counted = re.findall(r'pretrain_operator_api_requests_total\{code="20[01]",verb="patch"\} ([0-9.]+)', text)
    assert sum(map(float, counted)) == patches


def _kind(asked: Asked) -> str:
    parts = asked.path.split("/")
    return "status" if parts[-1] == "status" else parts[parts.index("namespaces") + 2]


def _content(asked: Asked) -> str:
    return f"{asked.method} {asked.path} {json.dumps(timeless(json.loads(asked.body or b'{}')), sort_keys=True)}"


def _made_twice(writes: Iterable[Asked]) -> list[str]:
    made = Counter(asked.path for asked in writes if asked.status == 201)
    return [path for path, times in made.items() if times > 1]


def _difference(mine: dict[str, Any], other: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {mine[name]}\n  not {other[name]}" for name in mine if mine[name] != other[name])


def _quiet(proxy: ApiProxy, seconds: float = 4.0) -> None:
    """Waits until nothing but the Lease has been written for so long."""
    until(lambda: bool(proxy.asked) and all(one.at < time.monotonic() - seconds for one in proxy.writes()), 60)
