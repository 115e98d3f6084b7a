"""TensorBoard's event files in storage: reports/tensorboard/, one for each start of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

if TYPE_CHECKING:
    from pretrain_trainer.listeners.tracking import Point

FILES = "reports/tensorboard"


class TensorBoardFile:
    """The file of this start, on local disk. first_step: steps that were done before."""

    FIELD = "training.tensorboard"

    def __init__(self, scratch: Path, first_step: int) -> None:
        self.folder, self.first_step = scratch / "tensorboard", first_step

    def begin(self) -> None:
        self.writer = EventFileWriter(str(self.folder))
        # Hides what an earlier start wrote of steps that are done again.
        self.writer.add_event(Event(step=self.first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def send(self, points: Sequence[Point]) -> None:
        for point in points:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
            self.writer.add_event(Event(wall_time=point.time, step=point.step, summary=Summary(value=values)))
        self.writer.flush()

    def end(self, finished: bool) -> None:
        self.writer.close()

    def files(self) -> Sequence[tuple[Path, str]]:
        return [(path, f"{FILES}/{path.name}") for path in self.folder.glob("events.*")]
