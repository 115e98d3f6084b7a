"""What the operator counts of itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import aiohttp
from prometheus_client import CollectorRegistry

from pretrain_operator import catalogue
from pretrain_operator.stages import VERSION

VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        catalogue.BUILD.register(self.registry).labels(VERSION).set(1)
        self.reconciles = catalogue.RECONCILES.register(self.registry)
        self.reconcile_seconds = catalogue.RECONCILE_SECONDS.register(self.registry)
        self.requests = catalogue.API_REQUESTS.register(self.registry)

    def observe(
        self, queue_depth: Callable[[], float], watch_timestamp: Callable[[], float], leading: Callable[[], bool]
    ) -> None:
        """Adds what is asked for when the metrics are read."""
        catalogue.QUEUE_DEPTH.register(self.registry).set_function(queue_depth)
        catalogue.WATCH_TIMESTAMP.register(self.registry).set_function(watch_timestamp)
        catalogue.LEADING.register(self.registry).set_function(lambda: float(leading()))

    def trace(self) -> aiohttp.TraceConfig:
        """Counts the requests of a session."""
        config = aiohttp.TraceConfig()

        async def answered(
            _session: aiohttp.ClientSession, _context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
        ) -> None:
            self.requests.labels(_verb(params.method, params.url.query), str(params.response.status)).inc()

        async def failed(
            _session: aiohttp.ClientSession, _context: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams
        ) -> None:
            self.requests.labels(_verb(params.method, params.url.query), "0").inc()

        config.on_request_end.append(answered)
        config.on_request_exception.append(failed)
        return config


def _verb(method: str, query: Mapping[str, str]) -> str:
    return "watch" if "watch" in query else VERBS.get(method, method.lower())
