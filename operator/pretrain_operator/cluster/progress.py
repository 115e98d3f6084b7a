"""How far training is, as worker 0 of a training group serves it: read seldom, and believed within bounds.

A read that fails is no fault of the job: what was heard last only grows older.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
from collections.abc import Callable, Mapping
from datetime import datetime

import aiohttp
from pretrain_stage.ledger import STATES
from prometheus_client.parser import text_string_to_metric_families

from pretrain_operator.cluster.stores import Key
from pretrain_operator.observed import Body, Progress
from pretrain_operator.stages import Site
from pretrain_operator.status import MOST

PERIOD_SECONDS = 15.0
TIMEOUT_SECONDS = 3.0
MOST_BYTES = 1024 * 1024
AT_ONCE = 16
"""Reads at a time, over all jobs."""
PREFIX = "pretrain_training_"
ACCOUNT = "seconds_total"
"""Its account of its own time, by state of the goodput ledger."""

logger = logging.getLogger(__name__)


class ProgressReader:
    """Follows the jobs that train, a task each."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        heard: Callable[[Key], None],
        now: Callable[[], datetime],
        port: int = Site.metrics_port,
    ) -> None:
        self._session, self._heard, self._now, self._port = session, heard, now, port
        self._followed: dict[Key, tuple[str, asyncio.Task[None]]] = {}
        self._said: dict[Key, Progress] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)

    def of(self, key: Key) -> Progress | None:
        """What was last heard of a job."""
        return self._said.get(key)

    def follow(self, key: Key, pod: Body | None) -> None:
        """Reads the pod of a job from now on, and no other; None: nothing of that job trains now."""
        uid = None if pod is None else pod["metadata"]["uid"]
        followed = self._followed.get(key)
        if followed is not None and followed[0] == uid:
            return
        if followed is not None:
            followed[1].cancel()
            del self._followed[key]
        address = None if pod is None else (pod.get("status") or {}).get("podIP")
        if uid is not None and address is not None:
            self._followed[key] = (uid, asyncio.create_task(self._read_on(key, uid, address), name=f"progress of {key}"))

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self.follow(key, None)
        self._said.pop(key, None)

    async def _read_on(self, key: Key, uid: str, address: str) -> None:
        while True:
            async with self._turn:
                text = await fetch(self._session, address, self._port)
            said = None if text is None else read(text, uid, self._now())
            if said is not None:
                self._said[key] = said
                self._heard(key)
            await asyncio.sleep(PERIOD_SECONDS)


async def fetch(session: aiohttp.ClientSession, address: str, port: int) -> str | None:
    """The metrics of a pod, or None if it does not serve them: a pod that just started does not yet."""
    host = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with session.get(f"http://{host}:{port}/metrics", timeout=timeout, allow_redirects=False) as answer:
            if answer.status != 200:
                return None
            data = bytearray()
            async for chunk in answer.content.iter_any():
                data += chunk
                if len(data) > MOST_BYTES:
                    return None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        logger.debug("metrics of %s: %r", address, error)
        return None
    return data.decode(errors="replace")


def read(text: str, pod: str, at: datetime) -> Progress | None:
    """The progress in a page of metrics; None if it does not say how far it is. pod: uid of the pod that said it."""
    values, seconds = _values(text)
    step, steps, tokens = (_count(values.get(name)) for name in ("step", "steps", "trained_tokens"))
    if step is None or steps is None or tokens is None:
        return None
    return Progress(
        pod=pod,
        at=at,
        step=step,
        steps=steps,
        tokens=tokens,
        loss=values.get("loss") if values.get("step_seconds_count") else None,  # a group that goes on has none at first
        validation_loss=values.get("validation_loss") or None,
        tokens_per_second=_positive(values.get("tokens_per_second")),
        checkpoint_step=_count(values.get("checkpoint_step")) or None,
        eta_seconds=_left(values, step, steps),
        seconds=seconds,
    )


def _values(text: str) -> tuple[dict[str, float], dict[str, float]]:
    """The finite values of the trainer's metrics, by name without prefix; and its account of its time, seconds by state.

    What is not in the format counts for nothing.
    """
    ours = "\n".join(line for line in text.splitlines() if line.startswith(PREFIX))
    values: dict[str, float] = {}
    account: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(ours + "\n"):
            for sample in family.samples:
                name, state = sample.name.removeprefix(PREFIX), sample.labels.get("state")
                if not math.isfinite(sample.value) or "le" in sample.labels:
                    continue
                if name == ACCOUNT and state in STATES and 0 <= sample.value <= MOST:
                    account[state] = sample.value
                elif state is None:
                    values[name] = sample.value
    except ValueError as error:
        logger.debug("metrics that cannot be read: %s", error)
    return values, account


def _count(value: float | None) -> int | None:
    return None if value is None or not 0 <= value <= MOST else int(value)


def _positive(value: float | None) -> float | None:
    return None if value is None or not 0 < value <= MOST else value


def _left(values: Mapping[str, float], step: int, steps: int) -> float | None:
    """Seconds until the last step, at the mean pace of this start of the group."""
    total, number = _positive(values.get("step_seconds_sum")), _positive(values.get("step_seconds_count"))
    return None if total is None or number is None else max(0, steps - step) * total / number
