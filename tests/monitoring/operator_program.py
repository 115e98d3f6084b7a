"""What of the operator serves metrics, as a process of its own: its registry, its stores and its server are the real ones.

python -m tests.monitoring.operator_program CONTROL PORT

There is no API server. In its place the file CONTROL says which PretrainJobs there are and where their training can be asked; it
is read again whenever it changes:

    jobs: [PretrainJob, ...]         training: {namespace/name: port}
    heard_at: null or a Unix time    leading: true     faults: 0
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from pretrain_operator.cluster.access import USER_AGENT
from pretrain_operator.cluster.health import Health
from pretrain_operator.cluster.job_metrics import JobMetrics
from pretrain_operator.cluster.metrics import Metrics
from pretrain_operator.cluster.progress import fetch, read
from pretrain_operator.cluster.stores import Key, Stores
from pretrain_operator.observed import Progress
from pretrain_operator.storage_claim import bucket
from prometheus_client import generate_latest

TEACHER = "first-pod"
"""Uid of the pod that training is asked in."""


class Program:
    """The metrics, and what they are of."""

    def __init__(self, control: Path, port: int) -> None:
        self.control, self.port = control, port
        self.said: dict[str, Any] = {}
        self.progress: dict[Key, Progress] = {}
        self.faults = 0
        self.metrics = Metrics()
        self.stores = Stores(bucket)
        self.health = Health(lambda: 0.0, self.metrics.registry)
        self.metrics.observe(lambda: 0.0, self.heard_at, self.leading)
        self.metrics.registry.register(JobMetrics(self.stores, self.progress.get, self.leading, lambda: datetime.now(UTC)))

    async def run(self) -> None:
        """Serves for ever, and looks at everything twice a second."""
        await self.health.serve("127.0.0.1", 0, self.port)
        traced = aiohttp.ClientSession(trace_configs=[self.metrics.trace()])
        plain = aiohttp.ClientSession(headers={"User-Agent": USER_AGENT})
        async with traced, plain:
            while True:
                self.look()
                await self.listen(plain)
                # Requests that are counted: one that is answered, and one that is not found.
                for path in ("metrics", "absent"):
                    async with traced.get(f"http://127.0.0.1:{self.port}/{path}"):
                        pass
                await asyncio.sleep(0.5)

    def look(self) -> None:
        """Takes what the control says now."""
        self.said = json.loads(self.control.read_text())
        for job in self.said["jobs"]:
            with self.metrics.reconcile_seconds.time():
                self.stores.put(job)
            self.metrics.reconciles.labels("done").inc()
        self.metrics.reconciles.labels("fault").inc(self.said["faults"] - self.faults)
        self.faults = self.said["faults"]

    async def listen(self, session: aiohttp.ClientSession) -> None:
        """Asks training how far it is."""
        for name, port in self.said["training"].items():
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                text = await asyncio.wait_for(fetch(session, "127.0.0.1", port), 1.0)
                heard = read(text or "", TEACHER, datetime.now(UTC))
                if heard is not None:
                    namespace, _, job = name.partition("/")
                    self.progress[namespace, job] = heard

    def heard_at(self) -> float:
        told: float | None = self.said.get("heard_at")
        return time.time() if told is None else told

    def leading(self) -> bool:
        return bool(self.said.get("leading"))


def main() -> None:
    program = Program(Path(sys.argv[1]), int(sys.argv[2]))
    generate_latest(program.metrics.registry)
    asyncio.run(program.run())


if __name__ == "__main__":
    main()
