"""A proxy before the S3 server that can make it slow, wrong or absent, on the level of HTTP and of TCP.

toxiproxy would do the latter, but comes from no package index that this project installs from; resets and outages are few lines.
Each request gets a connection of its own to the server, which closes it after the answer: so an answer ends where the bytes end,
and nothing of HTTP but a request's head has to be understood.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.schedule import Weather
from tests.proxy import Proxy

CHUNK = 65_536
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
)


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    method: str
    path: str
    length: int
    head: bytes


@dataclass(frozen=True)
class Conditions:
    """What a request meets: fields as those of Weather."""

    latency: float
    errors: float
    resets: float
    away: bool


@dataclass
class Watch:
    """Waits for the upload of a file of which `wanted` holds, and is set when `part` of its bytes have gone to the server."""

    wanted: Callable[[str], bool]
    part: float
    reached: threading.Event


class FaultyProxy(Proxy):
    """Passes requests on to `target` (http://host:port), as the weather is. seed: of what meets which request."""

    def __init__(self, target: str, seed: int = 0) -> None:
        super().__init__(target)
        self.weather: list[tuple[float, Weather]] = []
        """What it is, each until when (time.monotonic)."""
        self.watch: Watch | None = None
        self.counts = {"requests": 0, "slowed": 0, "failed": 0, "reset": 0, "refused": 0}
        self.drawn, self.lock = random.Random(seed), threading.Lock()

    def begin(self, weather: Weather) -> None:
        self.weather.append((time.monotonic() + weather.seconds, weather))

    def watch_upload(self, wanted: Callable[[str], bool], part: float) -> threading.Event:
        """An event that is set when that part of the next upload to such a path has gone to the server."""
        reached = threading.Event()
        self.watch = Watch(wanted, part, reached)
        return reached

    def _now(self) -> Conditions:
        """The weather of this moment: of several, the worst of each."""
        now = time.monotonic()
        every = [one for until, one in self.weather if until > now]
        return Conditions(
            latency=max((one.latency for one in every), default=0.0),
            errors=max((one.errors for one in every), default=0.0),
            resets=max((one.resets for one in every), default=0.0),
            away=any(one.away for one in every),
        )

    def _count(self, what: str) -> int:
        with self.lock:
            self.counts[what] += 1
            return self.counts[what]

    def _chance(self, share: float) -> bool:
        with self.lock:
            return share > 0 and self.drawn.random() < share

    def take(self, client: socket.socket) -> None:
        if self._now().away:
            self._count("refused")
            _reset(client)
        else:
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One request; then the connection ends."""
        with contextlib.suppress(OSError), client:
            request, rest = _read_head(client)
            if request is None:
                return
            self._count("requests")
            weather = self._now()
            if weather.latency:
                self._count("slowed")
                time.sleep(weather.latency)
            if self._now().away:
                self._count("refused")
                _reset(client)
            elif self._chance(weather.resets):
                self._count("reset")
                self._pass(client, request, rest, reset=True)
            elif self._chance(weather.errors):
                # As often as not the server does what it is asked, and only the answer is lost.
                carried_out = self._count("failed") % 2 == 0
                if carried_out:
                    self._pass(client, request, rest, answer=False)
                else:
                    _drain(client, request.length - len(rest))
                client.sendall(UNAVAILABLE % (len(BUSY), BUSY))
            else:
                self._pass(client, request, rest)

    def _pass(
        self, client: socket.socket, request: Request, rest: bytes, *, answer: bool = True, reset: bool = False
    ) -> None:
        """Passes the request on, and back what the server answers. reset: ends both connections in the middle of the longer body."""
        with socket.create_connection(self.target) as server:
            server.sendall(request.head)
            sent, data = 0, rest
            watch = self.watch if request.method == "PUT" and self.watch and self.watch.wanted(request.path) else None
            while True:
                if watch is not None and not watch.reached.is_set() and sent + len(data) >= watch.part * request.length:
                    keep = max(0, int(watch.part * request.length) - sent)
                    server.sendall(data[:keep])
                    self.watch = None
                    watch.reached.set()
                    time.sleep(0.05)  # whoever waits for this comes before the rest of the file
                    data, sent = data[keep:], sent + keep
                server.sendall(data)
                sent += len(data)
                if reset and sent >= request.length // 2 and request.length > 0:
                    _reset(server)
                    _reset(client)
                    return
                if sent >= request.length:
                    break
                data = client.recv(min(CHUNK, request.length - sent))
                if not data:
                    return  # the client is gone, and so is the request
            while data := server.recv(CHUNK):
                if reset:
                    client.sendall(data[: len(data) // 2])
                    _reset(client)
                    return
                if answer:
                    client.sendall(data)


def _read_head(client: socket.socket) -> tuple[Request | None, bytes]:
    """The request's head, with a wish that the server may end the connection, and what has come of its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(CHUNK)
        if not more:
            return None, b""
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    lengths = [line.partition(b":")[2] for line in lines if line.lower().startswith(b"content-length:")]
    method, path, *_ = lines[0].decode().split(" ")
    whole = b"\r\n".join([*lines, b"Connection: close", b"", b""])
    return Request(method, path, int(lengths[0]) if lengths else 0, whole), rest


def _drain(client: socket.socket, length: int) -> None:
    while length > 0 and (data := client.recv(min(CHUNK, length))):
        length -= len(data)


def _reset(end: socket.socket) -> None:
    """Ends a connection with RST, not FIN: what was sent may be lost."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
