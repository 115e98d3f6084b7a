"""What the proxies of tests share: a port of 127.0.0.1 of their own, and connections taken on behalf of a server."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Proxy:
    """Takes connections for `target` (host:port, or http://host:port) until its context ends. A subclass says what becomes of them."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self.target = host, int(port)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self.listener.getsockname()[1])
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A thread that waits in accept() keeps the socket open; shutting it down wakes it.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def take(self, client: socket.socket) -> None:
        """Does with a new connection what is to be done, in threads of its own. OSError ends the proxy."""
        raise NotImplementedError

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.take(client)
