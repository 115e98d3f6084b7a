"""Run by test_nonfinite.py, by both processes of a group: takes three steps of each job, of which process 1 alone spoils the second,
and beside it the first and the third alone; process 0 says whether the second left everything as it was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pretrain_stage.config import read_job
from pretrain_stage.storage import open_storage
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment

FAULTS = ("nan loss", "infinite loss", "nan gradient")


def main(job_files: list[Path]) -> None:
    jobs = [read_job(path, TrainerSpec) for path in job_files]
    prepare_environment(jobs[0].spec.training, 2)
    import pretrain_trainer.train
    import torch
    from pretrain_trainer import ranks
    from pretrain_trainer.engine import build_engine, grad_norm
    from pretrain_trainer.model import build_model
    from pretrain_trainer.objective import TOKENS
    from pretrain_trainer.optimizer import set_learning_rate
    from pretrain_trainer.plan import make_plan
    from pretrain_trainer.watch.replicas import check_replicas

    group = ranks.connect(ranks.place(), gpus=False)
    train: Any = pretrain_trainer.train
    loss_sum = train.loss_sum

    def spoiled(fault: str) -> Any:
        def spoil(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            loss: torch.Tensor = loss_sum(logits, targets)
            if fault == "nan gradient":
                return loss + torch.sqrt(logits.sum() * 0)
            return loss + (torch.nan if fault == "nan loss" else torch.inf)

        return spoil

    for number, (path, job) in enumerate(zip(job_files, jobs, strict=True)):
        plan = make_plan(job, open_storage(job.spec.storage), 2)

        def engine_of(plan: Any = plan) -> Any:
            return build_engine(plan, group, lambda: build_model("llama", plan.shape, plan.vocab_size), universal=False)

        def step(engine: Any, which: int) -> float:
            set_learning_rate(engine.optimizer, 1e-2 / which)
            draw = torch.Generator().manual_seed(10 * which + group.place.rank)
            tokens = torch.randint(0, 300, (4, 33), generator=draw)
            example = {"tokens": tokens[:, :-1]}, {TOKENS: tokens[:, 1:]}
            train._optimize(engine, [example], {TOKENS: 2 * 4 * 32}, 2)
            return float(grad_norm(engine))

        engine, control = engine_of(), engine_of()
        step(engine, 1)
        before = state(engine)
        if group.place.rank == 1:
            train.loss_sum = spoiled(FAULTS[number % len(FAULTS)])
        norm = step(engine, 2)
        train.loss_sum = loss_sum
        after = state(engine)
        step(engine, 3)
        check_replicas(engine, group, 3)  # no false alarm, in any stage
        for which in (1, 3):
            step(control, which)
        told = group.gather(
            {
                "norm": norm,
                "tensors": len(before),
                "as_before": same(before, after),
                "goes_on": not same(after, state(engine)),
                "as_if_it_had_not_been": same(state(engine), state(control)),
            }
        )
        if group.place.first:
            print("TOLD", path.parent.name, json.dumps(told), flush=True)


def state(engine: Any) -> list[Any]:
    """Copies of this process's weights, master weights and moments."""
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    tensors = [getattr(parameter, "ds_tensor", parameter.data) for parameter in engine.module.parameters()]
    tensors += [parameter.data for group in inner.param_groups for parameter in group["params"]]
    tensors += [value for of_one in inner.state.values() for value in of_one.values() if hasattr(value, "clone")]
    return [tensor.detach().clone() for tensor in tensors]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(bool((a == b).all()) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
