"""Run by test_families_trained.py, one for each process of a group: takes six steps of each job, with a checkpoint after three,
and then the last three again from that checkpoint; process 0 says the losses of both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import Mock

from pretrain_stage.config import read_job
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment

SAVED = 3


def main(job_files: list[Path]) -> None:
    jobs = [read_job(path, TrainerSpec) for path in job_files]
    prepare_environment(jobs[0].spec.training, 2)
    from pretrain_trainer import checkpoint, ranks
    from pretrain_trainer.account import Account
    from pretrain_trainer.saver import Saver
    from pretrain_trainer.snapshot import load

    from tests.trainer.probe import Probe

    group = ranks.connect(ranks.place(), gpus=False)
    for path, job in zip(job_files, jobs, strict=True):
        probe = Probe(job, group)
        steps, engine = probe.plan.batch.steps, probe.engine()
        there = bool(checkpoint.committed_steps(probe.storage))
        saver = Saver(engine, probe.storage, probe.plan, group, probe.scratch, None, probe.begin(), Mock(), Account(0.0))
        losses = []
        for number in range(1, steps + 1):
            losses.append(probe.step(engine, number))
            if number == SAVED and not there:
                saver.save(number, {"loss": losses[-1]}, wait=True)
        measures = probe.course.validate(engine, steps, {})
        resume = probe.resume()
        engine = probe.engine(universal=resume.universal)
        load(engine, resume, group)
        resumed = [probe.step(engine, number) for number in range(SAVED + 1, steps + 1)]
        probe.batches.close()
        if group.place.first:
            print("SAID", path.stem, json.dumps({"losses": losses, "resumed": resumed, **measures}), flush=True)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
