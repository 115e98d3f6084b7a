"""The operator from start to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NoReturn

import aiohttp
from kubernetes.aio.client import ApiClient
from pretrain_stage.errors import UserError

from pretrain_operator.cluster import log
from pretrain_operator.cluster.access import USER_AGENT, close, connect
from pretrain_operator.cluster.client import Client
from pretrain_operator.cluster.failures import Failure, Unavailable
from pretrain_operator.cluster.handlers import Watches
from pretrain_operator.cluster.health import Health
from pretrain_operator.cluster.job_metrics import JobMetrics
from pretrain_operator.cluster.lease import Lease, Lost
from pretrain_operator.cluster.listing import AFTER_A_LIST_SECONDS, Listing
from pretrain_operator.cluster.metrics import Metrics
from pretrain_operator.cluster.options import Options, parse
from pretrain_operator.cluster.progress import ProgressReader
from pretrain_operator.cluster.reconcile import Reconciler
from pretrain_operator.cluster.stores import Key, Stores
from pretrain_operator.cluster.work_queue import WorkQueue
from pretrain_operator.events import events
from pretrain_operator.plan import plan
from pretrain_operator.resources import LEASES
from pretrain_operator.storage_claim import bucket

DRAIN_SECONDS = 10.0
"""For the jobs that are being worked on when the operator is told to end."""
STOP_SECONDS = 3.0
"""For the watches, likewise."""
FRESH_SECONDS = 5.0
"""A list that is no older is not made again when the Lease is acquired."""
RETRY_SECONDS = 5.0
"""Between tries of a list that failed."""

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Runs the operator until SIGTERM (exit code 0), or until it may not go on (1, and the reason on standard error)."""
    try:
        options = parse(sys.argv[1:], os.environ)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    log.configure(options.log_format, options.log_level)
    try:
        sys.exit(asyncio.run(run(options)))
    except UserError as error:
        logger.error("%s", error)
        sys.exit(1)


async def run(options: Options) -> int:
    """The operator's whole life. Returns the exit code; raises UserError if it cannot begin."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    api = await connect([metrics.trace()])
    operator = Operator(options, api, metrics)
    work, stopped = asyncio.create_task(operator.work()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            logger.info("told to end")
            await operator.drain()
            return 0
        work.result()
        raise AssertionError("the work goes on for ever, or raises")
    except Lost as error:
        logger.error("%s; ending", error)
        return 1
    finally:
        for task in (stopped, work, *operator.workers, *operator.tasks):
            task.cancel()
        await asyncio.gather(stopped, work, *operator.workers, *operator.tasks, return_exceptions=True)
        await operator.close()


class Operator:
    """The parts of the operator, and the order in which they begin and end."""

    def __init__(self, options: Options, api: ApiClient, metrics: Metrics) -> None:
        self.options, self.api, self.metrics = options, api, metrics
        self.stores = Stores(bucket)
        self.queue = WorkQueue(time.monotonic)
        self.client = Client(api)
        self.lease = Lease(self.client, options.lease_namespace, options.lease_name, options.identity, time.monotonic)
        self.client.write_seconds = self.lease.write_seconds
        self.lease.recovered = self._recovered
        self.listing = Listing(self.client, self.stores, options.namespaces)
        self.watches = Watches(
            api, [metrics.trace()], options.namespaces, (options.lease_namespace, options.lease_name), self._deliver
        )
        self.session = aiohttp.ClientSession(headers={"User-Agent": USER_AGENT}, trust_env=False)
        self.progress = ProgressReader(self.session, self.queue.add, _utc)
        self.reconcile = Reconciler(
            client=self.client,
            stores=self.stores,
            queue=self.queue,
            progress=self.progress,
            settings=options.settings,
            plan=plan,
            events=events,
            reporter=options.identity,
            now=_utc,
            clock=time.monotonic,
        )
        self.health = Health(self.lease.unseen_seconds, metrics.registry)
        self.tasks: list[asyncio.Task[NoReturn]] = []
        self.workers: list[asyncio.Task[None]] = []
        self.heard_at = time.time()
        metrics.observe(self.queue.depth, lambda: self.heard_at, self.lease.leading.is_set)
        metrics.registry.register(JobMetrics(self.stores, self.progress.of, self.lease.leading.is_set, _utc))

    async def work(self) -> NoReturn:
        """Everything, in order. Raises UserError if it cannot begin, Lost when another replica has taken over."""
        await self.health.serve(self.options.bind_address, self.options.health_port, self.options.metrics_port)
        await self._fill()
        self.health.ready = True
        self.watches.start()
        filled_at = time.monotonic()
        self.tasks = [asyncio.create_task(self._list_again())]
        await self.lease.acquire()
        self.tasks += [asyncio.create_task(self.lease.keep())]
        if time.monotonic() - filled_at > FRESH_SECONDS:
            await self._fill()
        self._enqueue(self.stores.jobs())
        self.workers = [asyncio.create_task(self._worker()) for _ in range(self.options.workers)]
        done, _ = await asyncio.wait([*self.tasks, *self.workers], return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        raise AssertionError("these go on for ever, or raise")

    async def drain(self) -> None:
        """No new work; what is being worked on comes to its end, while the Lease goes on being renewed."""
        self.queue.close()
        if self.workers and self.lease.leading.is_set():
            _, late = await asyncio.wait(self.workers, timeout=DRAIN_SECONDS)
            if late:
                logger.warning("%d reconciles did not end within %.0f s and are cut off", len(late), DRAIN_SECONDS)

    async def close(self) -> None:
        """Gives the Lease up and closes all connections."""
        await self.lease.release()
        await self.watches.stop(STOP_SECONDS)
        await self.session.close()
        await self.health.close()
        await close(self.api)

    async def _fill(self) -> None:
        """Lists everything, however long the API server is away. Raises UserError if it refuses."""
        while True:
            try:
                self._enqueue(await self.listing.fill())
            except Unavailable as error:
                logger.warning("%s", error)
                await asyncio.sleep(RETRY_SECONDS)
            except Failure as error:
                raise UserError(str(error)) from None
            else:
                return

    async def _list_again(self) -> NoReturn:
        """Heals what the watches have missed."""
        while True:
            await self.listing.wait(self.options.resync_seconds)
            try:
                concerned = await self.listing.fill()
            except Failure as error:
                logger.warning("%s", error)
                self.listing.want(RETRY_SECONDS)
            else:
                logger.debug("listed again: news of %d jobs", len(concerned))
                self._enqueue(concerned | self.stores.jobs())

    async def _worker(self) -> None:
        while True:
            await self.lease.leading.wait()
            key = await self.queue.get()
            if key is None:
                return
            try:
                with self.metrics.reconcile_seconds.time():
                    outcome = await self.reconcile(key)
                self.metrics.reconciles.labels(outcome).inc()
            finally:
                self.queue.done(key)

    def _deliver(self, type_: str | None, body: dict[str, Any]) -> None:
        """An event of a watch."""
        self.heard_at = time.time()
        if body["kind"] == LEASES.kind:
            self.lease.watched(body)
        elif type_ == "DELETED":
            self._enqueue(self.stores.drop(body))
        else:
            self._enqueue(self.stores.put(body))
        if type_ is None:
            self.listing.want(AFTER_A_LIST_SECONDS)

    def _recovered(self) -> None:
        """The API server can be reached again: what failed for the lack of it need not wait."""
        self.queue.hurry()
        self.listing.want()

    def _enqueue(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.queue.add(key)


def _utc() -> datetime:
    return datetime.now(UTC)
