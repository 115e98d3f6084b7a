"""A TCP proxy before the S3 server that can hold a request back for ever, so that a run can be killed in the middle of it."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.proxy import Proxy


class HoldingProxy(Proxy):
    """Passes everything on until a client sends the bytes `hold`; those never arrive.

    `held` is set from then on. Start lines of HTTP requests are what is looked for: "PUT /bucket/key".
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.hold: bytes | None = None
        self.held = threading.Event()

    def take(self, client: socket.socket) -> None:
        server = socket.create_connection(self.target)
        threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
        threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if asks and self.hold is not None and self.hold in data:
                    self.held.set()
                    return  # both sockets stay open: the client waits for an answer
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
