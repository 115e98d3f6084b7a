"""Run by test_families_trained.py, one for each process of a group: takes six steps of each job, with a checkpoint after three,
and then the last three again from that checkpoint; process 0 says the losses of both.

One program for all jobs: most of the time of one that trains little is spent on imports.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from pretrain_stage.config import read_job
from pretrain_stage.events import Events
from pretrain_stage.scratch import private_folder
from pretrain_stage.storage import open_storage
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment

SAVED = 3


def main(job_files: list[Path]) -> None:
    jobs = [read_job(path, TrainerSpec) for path in job_files]
    prepare_environment(jobs[0].spec.training, 2)
    from pretrain_trainer import checkpoint, ranks
    from pretrain_trainer.account import Account
    from pretrain_trainer.batches import Batches
    from pretrain_trainer.course import Pretraining
    from pretrain_trainer.engine import build_engine
    from pretrain_trainer.optimizer import set_learning_rate
    from pretrain_trainer.plan import make_plan
    from pretrain_trainer.saver import Saver
    from pretrain_trainer.snapshot import find_resume, load
    from pretrain_trainer.train import _optimize

    group = ranks.connect(ranks.place(), gpus=False)
    for path, job in zip(job_files, jobs, strict=True):
        storage = open_storage(job.spec.storage)
        plan = make_plan(job, storage, group.place.world_size)
        course = Pretraining(plan, storage, group)
        batches = Batches(plan, course.samples, group)
        scratch = private_folder(storage) / "probe"
        scratch.mkdir(exist_ok=True)

        def step(engine: Any, number: int, batches: Any = batches, training: Any = job.spec.training) -> float:
            set_learning_rate(engine.optimizer, training.optimizer.learning_rate)
            examples, targets, _ = batches.take(number)
            return float(sum(group.gather(_optimize(engine, examples, targets, group.place.world_size).item())))

        engine = build_engine(plan, group, course.model, universal=False)
        there = bool(checkpoint.committed_steps(storage))
        attempt = group.from_first(lambda storage=storage: checkpoint.begin(storage, None))  # type: ignore[misc]
        saver = Saver(engine, storage, plan, group, scratch, None, attempt, Mock(), Account(0.0))
        losses = []
        for number in range(1, plan.batch.steps + 1):
            losses.append(step(engine, number))
            if number == SAVED and not there:
                saver.save(number, {"loss": losses[-1]}, wait=True)
        measures = course.validate(engine, plan.batch.steps, {})
        resume = find_resume(storage, plan, group, scratch, Events({}))
        assert resume is not None
        engine = build_engine(plan, group, course.model, universal=resume.universal)
        load(engine, resume, group)
        resumed = [step(engine, number) for number in range(SAVED + 1, plan.batch.steps + 1)]
        batches.close()
        if group.place.first:
            print("LOSSES", path.stem, json.dumps({"losses": losses, "resumed": resumed, **measures}), flush=True)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
