"""What the operator counts of itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, disable_created_metrics

from pretrain_operator.stages import VERSION

VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        Info("pretrain_operator_build", "Version of the operator.", registry=self.registry).info({"version": VERSION})
        self.reconciles = Counter(
            "pretrain_operator_reconciles", "Looks at a job, by how they ended.", ["result"], registry=self.registry
        )
        self.requests = Counter(
            "pretrain_operator_api_requests",
            "Requests to the API server, by verb and status code; code 0 is no answer.",
            ["verb", "code"],
            registry=self.registry,
        )

    def observe(self, queue_depth: Callable[[], float], watch_age: Callable[[], float], leading: Callable[[], bool]) -> None:
        """Adds what is asked for when the metrics are read."""
        self._gauge("queue_depth", "Jobs that are due and wait for a worker.").set_function(queue_depth)
        self._gauge("watch_age_seconds", "Time since a watch last brought something.").set_function(watch_age)
        self._gauge("leading", "Whether this replica holds the Lease.").set_function(lambda: float(leading()))

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"pretrain_operator_{name}", text, registry=self.registry)

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
