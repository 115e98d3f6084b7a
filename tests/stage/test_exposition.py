"""Metrics over HTTP: what a process counts last is read before it ends, by whoever reads it at all."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
from pretrain_operator.cluster.access import USER_AGENT
from pretrain_stage.exposition import OPERATOR, Exposition
from prometheus_client import CollectorRegistry, Counter


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def served(registry: CollectorRegistry) -> Iterator[Exposition]:
    exposition = Exposition(registry, "127.0.0.1", 0)
    yield exposition
    exposition.close()


def read(served: Exposition, agent: str = "Prometheus/2.42.0") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{served.port}/metrics", headers={"User-Agent": agent})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert int(answer.headers["Content-Length"]) > 0
        text: str = answer.read().decode()
        return text


def test_the_last_word_is_read_before_the_process_goes_on(registry: CollectorRegistry, served: Exposition) -> None:
    faults = Counter("faults", "Faults.", registry=registry)
    assert "faults_total 0.0" in read(served)
    faults.inc()
    seen: list[str] = []
    reader = threading.Timer(0.3, lambda: seen.append(read(served)))
    reader.start()
    assert served.wait_until_read(longest=10)
    reader.join()
    assert "faults_total 1.0" in seen[0]


def test_where_nobody_reads_nobody_waits(registry: CollectorRegistry, served: Exposition) -> None:
    Counter("faults", "Faults.", registry=registry)
    started = time.monotonic()
    assert not served.wait_until_read(longest=10)
    assert time.monotonic() - started < 1


def test_the_operator_is_not_prometheus(registry: CollectorRegistry, served: Exposition) -> None:
    """It reads the same port more often, and would take the last word away."""
    assert USER_AGENT.startswith(OPERATOR)
    Counter("faults", "Faults.", registry=registry)
    read(served, USER_AGENT)
    assert not served.wait_until_read(longest=0.2)
    read(served)
    threading.Timer(0.1, lambda: read(served, USER_AGENT)).start()
    assert not served.wait_until_read(longest=0.5)


def test_a_reader_that_has_gone_is_not_waited_for_for_ever(registry: CollectorRegistry, served: Exposition) -> None:
    Counter("faults", "Faults.", registry=registry)
    read(served)
    while not served._reads:  # it is noted once the answer has been sent, which is after it has been received
        time.sleep(0.01)
    started = time.monotonic()
    assert not served.wait_until_read(longest=0.3)
    assert 0.2 < time.monotonic() - started < 5
