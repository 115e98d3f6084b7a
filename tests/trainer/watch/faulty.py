"""Run by tests in place of `python -m pretrain_trainer train`: training with faults, as FAULTS says in JSON.

nonfinite: steps whose loss is made NaN, on the last rank alone
poisoned:  first and last step whose targets are drawn by lot
flipped:   [step, rank, bit]: before that step a bit of that rank's weights flips
asked:     [where, step]: SIGTERM arrives there, in the second micro-batch of that step ("accumulation") or in the validation after it
clock:     {step: seconds}: with that step the clock of the day is set so far ahead of the true time, or behind it
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

FAULTS = json.loads(os.environ["FAULTS"])
RANK, LAST = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)) - 1


def main() -> int:
    from pretrain_stage.config import read_job
    from pretrain_trainer.__main__ import main as trainer
    from pretrain_trainer.__main__ import parse
    from pretrain_trainer.config.sections import TrainerSpec
    from pretrain_trainer.environment import prepare_environment

    job = read_job(parse(sys.argv[1:]).job, TrainerSpec)
    prepare_environment(job.spec.training, LAST + 1)
    import pretrain_trainer.train
    import torch

    train: Any = pretrain_trainer.train
    now, micro_batch, ahead = 0, 0, 0.0
    take_step, loss_sum, validate, true_time = train.take_step, train.loss_sum, train.Pretraining.validate, time.time

    def asked(*here: Any) -> None:
        if FAULTS.get("asked") == [*here]:
            os.kill(os.getpid(), signal.SIGTERM)

    def validated(course: Any, engine: Any, number: int, *rest: Any) -> Any:
        asked("validation", number)
        return validate(course, engine, number, *rest)

    def step(number: int, plan: Any, engine: Any, *rest: Any) -> None:
        nonlocal now, micro_batch, ahead
        now, micro_batch = number, 0
        ahead = FAULTS.get("clock", {}).get(str(number), ahead)
        if FAULTS.get("flipped", [None])[:2] == [number, RANK]:
            weights = next(iter(engine.module.parameters())).data
            bits = weights.view(torch.int32).view(-1)
            bits[17] ^= 1 << FAULTS["flipped"][2]
        take_step(number, plan, engine, *rest)

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal micro_batch
        micro_batch += 1
        if micro_batch == 2:
            asked("accumulation", now)
        if now in FAULTS.get("poisoned", ()):
            draw = torch.Generator().manual_seed(now)
            targets = torch.randint(0, logits.shape[-1], targets.shape, generator=draw)
        found: torch.Tensor = loss_sum(logits, targets)
        return found * torch.nan if RANK == LAST and now in FAULTS.get("nonfinite", ()) else found

    train.take_step, train.loss_sum, train.Pretraining.validate = step, loss, validated
    time.time = lambda: true_time() + ahead
    return trainer(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
