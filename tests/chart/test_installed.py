"""What `helm test` runs in a cluster, as far as it can be tried without one."""

from __future__ import annotations

import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.chart.helm import CHART, HELM, NO_HELM, of_kind, render

SCRIPT = CHART / "files" / "installed.py"


class Operator(BaseHTTPRequestHandler):
    """Ready from the third time it is asked."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200 if self.path == "/readyz" and type(self).asked >= 3 else 503)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Operator) as server:
        Operator.asked = 0
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def wrong_with_the_operator(address: str, patience: float) -> list[str]:
    asks = runpy.run_path(str(SCRIPT))["what_is_wrong_with_the_operator"]
    asks.__globals__["PATIENCE_SECONDS"] = patience
    found: list[str] = asks(address)
    return found


def test_it_waits_until_the_operator_is_ready(address: str) -> None:
    assert wrong_with_the_operator(address, 30) == []
    assert Operator.asked == 3


def test_it_says_what_the_operator_answered(address: str) -> None:
    (sentence,) = wrong_with_the_operator(address, 0)
    assert sentence == f"http://{address}/readyz: HTTP Error 503: Service Unavailable; read the operator's log"


def test_it_says_when_nobody_answers() -> None:
    (sentence,) = wrong_with_the_operator("127.0.0.1:9", 0)
    assert "Connection refused" in sentence


@pytest.mark.skipif(HELM is None, reason=NO_HELM)
def test_the_pod_runs_the_file_as_it_is() -> None:
    (pod,) = of_kind(render(), "Pod")
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["python", "-c"]
    assert container["args"][0].rstrip() == SCRIPT.read_text(encoding="utf-8").rstrip()
