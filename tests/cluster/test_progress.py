"""How far training is: read from the trainer's own metrics, and from nobody who would make the operator pay for it."""

from __future__ import annotations

import asyncio
import io
import math
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pretrain_operator.cluster import progress as module
from pretrain_operator.cluster.progress import MOST_BYTES, ProgressReader, fetch, read
from pretrain_operator.observed import Progress
from pretrain_stage.config import Metadata
from pretrain_stage.events import Events
from pretrain_trainer.account import Account
from pretrain_trainer.listeners.listener import CheckpointMeasures, StepMeasures, ValidationMeasures
from pretrain_trainer.listeners.prometheus import Beginning, Prometheus
from prometheus_client import generate_latest

from tests.cluster.server import Answer, Scripted, hangs_up, serving

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = ("team", "small")
ACCOUNT = dict.fromkeys(("productive", "data_wait", "checkpoint", "repeated", "stalled"), 0.0) | {"initializing": 4.0}


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The trainer's metrics, going on from step 10 of 40."""
    monkeypatch.setenv("PRETRAIN_METRICS_PORT", "0")
    beginning = Beginning(steps=40, checkpoint_steps=10, done=10, done_tokens=10 * 256)
    metrics = Prometheus(
        Metadata(name="small", namespace="team"), beginning, Account(4.0, clock=lambda: 100.0), Events({}, io.StringIO())
    )
    yield metrics
    metrics.close()


def page(metrics: Prometheus) -> str:
    return generate_latest(metrics.registry).decode()


def test_what_the_trainer_serves_is_understood(trainer: Prometheus) -> None:
    for number in (11, 12):
        trainer.step(StepMeasures(number, 3.5, 1e-3, 0.7, 256, 0.5, 0.01))
    trainer.validation(ValidationMeasures(12, 4.5, math.exp(4.5)))
    trainer.checkpoint(CheckpointMeasures(12, 0.1, 1000))
    assert read(page(trainer), "u-1", NOW) == Progress(
        pod="u-1",
        at=NOW,
        step=12,
        steps=40,
        tokens=12 * 256,
        loss=3.5,
        validation_loss=4.5,
        tokens_per_second=512,
        checkpoint_step=12,
        eta_seconds=28 * 0.5,
        seconds=ACCOUNT,
    )


def test_before_the_first_step_there_is_no_loss_yet(trainer: Prometheus) -> None:
    said = read(page(trainer), "u-1", NOW)
    assert said == Progress(pod="u-1", at=NOW, step=10, steps=40, tokens=10 * 256, checkpoint_step=10, seconds=ACCOUNT)


def test_numbers_that_no_status_could_hold_are_left_out(trainer: Prometheus) -> None:
    trainer.step(StepMeasures(11, math.nan, 1e-3, math.inf, 256, 0.5, 0.01))
    trainer.validation(ValidationMeasures(11, math.inf, math.inf))
    said = read(page(trainer), "u-1", NOW)
    assert said is not None
    assert (said.loss, said.validation_loss, said.step) == (None, None, 11)


def test_an_account_holds_states_and_times_and_nothing_else(trainer: Prometheus) -> None:
    odd = "\n".join(
        f'pretrain_training_seconds_total{{namespace="team",name="small",state="{state}"}} {value}'
        for state, value in (
            ("resting", 5),
            ("productive", "NaN"),
            ("stalled", -3),
            ("repeated", "1e300"),
            ("checkpoint", 2.5),
        )
    )
    others = "\n".join(line for line in page(trainer).splitlines() if "seconds_total" not in line)
    said = read(f"{others}\n{odd}\n", "u-1", NOW)
    assert said is not None
    assert said.seconds == {"checkpoint": 2.5}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pretrain_training_step 5\n",
        "pretrain_training_step{ 5\npretrain_training_steps x\n",
        "pretrain_training_step -1\npretrain_training_steps 40\npretrain_training_trained_tokens 5\n",
        "pretrain_training_step 1e300\npretrain_training_steps 40\npretrain_training_trained_tokens 5\n",
        "<html>\u0000\n" * 100,
    ],
)
def test_what_is_no_progress_is_none(text: str) -> None:
    assert read(text, "u-1", NOW) is None


def get(answer: Answer) -> tuple[str | None, Scripted]:
    script = Scripted([answer])

    async def go() -> str | None:
        async with serving(script) as url, aiohttp.ClientSession() as session:
            return await fetch(session, "127.0.0.1", int(url.rsplit(":", 1)[1]))

    return asyncio.run(go()), script


async def too_large(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"x" * (MOST_BYTES + 1))


async def slow(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def elsewhere(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/elsewhere")


async def missing(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


@pytest.mark.parametrize("answer", [too_large, slow, elsewhere, missing, hangs_up])
def test_a_server_that_misbehaves_is_nothing_but_silent(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.3)
    text, script = get(answer)
    assert text is None
    assert {request.path for request in script.asked} == {"/metrics"}, "no redirect is followed"


def test_addresses_of_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Session:
        def get(self, url: str, **_: Any) -> Any:
            asked.append(url)
            raise aiohttp.ClientError

    async def go() -> None:
        for address in ("10.0.0.1", "fd00::1"):
            assert await fetch(Session(), address, 9400) is None  # type: ignore[arg-type]

    asyncio.run(go())
    assert asked == ["http://10.0.0.1:9400/metrics", "http://[fd00::1]:9400/metrics"]


def test_a_followed_pod_is_read_every_period_and_no_longer_than_followed(
    trainer: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PERIOD_SECONDS", 0.05)
    heard: list[tuple[str, str]] = []
    pod = {"metadata": {"uid": "u-1"}, "status": {"podIP": "127.0.0.1"}}

    async def go() -> None:
        async with aiohttp.ClientSession() as session:
            reader = ProgressReader(session, heard.append, lambda: NOW, port=trainer.exposition.port)
            reader.follow(KEY, None)
            reader.follow(KEY, {"metadata": {"uid": "u-0"}, "status": {}})  # has no address yet
            await asyncio.sleep(0.05)
            assert heard == []
            for _ in range(5):
                reader.follow(KEY, pod)  # as each reconcile says it; followed once
            await asyncio.sleep(0.3)
            assert 3 <= len(heard) <= 7
            said = reader.of(KEY)
            assert said is not None
            assert said.pod == "u-1"
            reader.follow(KEY, None)
            before = len(heard)
            await asyncio.sleep(0.2)
            assert len(heard) == before
            assert reader.of(KEY) == said, "what was said last is still known"
            reader.forget(KEY)
            assert reader.of(KEY) is None

    asyncio.run(go())
