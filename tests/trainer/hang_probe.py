"""Run by test_launch.py under torchrun: process 1 stops in the middle of training; process 0 says how long it waited for it."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

from pretrain_stage.config import read_job
from pretrain_stage.storage import open_storage
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment

SECONDS = 4


def main(job_file: Path) -> None:
    job = read_job(job_file, TrainerSpec)
    prepare_environment(job.spec.training, 2)
    import torch
    from pretrain_trainer import ranks
    from pretrain_trainer.engine import build_engine
    from pretrain_trainer.model import build_model
    from pretrain_trainer.objective import loss_sum
    from pretrain_trainer.plan import make_plan

    group = ranks.connect(ranks.place(), gpus=False)
    ranks.STEP_TIMEOUT = timedelta(seconds=SECONDS)
    plan = make_plan(job, open_storage(job.spec.storage), 2)
    engine = build_engine(plan, group, lambda: build_model("llama", plan.shape, plan.vocab_size), universal=False)
    pids = group.gather(os.getpid())
    tokens = torch.arange(4 * 33).view(4, 33)
    for step in range(3):
        if step == 2 and group.place.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        began = time.monotonic()
        try:
            engine.backward(loss_sum(engine(tokens[:, :-1]), tokens[:, 1:]))
            engine.step()
        except RuntimeError as error:
            print(f"WAITED {time.monotonic() - began:.1f} at step {step}: {str(error).splitlines()[0]}", flush=True)
            os.kill(pids[1], signal.SIGKILL)
            os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
