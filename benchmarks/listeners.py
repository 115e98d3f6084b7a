"""What it costs a training step to be told of: all listeners against none, in the loop that training runs.

All: events, Prometheus (read each second by another process), the record, TensorBoard, and Weights & Biases offline. Two figures:

- listeners-per-step     what a step's thread spends on listeners and on the account of its time, over thousands of steps with
                         nothing between them, against the median step of the smallest preset. It has little noise, and leaves
                         out what the listeners' own threads may take from a step.
- listeners-in-the-loop  the same loop with and without them, in turns, and medians of single steps: everything is in it, the
                         noise of the machine too, which on a busy one is larger than the goal.

    python -m benchmarks.listeners
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain_stage.config import Job
from pretrain_stage.events import Events
from pretrain_stage.section import parse
from pretrain_stage.storage import Storage
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment

from benchmarks.figure import Figure, table
from benchmarks.gpu_7b import stand_alone
from benchmarks.training import SAMPLES, SEQUENCE, text_storage

if TYPE_CHECKING:
    from pretrain_trainer.meter import Meter

ROUNDS, BLOCK, WARM_UP = 150, 4, 5
"""Blocks of each side, steps of a block, and steps of each side before them."""
TOLD_BLOCKS, TOLD_STEPS, PAUSE_SECONDS = 11, 500, 3.0
"""Steps that are told of with nothing between them, and between blocks time for the listeners' own threads."""
GOAL = 1.005
READ_SECONDS = 1.0
READER = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(sys.argv[1]).read()
    time.sleep(float(sys.argv[2]))
"""


def figures() -> list[Figure]:
    """Seconds of a step with all listeners against one with none: half a percent more at most."""
    # In a process of its own: the libraries read their environment when they are imported.
    command = [sys.executable, "-m", "benchmarks.listeners", "--measure"]
    told, alone, each = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return [
        Figure("listeners-per-step", alone + each, alone, "the step alone", "s/step", GOAL, "lower"),
        Figure("listeners-in-the-loop", told, alone, "the loop with no listeners", "s/step", GOAL, "lower"),
    ]


def main() -> int:
    if "--measure" in sys.argv:
        print(json.dumps(measure()))
        return 0
    found = figures()
    print(table(found))
    print(f"told of in {1e6 * (found[0].value - found[0].peer):.1f} microseconds a step")
    return 0 if all(figure.holds for figure in found) else 1


def measure() -> tuple[float, float, float]:
    """Seconds of a step with listeners and without, medians; and seconds that telling of a step takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        storage = text_storage(folder)
        job = job_of(storage)
        prepare_environment(job.spec.training, 1)
        stand_alone()
        os.environ["PRETRAIN_METRICS_PORT"] = "0"
        return in_turns(job, storage, folder)


def job_of(storage: Storage) -> Job[TrainerSpec]:
    """A job of the smallest preset with every listener."""
    tokens = SEQUENCE * SAMPLES
    training = {
        "tokens": (WARM_UP + ROUNDS * BLOCK) * tokens,
        "sequenceLength": SEQUENCE,
        "globalBatchTokens": tokens,
        "schedule": {"warmupSteps": WARM_UP},
        "precision": "fp32",
        "deepspeed": {"zeroStage": 1},
        "tensorboard": True,
        "tracking": {"wandb": {"project": "benchmark", "mode": "offline"}},
        "peakTeraflops": 1,
    }
    spec = {"storage": {"uri": storage.uri}, "model": {"preset": "tiny"}, "training": training}
    job = {"metadata": {"name": "benchmark"}, "spec": {**spec, "evaluation": {}, "export": {}}}
    parsed: Job[TrainerSpec] = parse(Job[TrainerSpec], job, "benchmark")
    return parsed


def in_turns(job: Job[TrainerSpec], storage: Storage, folder: Path) -> tuple[float, float, float]:
    """The three figures, of two engines that take turns."""
    import torch
    from pretrain_trainer.account import Account, FurthestStep
    from pretrain_trainer.batches import Batches
    from pretrain_trainer.engine import build_engine
    from pretrain_trainer.listeners.choice import listeners_of
    from pretrain_trainer.meter import Meter, StopRequest
    from pretrain_trainer.plan import make_plan
    from pretrain_trainer.ranks import connect, place
    from pretrain_trainer.tokens import TRAIN
    from pretrain_trainer.train import open_tokens, take_step

    group = connect(place(), gpus=False)
    plan = make_plan(job, storage, 1)
    request = StopRequest()

    def side(meter: Meter) -> tuple[Callable[[int], None], Batches]:
        engine = build_engine(plan, group, universal=False)
        batches = Batches(plan, open_tokens(storage, plan, group, folder, TRAIN), group)
        return lambda step: take_step(step, plan, engine, batches, meter, request), batches

    with (folder / "events").open("w") as stream, read_each_second() as read:
        account = Account()
        listeners = listeners_of(storage, plan, group, folder, None, account, Events({}, stream))
        meter = Meter(plan.batch.tokens, listeners, account, furthest=FurthestStep(folder / "furthest", "benchmark"))
        read(served(folder / "events"))
        told, batches = side(meter)
        alone, others = side(Meter(plan.batch.tokens, [], Account()))
        seconds = timed({"told": told, "alone": alone})
        each = telling(meter)
        meter.close()
    for reader in (batches, others):
        reader.close()
    torch.distributed.destroy_process_group()
    return statistics.median(seconds["told"]), statistics.median(seconds["alone"]), each


@contextlib.contextmanager
def read_each_second() -> Iterator[Callable[[str], None]]:
    """Starts, when given an address, another process that reads it each second."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield lambda address: started.append(
            subprocess.Popen([sys.executable, "-c", READER, address, str(READ_SECONDS)], stderr=subprocess.DEVNULL)
        )
    finally:
        for process in started:
            process.kill()
            process.wait()


def served(events: Path) -> str:
    """The address that the Prometheus listener said."""
    said = (json.loads(line) for line in events.read_text().splitlines())
    return next(str(one["message"]).removeprefix("metrics at ") for one in said if "metrics_port" in one)


def timed(sides: dict[str, Callable[[int], None]]) -> dict[str, list[float]]:
    """Seconds of each step of each side; blocks alternate, and so does which of them begins."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1, ROUNDS):
        first, last = (1, WARM_UP) if number < 0 else (WARM_UP + number * BLOCK + 1, WARM_UP + (number + 1) * BLOCK)
        for name in sorted(sides, reverse=bool(number % 2)):
            for step in range(first, last + 1):
                began = time.perf_counter()
                sides[name](step)
                if number >= 0:
                    seconds[name].append(time.perf_counter() - began)
    return seconds


def telling(meter: Meter) -> float:
    """Seconds that the loop spends on telling of a step and on its account: a median over blocks.

    The sums of the step are there already: bringing them is part of training, with or without listeners.
    """
    from pretrain_trainer.meter import Sums, Taken, _Pending

    class There(Sums):
        def __init__(self) -> None:
            pass

        def read(self) -> tuple[float, bool, float]:
            return 500.0, False, 1.0

    blocks = []
    taken = Taken(1, None, 1, 1e-3, 1.0, 1e-5)  # type: ignore[arg-type]
    pending = _Pending(taken, There(), 0.05, time.time())
    for _ in range(TOLD_BLOCKS):
        time.sleep(PAUSE_SECONDS)
        began = time.perf_counter()
        for _ in range(TOLD_STEPS):
            meter.account.waits()
            meter.account.computes(1)
            meter._pending = pending
            meter.settle()
        blocks.append((time.perf_counter() - began) / TOLD_STEPS)
    return statistics.median(blocks)


if __name__ == "__main__":
    sys.exit(main())
