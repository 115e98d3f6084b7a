"""What the programs share that tests run in place of training, one for each process of a group. Imported once the environment of a
rank has been prepared.
"""

from __future__ import annotations

from typing import Any

from pretrain_stage.config import Job
from pretrain_stage.events import Events
from pretrain_stage.scratch import private_folder
from pretrain_stage.storage import open_storage
from pretrain_trainer import checkpoint
from pretrain_trainer.batches import Batches
from pretrain_trainer.commit_log import Attempt
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.course import Pretraining
from pretrain_trainer.engine import build_engine
from pretrain_trainer.optimizer import set_learning_rate
from pretrain_trainer.plan import make_plan
from pretrain_trainer.ranks import Group
from pretrain_trainer.snapshot import Resume, find_resume
from pretrain_trainer.train import _optimize


class Probe:
    """A job whose steps are taken one by one, without a schedule."""

    def __init__(self, job: Job[TrainerSpec], group: Group) -> None:
        self.group, self.training = group, job.spec.training
        self.storage = open_storage(job.spec.storage)
        self.plan = make_plan(job, self.storage, group.place.world_size)
        self.course = Pretraining(self.plan, self.storage, group)
        self.batches = Batches(self.plan, self.course.samples, group)
        self.scratch = private_folder(self.storage) / "probe"
        self.scratch.mkdir(exist_ok=True)

    def begin(self) -> Attempt:
        """The right to commit checkpoints."""
        return self.group.from_first(lambda: checkpoint.begin(self.storage, None))

    def engine(self, *, universal: bool = False) -> Any:
        return build_engine(self.plan, self.group, self.course.model, universal=universal)

    def step(self, engine: Any, number: int) -> float:
        """Takes step `number`; returns its loss."""
        set_learning_rate(engine.optimizer, self.training.optimizer.learning_rate)
        examples, targets, _ = self.batches.take(number)
        return float(sum(self.group.gather(_optimize(engine, examples, targets, self.group.place.world_size).item())))

    def resume(self) -> Resume:
        """The newest checkpoint, which there must be."""
        found = find_resume(self.storage, self.plan, self.group, self.scratch, Events({}))
        assert found is not None
        return found
