"""The operator as a process of this machine, for one namespace of jobs, with our own images in their pods.

    serving   a function that starts one for a namespace, with further flags; it is ended after the test, and what it logged is
              shown if the test failed

Its rights are those of KUBECONFIG; what the chart grants is tested elsewhere. It reads no metrics of training where this
machine cannot reach pods, so no test here goes by `status.training.step`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.kubectl import Kubectl
from tests.seaweedfs import free_ports

PREPROCESS = os.environ.get("PRETRAIN_E2E_PREPROCESS_IMAGE", "localhost/pretrain-preprocess:dev")
TRAINER = os.environ.get("PRETRAIN_E2E_TRAINER_IMAGE", "localhost/pretrain-trainer:dev")
READY_SECONDS = 60.0
END_SECONDS = 30.0


@dataclass
class Served:
    """One operator process."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """Ends it as a node does that is drained; it must do so with exit code 0."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(END_SECONDS) == 0, self.log.read_text()


Serving = Callable[..., Served]
"""Starts an operator for a namespace, with further flags."""


@pytest.fixture
def serving(crd: None, tmp_path: Path) -> Iterator[Serving]:
    """Starts operators that end with the test."""
    with contextlib.ExitStack() as started:

        def start(kubectl: Kubectl, *flags: str) -> Served:
            return started.enter_context(served(kubectl, tmp_path, *flags))

        yield start


@contextlib.contextmanager
def served(kubectl: Kubectl, folder: Path, *flags: str) -> Iterator[Served]:
    """An operator that is ready, for the namespace of `kubectl`. Flags that are given replace those that are set here."""
    health, metrics = free_ports(2)
    command = [
        *(sys.executable, "-m", "pretrain_operator.cluster", "--namespace", kubectl.namespace, "--log-format", "text"),
        *("--preprocess-image", PREPROCESS, "--trainer-image", TRAINER),
        *("--bind-address", "127.0.0.1", "--health-port", str(health), "--metrics-port", str(metrics), *flags),
    ]
    log = folder / f"operator-{health}.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POD_")}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    operator = Served(process, log)
    try:
        _wait_until_ready(operator, f"http://127.0.0.1:{health}/readyz")
        yield operator
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        print(f"--- {' '.join(command[1:])}\n{log.read_text()}")  # pytest shows it of tests that failed


def _wait_until_ready(operator: Served, url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        assert operator.process.poll() is None, operator.log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, operator.log.read_text()
            time.sleep(0.2)
