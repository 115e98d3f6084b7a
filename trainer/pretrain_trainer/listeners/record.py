"""A run's measures as a file in storage: reports/training.jsonl."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretrain_stage.storage import Storage

from pretrain_trainer.account import Account
from pretrain_trainer.listeners.listener import CheckpointMeasures, Listener, StepMeasures, ValidationMeasures

RECORD = "reports/training.jsonl"
ATTEMPT_BYTES = 400
"""Of the line of an attempt, which is written again in its place: padded with spaces, so that its length never changes."""


class Record(Listener):
    """One JSON line for each start of the run, each step, validation and checkpoint.

    A resumed run takes up the file and drops the lines of steps that it will do again; those of earlier starts stay.
    """

    def __init__(self, storage: Storage, folder: Path, first_step: int, account: Account) -> None:
        self.storage, self.path, self.first_step, self.account = storage, folder / "training.jsonl", first_step, account
        earlier = storage.read(RECORD) if first_step else None
        lines = [] if earlier is None else [line + b"\n" for line in earlier.splitlines() if _stays(line, first_step)]
        self.attempt_at = sum(map(len, lines))
        self.path.write_bytes(b"".join(lines) + self._attempt())
        self.file = self.path.open("a", encoding="utf-8")

    def step(self, measures: StepMeasures) -> None:
        self._write("step", {**vars(measures), "tokens_per_second": measures.tokens_per_second})

    def validation(self, measures: ValidationMeasures) -> None:
        self._write("validation", vars(measures))

    def checkpoint(self, measures: CheckpointMeasures) -> None:
        self._write("checkpoint", vars(measures))

    def publish(self) -> Callable[[], None]:
        """The file is written to while it is uploaded, so a copy is."""
        self.file.flush()
        with self.path.open("r+b") as file:
            file.seek(self.attempt_at)
            file.write(self._attempt())
        length, copy = self.path.stat().st_size, self.path.with_suffix(".published")

        def bring() -> None:
            shutil.copyfile(self.path, copy)
            os.truncate(copy, length)
            self.storage.upload(copy, RECORD)
            copy.unlink()

        return bring

    def close(self) -> None:
        self.file.close()

    def _attempt(self) -> bytes:
        """The line of this start: the steps that were done before it, when it began, its account until now."""
        line = {"kind": "attempt", "step": self.first_step, "time": self.account.began, "seconds": self.account.rounded()}
        return json.dumps(line).ljust(ATTEMPT_BYTES - 1).encode() + b"\n"

    def _write(self, kind: str, measures: dict[str, Any]) -> None:
        self.file.write(json.dumps({"kind": kind, **measures}) + "\n")


def _stays(line: bytes, first_step: int) -> bool:
    """Whether a line of an earlier record is of a start, or of a step that will not be done again. A torn line is not."""
    try:
        said = json.loads(line)
        return said["kind"] == "attempt" or int(said["step"]) <= first_step
    except (ValueError, KeyError, TypeError):
        return False
