"""The operator's HTTP endpoints: whether it lives, whether it is ready, and its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from pretrain_stage.errors import UserError
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

UNSEEN_SECONDS = 90.0
"""A change to the Lease must come back on the watch within this time, or the watch is dead."""


class Health:
    """Serves until it is closed."""

    def __init__(self, unseen_seconds: Callable[[], float], registry: CollectorRegistry) -> None:
        self.ready = False
        """Whether the stores are filled."""
        self._unseen_seconds, self._registry = unseen_seconds, registry
        self._runners: list[web.AppRunner] = []

    async def serve(self, address: str | None, health_port: int, metrics_port: int) -> None:
        """Listens on both ports. address: None for all. Raises UserError if a port is taken."""
        await self._listen(address, "--health-port", health_port, {"/livez": self._livez, "/readyz": self._readyz})
        await self._listen(address, "--metrics-port", metrics_port, {"/metrics": self._metrics})

    async def close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def _listen(self, address: str | None, flag: str, port: int, routes: dict[str, Callable[..., object]]) -> None:
        app = web.Application()
        for path, handler in routes.items():
            app.router.add_get(path, handler)  # type: ignore[arg-type]
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        try:
            await web.TCPSite(runner, address, port).start()
        except OSError as error:
            raise UserError(f"{flag} {port}: cannot be used ({error.strerror}); choose another port") from None

    async def _livez(self, _request: web.Request) -> web.Response:
        """That this answers shows that the event loop turns."""
        unseen = self._unseen_seconds()
        text = f"a change to the Lease has not come back on the watch for {unseen:.0f} s\n" if unseen else "ok\n"
        return web.Response(status=200 if unseen < UNSEEN_SECONDS else 503, text=text)

    async def _readyz(self, _request: web.Request) -> web.Response:
        return web.Response(status=200, text="ok\n") if self.ready else web.Response(status=503, text="listing\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        """Worked out here, where nothing else changes the stores; written as text, half of the work, in a thread."""
        collected = Collected(list(self._registry.collect()))
        text = await asyncio.to_thread(generate_latest, collected)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


@dataclass(frozen=True)
class Collected:
    """What was collected, as something to collect from."""

    families: list[Family]

    def collect(self) -> list[Family]:
        return self.families
