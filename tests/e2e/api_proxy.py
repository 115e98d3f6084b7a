"""A proxy before the API server, through which an operator under test talks to it: it counts, and makes faults.

Plain HTTP on 127.0.0.1 in, TLS to the API server out; the caller's token passes through. Other clients of the API server
notice nothing of what happens here.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

HOP_BY_HOP = {"connection", "content-length", "host", "transfer-encoding", "content-encoding", "keep-alive"}
WRITES = {"POST", "PUT", "PATCH", "DELETE"}

Fault = Callable[["Asked"], tuple[int, dict[str, Any]] | None]
"""Decides what a request is answered instead of being passed on: a status and a body, or None to pass it on."""


@dataclass
class Asked:
    """A request that came by."""

    method: str
    path: str
    query: dict[str, str]
    agent: str
    at: float
    body: bytes = field(repr=False, default=b"")
    status: int = 0
    """What was answered; 0 for nothing."""

    @property
    def watch(self) -> bool:
        return "watch" in self.query

    @property
    def write(self) -> bool:
        """Whether it changes anything but a Lease."""
        return self.method in WRITES and "/leases" not in self.path

    @property
    def read(self) -> bool:
        return self.method == "GET" and not self.watch


class ApiProxy:
    """Serves until it is stopped, in a thread of its own."""

    def __init__(self, server: str, authority: bytes) -> None:
        self.server = server
        self.asked: list[Asked] = []
        self.fault: Fault = lambda asked: None
        self.before_answer: Callable[[Asked], None] = lambda asked: None
        """Called when the API server has answered, before the caller hears of it; in the proxy's thread."""
        self.delay_seconds: Callable[[Asked], float] = lambda asked: 0.0
        """How long an answer is kept back."""
        self.drop: Callable[[dict[str, Any]], bool] = lambda event: False
        """Which events of watches are lost."""
        self.down = False
        """Whether every connection is cut, and every new one too."""
        self._context = ssl.create_default_context(cadata=authority.decode())
        self._streams: list[dict[str, Any]] = []
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def silence(self) -> None:
        """Every watch that is open now stays open and brings nothing any more."""
        for stream in self._streams:
            stream["silent"] = True

    def cut(self) -> None:
        """The API server is away until `mend`."""
        self.down = True
        assert self._loop is not None
        for stream in list(self._streams):
            self._loop.call_soon_threadsafe(stream["transport"].abort)

    def mend(self) -> None:
        self.down = False

    def writes(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.write]

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            assert site._server is not None
            self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        if self.down:
            request.transport.abort()
            return web.Response()
        body = await request.read()
        agent = request.headers.get("User-Agent", "")
        asked = Asked(request.method, request.path, dict(request.query), agent, time.monotonic(), body)
        self.asked.append(asked)
        instead = self.fault(asked)
        if instead is not None:
            asked.status, answer = instead
            return web.json_response(answer, status=asked.status)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        async with self._session.request(
            request.method,
            self.server + request.raw_path,
            headers=headers,
            data=body or None,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as upstream:
            asked.status = upstream.status
            if asked.watch and upstream.status == 200:
                return await self._stream(request, upstream)
            data = await upstream.read()
        self.before_answer(asked)
        await asyncio.sleep(self.delay_seconds(asked))
        if self.down:
            request.transport.abort()
        kept = {
            name: value for name, value in upstream.headers.items() if name.lower() not in HOP_BY_HOP - {"content-encoding"}
        }
        return web.Response(status=upstream.status, body=data, headers=kept)

    async def _stream(self, request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        stream = {"silent": False, "transport": request.transport}
        self._streams.append(stream)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            buffered = b""
            async for chunk in upstream.content.iter_any():
                *lines, buffered = (buffered + chunk).split(b"\n")
                for line in lines:
                    if not stream["silent"] and not self._lost(line):
                        await response.write(line + b"\n")
        except (ConnectionError, aiohttp.ClientError):
            pass
        finally:
            self._streams.remove(stream)
        return response

    def _lost(self, line: bytes) -> bool:
        event = json.loads(line)
        return event["type"] in ("ADDED", "MODIFIED", "DELETED") and self.drop(event)
