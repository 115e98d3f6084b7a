"""Our training step against a bare DeepSpeed loop: the same model, the same batches, one process, taken in turns.

The bare loop does no more than train: its batches lie in memory, and it reads no loss. Ours is what training calls for each
step: it reads its samples from the mapped file in the data order, sets the learning rate, measures the gradient's norm,
sums losses and wishes to stop over the processes, and tells Prometheus, the record and standard output. The text is
Python's language reference, its bytes for tokens. Blocks of steps alternate and medians of single steps are compared,
since the machine may be busy with other things.

    python -m benchmarks.training
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretrain_stage.config import Job
from pretrain_stage.events import Events
from pretrain_stage.section import parse
from pretrain_stage.storage import Storage
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment

from benchmarks.figure import Figure, table
from benchmarks.gpu_7b import leave_tokens, stand_alone

ROUNDS, BLOCK, WARM_UP = 50, 2, 3
"""Blocks of each side, steps of a block, and steps of each side before them. Short blocks meet the same load of the machine."""
SEQUENCE, SAMPLES = 128, 4
BYTES = 257
"""The vocabulary: end of text, and one token for each byte."""


def figures() -> list[Figure]:
    """Seconds of a step against the bare loop's: 2% more at most."""
    # In a process of its own: the libraries read their environment when they are imported.
    command = [sys.executable, "-m", "benchmarks.training", "--measure"]
    ours, bare = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return [Figure("training-step", ours, bare, "bare DeepSpeed loop", "s/step", 1.02, "lower")]


def main() -> int:
    if "--measure" in sys.argv:
        print(json.dumps(measure()))
        return 0
    found = figures()
    print(table(found))
    return 0 if all(figure.holds for figure in found) else 1


def measure() -> tuple[float, float]:
    """Seconds of our step and of the bare one: medians."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        storage = text_storage(folder)
        job = job_of(storage, WARM_UP + ROUNDS * BLOCK, WARM_UP)
        prepare_environment(job.spec.training, 1)
        stand_alone()
        sides, end = steps_of(job, storage, folder)
        try:
            return timed(sides)
        finally:
            end()


def text_storage(folder: Path) -> Storage:
    """A storage folder with the language reference as tokens."""
    from pydoc_data.topics import topics

    import numpy as np

    text = "".join(topics[name] for name in sorted(topics)).encode()
    ids = np.frombuffer(text, dtype=np.uint8).astype(np.uint16) + 1
    held_out = len(ids) // 100
    return leave_tokens(folder, ids[held_out:], ids[:held_out], BYTES)


def job_of(storage: Storage, steps: int, warm_up: int, model: dict[str, Any] | None = None, **more: Any) -> Job[TrainerSpec]:
    """A job in fp32 under ZeRO 1. model: its section; None for one of three million parameters. more: further fields of `training`."""
    training = {
        "tokens": steps * SEQUENCE * SAMPLES,
        "sequenceLength": SEQUENCE,
        "globalBatchTokens": SEQUENCE * SAMPLES,
        "schedule": {"warmupSteps": warm_up},
        "precision": "fp32",
        "deepspeed": {"zeroStage": 1},
        **more,
    }
    spec = {"storage": {"uri": storage.uri}, "model": model or {"preset": "tiny"}, "training": training}
    job = {"metadata": {"name": "benchmark"}, "spec": {**spec, "evaluation": {}, "export": {}}}
    parsed: Job[TrainerSpec] = parse(Job[TrainerSpec], job, "benchmark")
    return parsed


def steps_of(
    job: Job[TrainerSpec], storage: Storage, folder: Path
) -> tuple[dict[str, Callable[[int], None]], Callable[[], None]]:
    """What takes a step by its number (from 1), ours and the bare loop's; and what ends both."""
    import deepspeed
    import torch
    from pretrain_trainer.account import Account
    from pretrain_trainer.batches import Batches
    from pretrain_trainer.course import Pretraining
    from pretrain_trainer.engine import build_engine, deepspeed_config
    from pretrain_trainer.listeners.choice import listeners_of
    from pretrain_trainer.meter import Meter, StopRequest
    from pretrain_trainer.objective import TOKENS
    from pretrain_trainer.plan import make_plan
    from pretrain_trainer.ranks import connect, place
    from pretrain_trainer.train import take_step

    group = connect(place(), gpus=False)
    plan = make_plan(job, storage, 1)
    course = Pretraining(plan, storage, group)

    def ours() -> tuple[Callable[[int], None], Callable[[], None]]:
        engine = build_engine(plan, group, course.model, universal=False)
        batches = Batches(plan, course.samples, group)
        account, events = Account(), Events({}, (folder / "events").open("w"))
        listeners = listeners_of(storage, plan, group, folder, None, account, events)
        meter, request = Meter(plan.batch.tokens, listeners, account), StopRequest()

        def end() -> None:
            batches.close()
            meter.close()

        return lambda step: take_step(step, plan, engine, batches, meter, request), end

    def bare() -> Callable[[int], None]:
        reader = Batches(plan, course.samples, group)
        batches = [reader.take(step)[0] for step in range(1, plan.batch.steps + 1)]
        reader.close()
        torch.manual_seed(job.spec.training.seed)
        model = course.model()
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=job.spec.training.optimizer.learning_rate),
            config=deepspeed_config(job.spec.training, plan.batch, universal=False),
        )

        def take(step: int) -> None:
            for inputs, targets in batches[step - 1]:
                logits = engine(inputs[TOKENS])
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[TOKENS].flatten())
                engine.backward(loss)
                engine.step()

        return take

    our_step, end_ours = ours()

    def end() -> None:
        end_ours()
        torch.distributed.destroy_process_group()

    return {"ours": our_step, "bare": bare()}, end


def timed(sides: dict[str, Callable[[int], None]]) -> tuple[float, float]:
    """Median seconds of a step of ours and of the bare loop; blocks alternate, and so does which of them begins."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(-1, ROUNDS):
        first, last = (1, WARM_UP) if number < 0 else (WARM_UP + number * BLOCK + 1, WARM_UP + (number + 1) * BLOCK)
        for name in sorted(sides, reverse=bool(number % 2)):
            for step in range(first, last + 1):
                began = time.perf_counter()
                sides[name](step)
                if number >= 0:
                    seconds[name].append(time.perf_counter() - began)
    return statistics.median(seconds["ours"]), statistics.median(seconds["bare"])


if __name__ == "__main__":
    sys.exit(main())
