"""A TCP proxy before a server that can cut all connections: what passes through stays as it is, TLS and all."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

from tests.proxy import Proxy


class CutProxy(Proxy):
    """Passes everything on. While it is `down` it takes no new connections."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.connections = 0
        self.down = False
        self._open: set[socket.socket] = set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        self.cut()

    def cut(self) -> None:
        """Ends all connections that there are, without a word."""
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def take(self, client: socket.socket) -> None:
        if self.down:
            client.close()
            return
        server = socket.create_connection(self.target)
        self.connections += 1
        for source, target in ((client, server), (server, client)):
            self._open.add(source)
            threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()
