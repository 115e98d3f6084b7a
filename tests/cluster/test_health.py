"""The endpoints: ready when the stores are filled, alive as long as changes come back on the watch; and the log's form."""

from __future__ import annotations

import asyncio
import json
import logging
import socket

import aiohttp
import pytest
from pretrain_operator.cluster.health import UNSEEN_SECONDS, Health
from pretrain_operator.cluster.log import REPEAT_SECONDS, Json, Text, Unrepeated, about
from pretrain_operator.cluster.metrics import Metrics
from pretrain_stage.errors import UserError

from tests.cluster.objects import pretrain_job
from tests.seaweedfs import free_ports


def test_alive_ready_and_counted() -> None:
    unseen = [0.0]
    metrics = Metrics()
    metrics.observe(lambda: 3, lambda: 1.75e9, lambda: True)
    metrics.reconciles.labels("done").inc()
    metrics.reconcile_seconds.observe(0.02)
    health_port, metrics_port = free_ports(2)

    async def go() -> None:
        health = Health(lambda: unseen[0], metrics.registry)
        await health.serve("127.0.0.1", health_port, metrics_port)

        async def get(path: str, port: int = health_port) -> tuple[int, str]:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, await answer.text()

        assert (await get("/readyz"))[0] == 503
        health.ready = True
        assert (await get("/readyz"))[0] == 200
        assert (await get("/livez"))[0] == 200
        unseen[0] = UNSEEN_SECONDS - 1
        assert (await get("/livez"))[0] == 200
        unseen[0] = UNSEEN_SECONDS + 1
        status, text = await get("/livez")
        assert (status, "has not come back on the watch for 91 s" in text) == (503, True)
        status, text = await get("/metrics", metrics_port)
        assert status == 200
        for line in (
            'pretrain_operator_build_info{version="0.1.0"} 1.0',
            "pretrain_operator_queue_depth 3.0",
            "pretrain_operator_watch_timestamp_seconds 1.75e+09",
            'pretrain_operator_reconcile_seconds_bucket{le="0.03"} 1.0',
            "pretrain_operator_leading 1.0",
            'pretrain_operator_reconciles_total{result="done"} 1.0',
        ):
            assert line in text
        await health.close()

    asyncio.run(go())


def test_a_port_that_is_taken_is_said_by_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        async def go() -> None:
            health = Health(lambda: 0.0, Metrics().registry)
            try:
                with pytest.raises(UserError, match=f"--health-port {port}: cannot be used"):
                    await health.serve("127.0.0.1", port, 0)
            finally:
                await health.close()

        asyncio.run(go())


def test_requests_are_counted_by_verb_and_code() -> None:
    async def go() -> None:
        metrics = Metrics()
        (port,) = free_ports(1)
        health = Health(lambda: 0.0, metrics.registry)
        await health.serve("127.0.0.1", port, 0)
        async with aiohttp.ClientSession(trace_configs=[metrics.trace()]) as session:
            for method, path in (("GET", "/livez"), ("GET", "/livez?watch=true"), ("PATCH", "/livez")):
                async with session.request(method, f"http://127.0.0.1:{port}{path}"):
                    pass
            with pytest.raises(aiohttp.ClientError):
                await session.get("http://127.0.0.1:1/")
        await health.close()
        counted = {
            tuple(sample.labels.values())
            for family in metrics.requests.collect()
            for sample in family.samples
            if sample.value == 1
        }
        assert counted == {("get", "200"), ("watch", "200"), ("patch", "405"), ("get", "0")}

    asyncio.run(go())


def record(message: str, error: Exception | None = None) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.WARNING, "f", 1, message, None, (type(error), error, None) if error else None)
    for name, value in about(pretrain_job()).items():
        setattr(made, name, value)
    return made


def test_lines_say_which_job_they_are_about() -> None:
    line = json.loads(Json().format(record("大 \n line", ValueError("bad"))))
    assert {name: line[name] for name in ("level", "message", "namespace", "name", "uid", "generation")} == {
        "level": "warning",
        "message": "大 \n line",
        "namespace": "team",
        "name": "small",
        "uid": "uid-small",
        "generation": 1,
    }
    assert line["time"].endswith("Z")
    assert "ValueError: bad" in line["traceback"]
    assert "team/small" in Text().format(record("so it is"))


def test_a_library_says_the_same_once_a_minute_and_we_as_often_as_we_like() -> None:
    seldom = Unrepeated("kopf")

    def passes(name: str, message: str, at: float) -> bool:
        made = logging.LogRecord(name, logging.ERROR, "f", 1, message, None, None)
        made.created = at
        return seldom.filter(made)

    assert passes("kopf._cogs.clients", "attempt #1 failed: GET pods", 100)
    assert not passes("kopf._cogs.clients", "attempt #22 failed: GET pods", 103)
    assert passes("kopf._cogs.clients", "attempt #22 failed: GET jobs", 103)
    assert passes("kopf._cogs.clients", "attempt #23 failed: GET pods", 101 + REPEAT_SECONDS)
    assert passes("pretrain_operator.cluster", "the same", 100)
    assert passes("pretrain_operator.cluster", "the same", 100)
