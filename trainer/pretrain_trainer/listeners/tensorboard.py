"""A run's measures as TensorBoard's event files in storage: reports/tensorboard/, one for each start of the run."""

from __future__ import annotations

from pathlib import Path

from pretrain_stage.storage import Storage
from torch.utils.tensorboard import SummaryWriter

from pretrain_trainer.listeners.listener import CheckpointMeasures, Listener, StepMeasures, ValidationMeasures

TENSORBOARD = "reports/tensorboard"


class TensorBoard(Listener):
    """Writes on local disk, in a thread of the writer's own, and brings the file to storage with each checkpoint."""

    def __init__(self, storage: Storage, folder: Path, first_step: int) -> None:
        self.storage, self.folder = storage, folder / "tensorboard"
        # purge_step hides what an earlier start wrote of steps that are done again.
        self.writer = SummaryWriter(str(self.folder), purge_step=first_step + 1)

    def step(self, measures: StepMeasures) -> None:
        for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second"):
            self._add(f"training/{name}", getattr(measures, name), measures.step)

    def validation(self, measures: ValidationMeasures) -> None:
        self._add("validation/loss", measures.loss, measures.step)
        self._add("validation/perplexity", measures.perplexity, measures.step)

    def checkpoint(self, measures: CheckpointMeasures) -> None:
        self._add("checkpoint/seconds", measures.seconds, measures.step)

    def publish(self) -> None:
        self.writer.flush()
        for path in self.folder.iterdir():
            self.storage.upload(path, f"{TENSORBOARD}/{path.name}")

    def close(self) -> None:
        self.writer.close()

    def _add(self, name: str, value: float, step: int) -> None:
        self.writer.add_scalar(name, value, step)
