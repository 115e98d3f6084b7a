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
from unittest.mock import Mock

from pretrain_stage.config import read_job
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment

SAVED, STEPS = 3, 6


def main(job_files: list[Path]) -> None:
    jobs = [read_job(path, TrainerSpec) for path in job_files]
    prepare_environment(jobs[0].spec.training, 2)
    from pretrain_trainer import checkpoint, ranks
    from pretrain_trainer.account import Account
    from pretrain_trainer.host_copy import HostCopy
    from pretrain_trainer.saver import Saver
    from pretrain_trainer.snapshot import load

    from tests.trainer.probe import Probe

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
        probe = Probe(job, group)
        attempt, engine = probe.begin(), probe.engine()
        saver = Saver(engine, probe.storage, probe.plan, group, probe.scratch, None, attempt, Mock(), Noting(0.0))
        update_waits.clear()
        losses = []
        for number in range(1, STEPS + 1):
            losses.append(probe.step(engine, number))
            if number == SAVED:
                engine.save_checkpoint(str(path.parent / f"{path.stem}-deepspeed"), tag="files", save_latest=False)
                hold_back = True
                saver.save(number, {"loss": losses[-1]})
        hold_back = False
        saver.save(STEPS, {"loss": losses[-1]}, wait=True)
        resume = probe.resume()
        assert resume.manifest.step == STEPS
        probe.storage.delete([f"{resume.manifest.folder}/{checkpoint.MARKER}"] if group.place.first else [])
        group.wait()
        resume = probe.resume()
        assert resume.manifest.step == SAVED
        engine = probe.engine()
        load(engine, resume, group)
        resumed = [probe.step(engine, number) for number in range(SAVED + 1, STEPS + 1)]
        probe.batches.close()
        if group.place.first:
            said = {"losses": losses, "resumed": resumed, "held": update_waits.is_set()}
            print("SAID", path.stem, json.dumps(said), flush=True)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
