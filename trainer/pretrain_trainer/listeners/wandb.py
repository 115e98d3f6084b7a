"""A run of Weights & Biases, by its own package. The starts of a training are one run: its id follows from the training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import: its own faults are not to be reported from here
import wandb

from pretrain_trainer.config.sections import WeightsAndBiases
from pretrain_trainer.plan import RunPlan

if TYPE_CHECKING:
    from pretrain_trainer.listeners.tracking import Point

BEGIN_SECONDS = 30.0
"""How long the server may take to answer."""
FILES = "reports/wandb"


class WandbRun:
    """The client. Its key comes from the environment: WANDB_API_KEY."""

    FIELD = "training.tracking.wandb"

    def __init__(self, section: WeightsAndBiases, plan: RunPlan, scratch: Path) -> None:
        self.section, self.plan, self.folder = section, plan, scratch / "wandb"
        self.folder.mkdir(exist_ok=True)
        self.run: Any = None

    def begin(self) -> None:
        self.run = wandb.init(
            project=self.section.project,
            entity=self.section.entity,
            mode=self.section.mode,
            id=self.plan.training_key[:32],
            name=self.plan.job.metadata.name,
            resume="allow",
            config=self.plan.config,
            dir=str(self.folder),
            # Nothing of this machine, its code or its output: what the job says and what training measures.
            settings=wandb.Settings(
                init_timeout=BEGIN_SECONDS,
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                save_code=False,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        # Steps that are done again come a second time, which its own step counter would refuse.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def send(self, points: Sequence[Point]) -> None:
        for point in points:
            self.run.log({**point.values, "step": point.step})

    def end(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)
        # The file of an offline run is written by a process of the client's own, which may still be at it; this waits for its end.
        wandb.teardown()

    def files(self) -> Sequence[tuple[Path, str]]:
        """What an offline run wrote: a folder for each start."""
        if self.section.mode != "offline":
            return ()
        paths = self.folder.glob("wandb/offline-run-*/*.wandb")
        return [(path, f"{FILES}/{path.parent.name}/{path.name}") for path in paths]
