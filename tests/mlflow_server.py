"""A real MLflow tracking server for tests, on a free port of 127.0.0.1, its data in SQLite."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_SECONDS = 120.0


@dataclass(frozen=True)
class MLflowServer:
    """A running server."""

    uri: str

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """The runs of an experiment."""
        found = self.call(f"experiments/get-by-name?experiment_name={experiment}")
        asked = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 100}
        runs: list[dict[str, Any]] = self.call("runs/search", asked)["runs"]
        return runs

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        """All values of a metric, by step."""
        found = self.call(f"metrics/get-history?run_id={run}&metric_key={metric}")
        return sorted((int(point["step"]), point["value"]) for point in found["metrics"])

    def call(self, path: str, body: Any = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextlib.contextmanager
def running(folder: Path) -> Iterator[MLflowServer]:
    """Starts a server with its data in `folder` and waits until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **quiet}, start_new_session=True
        )
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", folder / "log")
            yield MLflowServer(f"http://127.0.0.1:{port}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"MLflow did not start: {log.read_text()[-2000:]}")
