"""What it costs a training step to be told of: all listeners against none, in the loop that training runs.

All: events, Prometheus (read each second by another process), the record, TensorBoard, and Weights & Biases offline. Two figures:

- listeners-per-step     what a step's thread spends on listeners and on the account of its time, over thousands of steps with
                         nothing between them, against the median step of the smallest preset. It has little noise, and leaves
                         out what the listeners' own threads may take from a step.
- listeners-in-the-loop  two processes, one with all listeners and one with none, that take steps in turns; medians of single
                         steps. Everything is in it, the noise of the machine too, which on a busy one is larger than the goal.

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
from typing import TYPE_CHECKING, Any

from pretrain_stage.config import Job
from pretrain_stage.events import Events
from pretrain_stage.storage import Storage
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment

from benchmarks.figure import Figure, table
from benchmarks.gpu_7b import stand_alone
from benchmarks.training import job_of, text_storage

if TYPE_CHECKING:
    from pretrain_trainer.meter import Meter

ROUNDS, BLOCK, WARM_UP = 12, 40, 5
"""Blocks of each side, steps of a block, and steps of each side before them. A block is long enough for what the listeners' threads
do of it to fall into it."""
TOLD_BLOCKS, TOLD_STEPS, PAUSE_SECONDS = 11, 500, 3.0
"""Steps that are told of with nothing between them, and between blocks time for the listeners' own threads."""
EVERY_LISTENER: dict[str, Any] = {
    "tensorboard": True,
    "tracking": {"wandb": {"project": "benchmark", "mode": "offline"}},
    "peakTeraflops": 1,
}
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
    with side("told") as told, side("alone") as alone:
        seconds = in_turns({"told": told, "alone": alone})
        each = told("telling")[0]
    usual = statistics.median(seconds["alone"])
    return [
        Figure("listeners-per-step", usual + each, usual, "the step alone", "s/step", GOAL, "lower"),
        Figure(
            "listeners-in-the-loop",
            statistics.median(seconds["told"]),
            usual,
            "the loop with no listeners",
            "s/step",
            GOAL,
            "lower",
        ),
    ]


def main() -> int:
    if "--side" in sys.argv:
        take_orders(sys.argv[-1])
        return 0
    found = figures()
    print(table(found))
    print(f"a step is told of in {1e6 * (found[0].value - found[0].peer):.1f} microseconds")
    return 0 if all(figure.holds for figure in found) else 1


@contextlib.contextmanager
def side(name: str) -> Iterator[Callable[[str], list[float]]]:
    """A process that trains with all listeners (told) or none (alone): given an order, it answers with seconds."""
    command = [sys.executable, "-m", "benchmarks.listeners", "--side", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        orders, answers = process.stdin, process.stdout

        def order(what: str) -> list[float]:
            orders.write(f"{what}\n")
            orders.flush()
            found: list[float] = json.loads(answers.readline())
            return found

        yield order
        orders.close()


def in_turns(sides: dict[str, Callable[[str], list[float]]]) -> dict[str, list[float]]:
    """Seconds of each step of each side; blocks alternate, and so does which of them begins."""
    for order in sides.values():
        order(str(WARM_UP))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS):
        for name in sorted(sides, reverse=bool(number % 2)):
            seconds[name] += sides[name](str(BLOCK))
    return seconds


def take_orders(name: str) -> None:
    """A side: for each line of standard input, a number of steps or `telling`, it answers with their seconds."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as end:
        storage = text_storage(Path(folder))
        job = job_of(storage, WARM_UP + ROUNDS * BLOCK, WARM_UP, **EVERY_LISTENER)
        prepare_environment(job.spec.training, 1)
        stand_alone()
        os.environ["PRETRAIN_METRICS_PORT"] = "0"
        meter, take = training_side(job, storage, Path(folder), name == "told", end)
        step = 0
        for line in sys.stdin:
            seconds = []
            if line.strip() == "telling":
                seconds = [telling(meter)]
            else:
                for _ in range(int(line)):
                    step += 1
                    began = time.perf_counter()
                    take(step)
                    seconds.append(time.perf_counter() - began)
            print(json.dumps(seconds), flush=True)


def training_side(
    job: Job[TrainerSpec], storage: Storage, folder: Path, told: bool, end: contextlib.ExitStack
) -> tuple[Meter, Callable[[int], None]]:
    """What takes a step by its number, as training does, with all listeners or none."""
    import torch
    from pretrain_trainer.account import Account, FurthestStep
    from pretrain_trainer.batches import Batches
    from pretrain_trainer.course import Pretraining
    from pretrain_trainer.engine import build_engine
    from pretrain_trainer.listeners.choice import listeners_of
    from pretrain_trainer.meter import Meter, StopRequest
    from pretrain_trainer.plan import make_plan
    from pretrain_trainer.ranks import connect, place
    from pretrain_trainer.train import take_step

    group = connect(place(), gpus=False)
    end.callback(torch.distributed.destroy_process_group)
    plan = make_plan(job, storage, 1)
    account, request = Account(), StopRequest()
    listeners, furthest = [], None
    if told:
        stream = end.enter_context((folder / "events").open("w"))
        listeners = listeners_of(storage, plan, group, folder, None, account, Events({}, stream))
        furthest = FurthestStep(folder / "furthest-step", plan.training_key)
        end.enter_context(read_each_second(served(folder / "events")))
    meter = Meter(plan.batch.tokens, listeners, account, furthest=furthest)
    end.callback(meter.close)
    course = Pretraining(plan, storage, group)
    engine = build_engine(plan, group, course.model, universal=False)
    batches = Batches(plan, course.samples, group)
    end.callback(batches.close)
    return meter, lambda step: take_step(step, plan, engine, batches, meter, request)


@contextlib.contextmanager
def read_each_second(address: str) -> Iterator[None]:
    """Another process reads the metrics meanwhile."""
    reader = subprocess.Popen([sys.executable, "-c", READER, address, str(READ_SECONDS)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        reader.kill()
        reader.wait()


def served(events: Path) -> str:
    """The address that the Prometheus listener said."""
    said = (json.loads(line) for line in events.read_text().splitlines())
    return next(str(one["message"]).removeprefix("metrics at ") for one in said if "metrics_port" in one)


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
    taken = Taken(1, None, 1e-3, 1.0, 1e-5)  # type: ignore[arg-type]
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
