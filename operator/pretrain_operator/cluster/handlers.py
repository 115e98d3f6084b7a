"""The watches: kopf, used for nothing but its reconnecting streams.

It runs in a thread with an event loop of its own, because when it ends it cancels every task of its loop that began after
it, and because one stream that fails for good ends all of it: then it is started again, and the rest of the operator has
noticed nothing. It writes nothing: on.event only, no finalizers, no annotations, no Events of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import aiohttp
import kopf
from kubernetes.aio.client import ApiClient

from pretrain_operator.cluster.access import watch_session
from pretrain_operator.resources import LEASES, STORED, Resource

logger = logging.getLogger(__name__)

REQUEST_SECONDS, CONNECT_SECONDS = 30.0, 5.0
SILENCE_SECONDS = 70.0
"""A stream without a line for so long is opened again. The API server sends a bookmark about every 60 s."""
RESTART_SECONDS = (1.0, 2.0, 5.0, 10.0)

Deliver = Callable[[str | None, dict[str, Any]], None]
"""Takes an event's type (ADDED, MODIFIED, DELETED; None: listed) and the object."""


class Backoffs:
    """Pauses between tries of a stream to connect: short, and without an end, since a watch must never be given up."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1.0, 2.0)
        while True:
            yield 3.0


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps nothing: kopf would write the whole spec into an annotation."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class NoProgress(kopf.ProgressStorage):
    """Keeps nothing, likewise."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


class Watches:
    """Streams of all that the stores hold, and of the Lease. `deliver` is called in the loop of `start`."""

    def __init__(
        self,
        client: ApiClient,
        traces: Sequence[aiohttp.TraceConfig],
        namespaces: Collection[str],
        lease: tuple[str, str],
        deliver: Deliver,
    ) -> None:
        self._client, self._traces, self._namespaces, self._lease, self._deliver = client, traces, namespaces, lease, deliver
        self._stopping = threading.Event()
        self._stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="watches", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._home = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, seconds: float) -> None:
        """Ends the streams, or gives up on that after a while."""
        self._stopping.set()
        self._stop()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, seconds)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                asyncio.run(self._watch())
            except Exception:
                pause = RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)]
                logger.exception("the watches ended; they begin again in %.0f s", pause)
                failures += 1
                self._stopping.wait(pause)

    async def _watch(self) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        if self._stopping.is_set():
            return
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=self._settings(),
                standalone=True,
                clusterwide=not self._namespaces,
                namespaces=list(self._namespaces),
                stop_flag=stop,
            )
        finally:
            self._stop = lambda: None

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.AiohttpSession:
            session = watch_session(self._client, self._traces)
            return kopf.AiohttpSession(server=self._client.configuration.host, aiohttp_session=session)

        async def happened(event: Any, **_: Any) -> None:
            self._home.call_soon_threadsafe(self._deliver, event["type"], event["object"])

        kopf.on.login(registry=registry)(login)
        for resource in (*STORED, LEASES):
            kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=resource.plural)(happened)
        return registry

    def _settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.persistence.diffbase_storage = NoDiffBase()
        settings.persistence.progress_storage = NoProgress()
        settings.networking.request_timeout = REQUEST_SECONDS
        settings.networking.connect_timeout = CONNECT_SECONDS
        settings.networking.error_backoffs = Backoffs()
        settings.watching.inactivity_timeout = SILENCE_SECONDS
        settings.watching.chunk_size = 500
        for resource in STORED:
            if resource.label_selector:
                settings.watching.label_selectors[_selected(resource)] = resource.label_selector
        namespace, name = self._lease
        fields = f"metadata.name={name},metadata.namespace={namespace}"
        settings.watching.field_selectors[_selected(LEASES)] = fields
        return settings


def _selected(resource: Resource) -> tuple[str, str, str]:
    return resource.group, resource.version, resource.plural
