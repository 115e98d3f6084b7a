"""Trains a published shape for some steps on one large GPU: memory against the estimate, tokens/s, and the share of a matmul.

The engine, the step, the data order and the listeners are those of a training run; only validation and checkpoints are
left out. Tokens are random unless --storage names a folder with finished stages tokenizer and tokenize; nothing is
written to that folder. Losses are shown for what they are: on random tokens they stay near the logarithm of the vocabulary.

    python -m benchmarks.gpu_7b
    python -m benchmarks.gpu_7b --preset tiny --device cpu --steps 3    # the same path, rehearsed without a GPU
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain_stage.config import Job
from pretrain_stage.errors import EXIT_STOPPED, UserError
from pretrain_stage.events import Events
from pretrain_stage.manifest import Part, close, leave_part, put_output
from pretrain_stage.process import Stopped
from pretrain_stage.section import parse
from pretrain_stage.storage import Storage, open_folder
from pretrain_trainer.config.memory import GIB, Memory, estimate, setup_of
from pretrain_trainer.config.presets import PRESETS
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.config.vocabulary import embedding_rows
from pretrain_trainer.environment import prepare_environment
from pretrain_trainer.listeners.listener import Listener, StepMeasures
from pretrain_trainer.plan import read_inputs

VOCABULARY = 32_000
"""Of random tokens: Llama 2's."""
HELD_OUT = 10_000
"""Random tokens that are called held-out: training asks for some, and nothing here reads them."""
MATMULS = 20
TERA = 1e12


@dataclass(frozen=True)
class Default:
    """What a device is given unless the options say otherwise."""

    sequence_length: int
    micro_batch: int
    matmul: int
    """Rows and columns of the matrices."""


DEFAULTS = {"cuda": Default(4096, 4, 8192), "cpu": Default(256, 2, 512)}


@dataclass(frozen=True)
class Measured:
    """What a training of `steps` steps showed after its warm-up."""

    device: str
    steps: int
    seconds: float
    """Of all steps together, from one synchronization of the device to another."""
    step_seconds: float
    """Median."""
    data_wait_seconds: float
    """Median."""
    first_loss: float
    """Of the first step of all, in nats per token."""
    last_loss: float
    peak_bytes: int
    """Tensors at their most, and what CUDA holds besides; on CPU the process's resident memory at its most."""
    reserved_bytes: int | None
    """What torch's allocator held at its most, so with fragmentation; None on CPU."""
    matmul_flops_per_second: float
    """Of one bf16 matmul; median."""


def main(arguments: Sequence[str]) -> int:
    options = parse_options(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="pretrain-gpu-") as name:
            folder = Path(name)
            storage = given_storage(options.storage) if options.storage else random_storage(folder, options)
            job = job_of(options, storage)
            rows = embedding_rows(job.spec.model, read_inputs(storage).tokenizer_facts.vocab_size)
            needed = estimate(setup_of(job.spec.training, job.spec.model.dimensions(), rows))
            prepare_environment(job.spec.training, 1)
            available = available_bytes(options, needed)
            found = result(options, job, rows, needed, available, measure(options, job, storage, folder, needed))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped:
        return EXIT_STOPPED
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    print(needed.table(), table(found), f"written to {options.output}", sep="\n\n")
    return 0


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_7b", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="llama2-7b", help="shape of the model (llama2-7b)")
    parser.add_argument("--device", choices=sorted(DEFAULTS), default="cuda", help="where to train (cuda)")
    parser.add_argument("--steps", type=_positive, default=50, help="steps that are measured (50)")
    parser.add_argument("--warm-up", type=_positive, default=3, metavar="STEPS", help="steps before them (3)")
    parser.add_argument("--sequence-length", type=_positive, metavar="TOKENS", help="(4096; on cpu 256)")
    parser.add_argument("--micro-batch", type=_positive, metavar="SEQUENCES", help="held at once (4; on cpu 2)")
    parser.add_argument("--accumulation", type=_positive, default=1, metavar="N", help="micro-batches of a step (1)")
    parser.add_argument("--matmul", type=_positive, metavar="N", help="size of the square matmul (8192; on cpu 512)")
    parser.add_argument("--storage", type=Path, metavar="FOLDER", help="take its tokens, not random ones")
    parser.add_argument(
        "--datasheet-tflops", type=float, metavar="RATE", help="the device's dense bf16 rate as its maker gives it, for MFU"
    )
    parser.add_argument("--output", type=Path, default=Path("build/gpu_7b.json"), metavar="FILE", help="(build/gpu_7b.json)")
    options = parser.parse_args(arguments)
    default = DEFAULTS[options.device]
    options.sequence_length = options.sequence_length or default.sequence_length
    options.micro_batch = options.micro_batch or default.micro_batch
    options.matmul = options.matmul or default.matmul
    options.step_tokens = options.sequence_length * options.micro_batch * options.accumulation
    options.tokens = options.step_tokens * (options.warm_up + options.steps)
    return options


def job_of(options: argparse.Namespace, storage: Storage) -> Job[TrainerSpec]:
    """The job that is trained: AdamW, bf16, activations computed again, one process."""
    training = {
        "tokens": options.tokens,
        "maxEpochs": 100_000,
        "sequenceLength": options.sequence_length,
        "globalBatchTokens": options.step_tokens,
        "microBatchSize": options.micro_batch,
        "schedule": {"warmupSteps": options.warm_up},
        "precision": "bf16",
        "activationCheckpointing": True,
        "gpusPerNode": int(options.device == "cuda"),
        "deepspeed": {"zeroStage": 1},
    }
    spec = {"storage": {"uri": storage.uri}, "model": {"preset": options.preset}, "training": training}
    job = {"metadata": {"name": "gpu-7b"}, "spec": {**spec, "evaluation": {}, "export": {}}}
    parsed: Job[TrainerSpec] = parse(Job[TrainerSpec], job, "options")
    return parsed


def random_storage(folder: Path, options: argparse.Namespace) -> Storage:
    """A storage folder with as many random tokens as the run takes."""
    import numpy as np

    ids = np.random.default_rng(0).integers(0, VOCABULARY, options.tokens + 1 + HELD_OUT)
    return leave_tokens(folder, ids[:-HELD_OUT], ids[-HELD_OUT:], VOCABULARY)


def leave_tokens(folder: Path, train: Any, held_out: Any, vocabulary: int) -> Storage:
    """A storage folder in `folder` with those tokens (arrays of integers), in the form in which preprocessing leaves them."""
    storage = open_folder(folder / "storage")
    outputs = []
    for split, ids in (("train", train), ("held-out", held_out)):
        ids.astype("<u2").tofile(folder / "shard")
        outputs.append(put_output(storage, folder / "shard", f"tokens/{split}/random/00000.ds"))
    tokenizer = {"vocab_size": vocabulary, "sha256": "0" * 64, "end_of_text": "<|endoftext|>", "end_of_text_id": 0}
    counts = {"train_tokens": len(train), "held_out_tokens": len(held_out), "held_out_bytes": len(held_out)}
    tokens = {**counts, "dtype": "uint16", "tokenizer_sha256": "0" * 64, "sources": {"random": counts}}
    leave_part(storage, Part(stage="tokenizer", index=0, identity="benchmark", facts=tokenizer))
    leave_part(storage, Part(stage="tokenize", index=0, identity="benchmark", outputs=tuple(outputs), facts=tokens))
    for stage in ("tokenizer", "tokenize"):
        close(storage, stage, "benchmark", None, {}, tasks=1)
    return storage


def stand_alone() -> None:
    """Puts into the environment what torchrun would tell the only process of a run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(alone)


def given_storage(folder: Path) -> Storage:
    """The storage that --storage names. Raises UserError if it is no folder."""
    if not folder.is_dir():
        raise UserError(
            f"--storage: {folder} is no folder; give one with finished stages tokenizer and tokenize, or omit it"
        )
    return open_folder(folder)


def available_bytes(options: argparse.Namespace, needed: Memory) -> int:
    """The device's memory that is free. Raises UserError if there is no device, or too little memory for `needed`."""
    import torch

    asks = f"{options.preset} needs {needed.total / GIB:.1f} GiB"
    if options.device == "cpu":
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    elif torch.cuda.is_available():
        available = torch.cuda.mem_get_info()[0]
    else:
        raise UserError(
            f"--device: cuda, but torch {torch.__version__} finds no CUDA device here; run this where one is ({asks} of its "
            f"memory, by this estimate), or rehearse with --preset tiny --device cpu\n{needed.table()}"
        )
    if not needed.fits(available):
        raise UserError(
            f"--device: {options.device} has {available / GIB:.1f} GiB free, and {asks}; choose a larger device, or a smaller "
            f"--preset, --micro-batch or --sequence-length\n{needed.table()}"
        )
    return available


class Told(Listener):
    """A listener that keeps what it is told of steps."""

    def __init__(self) -> None:
        self.steps: list[StepMeasures] = []

    def step(self, measures: StepMeasures) -> None:
        self.steps.append(measures)


def measure(options: argparse.Namespace, job: Job[TrainerSpec], storage: Storage, folder: Path, needed: Memory) -> Measured:
    """Trains. Raises UserError if the device's memory runs out, Stopped if asked to stop."""
    import torch
    from pretrain_trainer.account import Account
    from pretrain_trainer.batches import Batches
    from pretrain_trainer.course import Pretraining
    from pretrain_trainer.engine import build_engine
    from pretrain_trainer.listeners.choice import listeners_of
    from pretrain_trainer.meter import Meter, StopRequest
    from pretrain_trainer.plan import make_plan
    from pretrain_trainer.ranks import connect, place
    from pretrain_trainer.train import take_step

    stand_alone()
    gpu = options.device == "cuda"
    group = connect(place(), gpus=gpu)
    plan = make_plan(job, storage, 1)
    told, account = Told(), Account()
    listeners = listeners_of(open_folder(folder / "own"), plan, group, folder, None, account, Events({}, sys.stderr))
    course = Pretraining(plan, storage, group)
    batches = Batches(plan, course.samples, group)
    meter = Meter(plan.batch.tokens, [*listeners, told], account)

    def train() -> float:
        engine, request = build_engine(plan, group, course.model, universal=False), StopRequest()
        began = 0.0
        for step in range(1, plan.batch.steps + 1):
            take_step(step, plan, engine, batches, meter, request)
            if meter.stop:
                raise Stopped
            if step in (options.warm_up, plan.batch.steps):
                if gpu:
                    torch.cuda.synchronize()
                ended = time.monotonic()
                began = began or ended
        return ended - began

    try:
        seconds = train()
        meter.settle()
        # The matmul comes last: the device is then as warm as the training left it.
        peak, reserved = _peak(gpu)
        rate = matmul_rate(group.device, options.matmul)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"--micro-batch: {options.micro_batch} of {options.sequence_length} tokens: the device's memory ran out where the "
            f"estimate is {needed.total / GIB:.1f} GiB ({str(error).splitlines()[0]}); choose less"
        ) from None
    finally:
        batches.close()
        meter.publish()()
        meter.close()
        torch.distributed.destroy_process_group()
    measured = told.steps[options.warm_up :]
    return Measured(
        device=torch.cuda.get_device_name() if gpu else "cpu",
        steps=len(measured),
        seconds=seconds,
        step_seconds=statistics.median(step.seconds for step in measured),
        data_wait_seconds=statistics.median(step.data_wait_seconds for step in measured),
        first_loss=told.steps[0].loss,
        last_loss=told.steps[-1].loss,
        peak_bytes=peak,
        reserved_bytes=reserved,
        matmul_flops_per_second=rate,
    )


def _peak(gpu: bool) -> tuple[int, int | None]:
    """Measured.peak_bytes and Measured.reserved_bytes so far."""
    import torch

    if not gpu:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, None
    free, total = torch.cuda.mem_get_info()
    besides = total - free - torch.cuda.memory_reserved()
    return torch.cuda.max_memory_allocated() + besides, torch.cuda.max_memory_reserved()


def matmul_rate(device: Any, size: int) -> float:
    """Floating-point operations per second of a bf16 matmul of random (size, size) matrices: the median of MATMULS."""
    import torch

    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    seconds = _seconds_on_gpu if device.type == "cuda" else _seconds_on_cpu
    taken = [seconds(lambda: torch.matmul(left, right, out=product)) for _ in range(MATMULS + 5)]
    return 2 * size**3 / statistics.median(taken[5:])


def _seconds_on_gpu(work: Callable[[], Any]) -> float:
    import torch

    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    began.record()
    work()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1000


def _seconds_on_cpu(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def result(
    options: argparse.Namespace, job: Job[TrainerSpec], rows: int, needed: Memory, available: int, measured: Measured
) -> dict[str, Any]:
    """Everything that was asked for and measured; bytes, seconds, and floating-point operations per second.

    Operations are those of the model (`Dimensions.flops_per_token`): what activation checkpointing computes again counts
    as time and not as work. mfu is against the datasheet and None without it; matmul_share against the measured matmul.
    """
    import deepspeed
    import torch

    tokens_per_second = measured.steps * options.step_tokens / measured.seconds
    flops_per_token = job.spec.model.dimensions().flops_per_token(rows, options.sequence_length)
    achieved = tokens_per_second * flops_per_token
    sheet = options.datasheet_tflops * TERA if options.datasheet_tflops else None
    return {
        "preset": options.preset,
        "parameters": needed.setup.parameters,
        "tokens": str(options.storage) if options.storage else "random",
        "device": measured.device,
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "deepspeed": deepspeed.__version__},
        "training": job.spec.training.model_dump(mode="json", by_alias=True),
        "warm_up_steps": options.warm_up,
        "steps": measured.steps,
        "seconds": measured.seconds,
        "step_seconds": measured.step_seconds,
        "data_wait_seconds": measured.data_wait_seconds,
        "first_loss": measured.first_loss,
        "last_loss": measured.last_loss,
        "tokens_per_second": tokens_per_second,
        "flops_per_token": flops_per_token,
        "flops_per_second": achieved,
        "matmul": {"size": options.matmul, "dtype": "bf16", "flops_per_second": measured.matmul_flops_per_second},
        "matmul_share": achieved / measured.matmul_flops_per_second,
        "datasheet_flops_per_second": sheet,
        "mfu": achieved / sheet if sheet else None,
        "memory": {
            "free_before_bytes": available,
            "estimate_bytes": needed.total,
            "peak_bytes": measured.peak_bytes,
            "reserved_bytes": measured.reserved_bytes,
            "peak_to_estimate": measured.peak_bytes / needed.total,
        },
    }


def table(found: dict[str, Any]) -> str:
    """The result as lines of text."""
    memory, matmul = found["memory"], found["matmul"]
    reserved = f", {memory['reserved_bytes'] / GIB:.2f} GiB reserved" if memory["reserved_bytes"] else ""
    sheet = (
        f"{found['mfu']:.3f} of {found['datasheet_flops_per_second'] / TERA:.0f} TFLOP/s"
        if found["mfu"]
        else "no rate given"
    )
    lines = {
        "device": f"{found['device']}, torch {found['versions']['torch']}, deepspeed {found['versions']['deepspeed']}",
        "model": f"{found['preset']}, {found['parameters']:,} parameters, {found['tokens']} tokens",
        "steps": f"{found['steps']} after {found['warm_up_steps']}, median {found['step_seconds']:.3f} s",
        "loss": f"{found['first_loss']:.3f} at first, {found['last_loss']:.3f} at last",
        "speed": f"{found['tokens_per_second']:,.0f} tokens/s, {found['flops_per_second'] / TERA:.3g} TFLOP/s",
        "matmul": f"{matmul['flops_per_second'] / TERA:.3g} TFLOP/s, bf16, {matmul['size']} cubed; "
        f"training reaches {found['matmul_share']:.3f} of it",
        "MFU (datasheet)": sheet,
        "memory": f"{memory['peak_bytes'] / GIB:.2f} GiB at most{reserved}; estimate {memory['estimate_bytes'] / GIB:.2f} GiB, "
        f"measured is {memory['peak_to_estimate']:.3f} of it",
    }
    return "\n".join(f"{name:<16} {text}" for name, text in lines.items())


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
