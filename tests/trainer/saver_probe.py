"""Run by test_saver.py, one for each process of a group: saves each job's engine after three steps while the fourth is being
computed, and leaves beside it what DeepSpeed itself saves at that step. The copy of the state is held back until the fourth
step has been computed but for its update.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from pretrain_stage.config import read_job
from pretrain_stage.events import Events
from pretrain_stage.scratch import private_folder
from pretrain_stage.storage import open_storage
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment

SAVED, STEPS = 3, 6


def main(job_files: list[Path]) -> None:
    jobs = [read_job(path, TrainerSpec) for path in job_files]
    prepare_environment(jobs[0].spec.training, 2)
    from pretrain_trainer import checkpoint, ranks
    from pretrain_trainer.account import Account
    from pretrain_trainer.batches import Batches
    from pretrain_trainer.course import Pretraining
    from pretrain_trainer.engine import build_engine
    from pretrain_trainer.host_copy import HostCopy
    from pretrain_trainer.optimizer import set_learning_rate
    from pretrain_trainer.plan import make_plan
    from pretrain_trainer.saver import Saver
    from pretrain_trainer.snapshot import find_resume, load
    from pretrain_trainer.train import _optimize

    copy_rest = HostCopy.copy_rest
    hold_back, update_waits = False, threading.Event()

    def held_back(state: HostCopy) -> None:
        if hold_back:
            assert update_waits.wait(60)
            time.sleep(0.05)
        copy_rest(state)

    class Noting(Account):
        def saves(self) -> None:
            update_waits.set()
            super().saves()

    HostCopy.copy_rest = held_back  # type: ignore[method-assign, assignment]
    group = ranks.connect(ranks.place(), gpus=False)
    for path, job in zip(job_files, jobs, strict=True):
        storage = open_storage(job.spec.storage)
        plan = make_plan(job, storage, group.place.world_size)
        course = Pretraining(plan, storage, group)
        batches = Batches(plan, course.samples, group)
        scratch = private_folder(storage) / "probe"
        scratch.mkdir(exist_ok=True)
        attempt = group.from_first(lambda storage=storage: checkpoint.begin(storage, None))  # type: ignore[misc]

        def step(engine: Any, number: int, batches: Any = batches, training: Any = job.spec.training) -> float:
            set_learning_rate(engine.optimizer, training.optimizer.learning_rate)
            examples, targets, _ = batches.take(number)
            return float(sum(group.gather(_optimize(engine, examples, targets, group.place.world_size).item())))

        engine = build_engine(plan, group, course.model, universal=False)
        told = Mock()
        saver = Saver(engine, storage, plan, group, scratch, None, attempt, told, Noting(0.0))
        update_waits.clear()
        losses = []
        for number in range(1, STEPS + 1):
            losses.append(step(engine, number))
            if number == SAVED:
                engine.save_checkpoint(str(path.parent / f"{path.stem}-deepspeed"), tag="files", save_latest=False)
                hold_back = True
                saver.save(number, {"loss": losses[-1]})
        hold_back = False
        saver.save(STEPS, {"loss": losses[-1]}, wait=True)
        resume = find_resume(storage, plan, group, scratch, Events({}))
        assert resume is not None
        assert resume.manifest.step == STEPS
        storage.delete([f"{resume.manifest.folder}/{checkpoint.MARKER}"] if group.place.first else [])
        group.wait()
        resume = find_resume(storage, plan, group, scratch, Events({}))
        assert resume is not None
        assert resume.manifest.step == SAVED
        engine = build_engine(plan, group, course.model, universal=False)
        load(engine, resume, group)
        resumed = [step(engine, number) for number in range(SAVED + 1, STEPS + 1)]
        batches.close()
        if group.place.first:
            said = {"losses": losses, "resumed": resumed, "held": update_waits.is_set()}
            print("SAID", path.stem, json.dumps(said), flush=True)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
