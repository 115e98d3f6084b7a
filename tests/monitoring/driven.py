"""Training's exporter without training, for faults that take minutes or hours to come about: the class that training uses,
told by the test what a run would tell it.
"""

from __future__ import annotations

import io
import time

import pytest
from pretrain_stage.config import Metadata
from pretrain_stage.events import Events
from pretrain_trainer.account import Account
from pretrain_trainer.listeners.listener import CheckpointMeasures, StepMeasures
from pretrain_trainer.listeners.prometheus import Beginning, Prometheus

HASTE = 100.0
"""How much faster the clock of a driven run goes: five minutes pass in three seconds."""


class Driven:
    """A run of this name."""

    def __init__(self, name: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PRETRAIN_METRICS_PORT", "0")
        self.account = Account(age=0.0, clock=lambda: time.monotonic() * HASTE)
        self.account.waits()
        beginning = Beginning(steps=1000, checkpoint_steps=10)
        self.exporter = Prometheus(
            Metadata(name=name, namespace=namespace), beginning, self.account, Events({}, io.StringIO())
        )
        self.steps = 0

    @property
    def port(self) -> int:
        return self.exporter.exposition.port

    def step(self, loss: float) -> None:
        """A step of half a second."""
        self.steps += 1
        self.exporter.step(StepMeasures(self.steps, loss, 1e-3, 1.0, 256, 0.5, 0.01, time.time()))

    def checkpoint(self) -> None:
        """A checkpoint was committed."""
        self.exporter.checkpoint(CheckpointMeasures(self.steps, 0.1, 1000, 0.5, time.time()))

    def close(self) -> None:
        self.exporter.close()
