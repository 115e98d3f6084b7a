"""Metrics served over HTTP by the process that they are about, and read once more before it ends of a fault.

Prometheus comes by twice a minute or less. What a process counts in its last moments, which is why it ends, nobody would ever
see; so it stays until it has been read, if anybody reads it at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

LONGEST_SECONDS = 60.0
"""How long a process stays to be read: the interval at which Prometheus comes by unless it is told otherwise."""
OPERATOR = "pretrain-operator/"
"""How the user agent of the operator begins, which reads the same port to tell of progress, and is not Prometheus."""


class Exposition:
    """Serves GET /metrics from a thread until it is closed, or the process ends."""

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        """port: 0 takes a free one. Raises OSError if it cannot be used."""
        from prometheus_client import start_http_server

        self._read = threading.Condition()
        self._reads = 0
        self._server, self._thread = start_http_server(port, address, registry)
        self._server.set_app(self._noted(self._server.get_app()))

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_port)

    def wait_until_read(self, longest: float = LONGEST_SECONDS) -> bool:
        """Waits until somebody has read what is counted by now, at most so many seconds. Returns whether anybody has.

        Where nobody has ever read there is nobody to wait for.
        """
        with self._read:
            before = self._reads
            return before > 0 and self._read.wait_for(lambda: self._reads > before, longest)

    def close(self) -> None:
        """Answers no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _noted(self, application: Any) -> Any:
        """The application, with a note of each answer that was sent to somebody who collects metrics."""

        def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            body = application(environ, start_response)
            agent = str(environ.get("HTTP_USER_AGENT", ""))
            return body if agent.startswith(OPERATOR) else _Sent(body, self._note)

        return answer

    def _note(self) -> None:
        with self._read:
            self._reads += 1
            self._read.notify_all()


class _Sent(list[bytes]):
    """A body that tells when it was sent: WSGI closes it then (PEP 3333)."""

    def __init__(self, body: Iterable[bytes], sent: Callable[[], None]) -> None:
        super().__init__(body)
        self._sent = sent

    def close(self) -> None:
        self._sent()
