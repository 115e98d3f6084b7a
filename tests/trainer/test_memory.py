"""The memory arithmetic: against the published tables, DeepSpeed's own estimators, and what DeepSpeed and torch really hold."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pretrain_trainer.config.memory import (
    BUCKET_ELEMENTS,
    CPU_RUNTIME_BYTES,
    GIB,
    GPU_RUNTIME_BYTES,
    SUB_GROUP_ELEMENTS,
    Memory,
    Setup,
    estimate,
    model_states,
    setup_of,
)
from pretrain_trainer.config.presets import PRESETS, Dimensions
from pretrain_trainer.config.sections import Training
from pretrain_trainer.model import build_model
from pretrain_trainer.objective import loss_sum
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[2]
STAGES: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)
LLAMA = Setup(PRESETS["llama2-7b"], 32_000, 4096, 1, 2, "bf16", False, 64, True)

# Rajbhandari et al. 2020, table 1 (and figure 1 for 64 devices): GB of model states a device, for stages 0, 1, 2, 3.
PUBLISHED: dict[float, dict[int, tuple[float, ...]]] = {
    7.5e9: {
        1: (120, 120, 120, 120),
        4: (120, 52.5, 41.3, 30),
        16: (120, 35.6, 21.6, 7.5),
        64: (120, 31.4, 16.6, 1.88),
        256: (120, 30.4, 15.4, 0.47),
        1024: (120, 30.1, 15.1, 0.12),
    },
    128e9: {
        4: (2048, 896, 704, 512),
        16: (2048, 608, 368, 128),
        64: (2048, 536, 284, 32),
        256: (2048, 518, 263, 8),
        1024: (2048, 513, 257, 2),
    },
}


@pytest.mark.parametrize(("parameters", "processes"), [(p, n) for p, table in PUBLISHED.items() for n in table])
def test_model_states_are_those_of_the_zero_paper(parameters: float, processes: int) -> None:
    for stage, published in zip(STAGES, PUBLISHED[parameters][processes], strict=True):
        states = _always(int(parameters), stage, processes) / 1e9
        assert states == pytest.approx(published, rel=0.005, abs=0.006)


@pytest.mark.parametrize(
    ("processes", "published"),
    # Llama 2 7B, 6,738,415,616 parameters: 16 P; 4 P + 12 P/N; 2 P + 14 P/N; 16 P/N, in GB, worked out by hand.
    [
        (1, (107.8, 107.8, 107.8, 107.8)),
        (2, (107.8, 67.4, 60.6, 53.9)),
        (4, (107.8, 47.2, 37.1, 27.0)),
        (8, (107.8, 37.1, 25.3, 13.5)),
        (16, (107.8, 32.0, 19.4, 6.74)),
        (32, (107.8, 29.5, 16.4, 3.37)),
        (64, (107.8, 28.2, 15.0, 1.68)),
    ],
)
def test_a_7b_model_on_1_to_64_gpus(processes: int, published: tuple[float, ...]) -> None:
    for stage, gigabytes in zip(STAGES, published, strict=True):
        assert _always(6_738_415_616, stage, processes) / 1e9 == pytest.approx(gigabytes, rel=0.005)


@pytest.mark.parametrize(
    ("nodes", "gpus"),
    [(1, 1), (1, 8), (8, 8)],
)
def test_deepspeeds_estimators_agree(nodes: int, gpus: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Stage 2: the same sum. Stage 3: DeepSpeed counts the largest layer in full, twice in 16 bits, where we count what is
    gathered; and it leaves out the gradients in 16 bits that stage3.py keeps (grad_partitions_flat_buffer), 2 P/N, which
    the test with real engines below sees.
    """
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs_all_cold
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs_all_cold

    parameters, largest, processes = 6_738_415_616, 32_000 * 4096, nodes * gpus
    capsys.readouterr()
    estimate_zero2_model_states_mem_needs_all_cold(parameters, num_gpus_per_node=gpus, num_nodes=nodes)
    (theirs,) = re.findall(r"\|\s+([\d.]+)GB \| offload_optimizer=none", capsys.readouterr().out)
    ours = sum(term.bytes for term in model_states(parameters, 2, "bf16", processes))
    assert ours / GIB == pytest.approx(float(theirs), abs=0.01)

    estimate_zero3_model_states_mem_needs_all_cold(parameters, largest, num_gpus_per_node=gpus, num_nodes=nodes)
    theirs = re.findall(r"\|\s+([\d.]+)GB \| offload_param=none, offload_optimizer=none", capsys.readouterr().out)[0]
    ours = sum(term.bytes for term in model_states(parameters, 3, "bf16", processes))
    all_at_once = 4 * max(0, -(-parameters // processes) - SUB_GROUP_ELEMENTS)
    assert (ours + all_at_once + 4 * largest - 2 * parameters / processes) / GIB == pytest.approx(float(theirs), abs=0.01)


@pytest.mark.slow
def test_deepspeed_holds_what_the_terms_say() -> None:
    """Two real processes, every ZeRO stage, the trainer's own model, optimizer and configuration."""
    shape = Dimensions(512, 1376, 2, 8, 8, 10_000.0, 1e-5, False)
    setups = [Setup(shape, 2000, 16, 1, stage, "bf16", False, 2, False) for stage in STAGES]
    setups += [Setup(shape, 2000, 16, 1, stage, "fp32", False, 2, False) for stage in (STAGES[0], STAGES[2])]
    measured = _probe(setups)
    for setup, held in zip(setups, measured, strict=True):
        terms = {term.name: term.bytes for term in estimate(setup).terms}
        bucket = setup.width * BUCKET_ELEMENTS if setup.zero_stage == 3 else 0  # allocated, but hardly written to
        persistent = setup.width * 5 * shape.hidden_size if setup.zero_stage == 3 else 0  # small ones stay gathered: norms
        states = terms["parameters"] + terms.get("master weights", 0) + terms["AdamW's moments"] + bucket + persistent
        gradients = terms["gradients"]
        if setup.zero_stage == 1:  # measured where they have been reduced; before, all of them are there
            gradients //= setup.world_size
        if setup.zero_stage == 3:  # a buffer that stays
            states += gradients
            gradients = 0
        where = f"ZeRO {setup.zero_stage}, {setup.precision}"
        assert held["after_step"] == pytest.approx(states, rel=0.01), where
        assert held["after_backward"] == pytest.approx(states + gradients, rel=0.01), where
        stepping = states + gradients + terms.get("gradients in fp32", 0)
        assert held["in_step"] == pytest.approx(stepping, rel=0.01), where
        if "weights in fp32" in terms:
            assert held["made"] == pytest.approx(terms["weights in fp32"], rel=0.01), where


@pytest.mark.parametrize("vocab_size", [512, 4_096])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_backward_pass_holds_what_the_terms_say(
    vocab_size: int, precision: Literal["bf16", "fp32"], checkpointing: bool
) -> None:
    """The most that is alive at any time of a forward and backward pass, operation by operation.

    It is where the logits are, but with checkpointing and a small vocabulary where a layer is computed again; there the
    gradients on their way are known less exactly.
    """
    shape = Dimensions(256, 688, 4, 8, 4, 10_000.0, 1e-5, False)
    setup = Setup(shape, vocab_size, 128, 2, 0, precision, checkpointing, 1, False)
    memory = estimate(setup)
    exact = any(term.name == "logits" for term in memory.terms)
    assert exact or (checkpointing and vocab_size == 512)
    share = _peak(setup) / memory.of("backward")
    assert share == pytest.approx(1, abs=0.005) if exact else 0.9 < share <= 1


def test_what_is_needed_is_the_larger_of_backward_and_step() -> None:
    memory = estimate(LLAMA)
    assert memory.total == memory.of("always") + memory.of("backward")
    stepping = estimate(replace(LLAMA, zero_stage=0, sequence_length=128, world_size=1))
    assert stepping.total == stepping.of("always") + stepping.of("step")
    starting = estimate(replace(LLAMA, activation_checkpointing=True, sequence_length=128))
    assert starting.total == 4 * LLAMA.parameters
    assert _term(memory, "runtime") == GPU_RUNTIME_BYTES
    assert _term(memory, "gradient bucket") == 2 * BUCKET_ELEMENTS


def test_in_main_memory_only_what_is_written_to_counts() -> None:
    memory = estimate(replace(LLAMA, shape=PRESETS["tiny"], gpus=False))
    assert _term(memory, "gradient bucket") == 2 * memory.setup.parameters
    assert _term(memory, "runtime") == CPU_RUNTIME_BYTES


def test_more_sharding_and_smaller_batches_never_need_more() -> None:
    for stage in STAGES:
        totals = [estimate(replace(LLAMA, zero_stage=stage, world_size=2**n)).total for n in range(7)]
        assert totals == sorted(totals, reverse=True)
    for stage in STAGES:
        totals = [estimate(replace(LLAMA, zero_stage=stage, micro_batch=size)).total for size in range(1, 9)]
        assert totals == sorted(totals)
    states = [estimate(replace(LLAMA, zero_stage=stage)).of("always") for stage in STAGES[:3]]
    assert states == sorted(states, reverse=True)


@pytest.mark.parametrize(
    ("setup", "device", "remedy"),
    [
        (replace(LLAMA, micro_batch=4), 80 * GIB, "set training.microBatchSize to 2, or"),
        (LLAMA, 32 * GIB, "set training.activationCheckpointing to true"),
        (replace(LLAMA, zero_stage=1, world_size=8), 60 * GIB, "or set training.deepspeed.zeroStage to 2, or"),
        (
            replace(LLAMA, zero_stage=3, world_size=4, activation_checkpointing=True),
            24 * GIB,
            "train on 8 GPUs (training.nodes x training.gpusPerNode)",
        ),
        (
            replace(LLAMA, world_size=1, micro_batch=2),
            40 * GIB,
            "set training.microBatchSize to 1, training.activationCheckpointing to true, training.deepspeed.zeroStage to 3, "
            "and train on 4 GPUs (training.nodes x training.gpusPerNode)",
        ),
        (LLAMA, 4 * GIB, "take devices with more memory, or a smaller model: no sharding makes this one fit"),
        (
            replace(LLAMA, world_size=1, zero_stage=3, micro_batch=1, activation_checkpointing=True, gpus=False),
            52 * GIB,
            "train on 4 processes (training.nodes x training.processesPerNode)",
        ),
    ],
)
def test_the_remedy_is_the_least_change(setup: Setup, device: int, remedy: str) -> None:
    assert not estimate(setup).fits(device)
    assert remedy in estimate(setup).remedy(device)


def test_the_table_adds_up() -> None:
    memory = estimate(LLAMA)
    *rows, last = memory.table().splitlines()
    assert [row.split("  ")[0] for row in rows] == [term.name for term in memory.terms]
    shown = sum(float(re.findall(r"([\d.]+) GiB", row)[0]) for row in rows if "always" in row or "in backward" in row)
    assert float(re.findall(r"([\d.]+) GiB", last)[0]) == pytest.approx(shown, abs=0.05)


def test_a_jobs_setup_follows_its_training() -> None:
    training = Training.model_validate(
        {"tokens": 10**9, "globalBatchTokens": 4_194_304, "sequenceLength": 4096, "nodes": 8, "gpusPerNode": 8}
    )
    setup = setup_of(training, PRESETS["llama2-7b"], 32_000)
    assert setup == replace(LLAMA, micro_batch=2)


def _always(parameters: int, stage: Literal[0, 1, 2, 3], processes: int) -> int:
    return sum(term.bytes for term in model_states(parameters, stage, "bf16", processes) if term.phase == "always")


def _term(memory: Memory, name: str) -> int:
    return sum(term.bytes for term in memory.terms if term.name == name)


def _probe(setups: list[Setup]) -> list[dict[str, int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command += ["--master-port", str(port), "-m", "tests.trainer.memory_probe", json.dumps([asdict(s) for s in setups])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line.removeprefix("PROBE ")) for line in done.stdout.splitlines() if line.startswith("PROBE ")]


def _peak(setup: Setup) -> int:
    """Bytes, besides parameters and their gradients, that are alive at most in a forward and backward pass."""
    dtype = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    model = build_model("llama", setup.shape, setup.vocab_size).to(dtype).train()
    if setup.activation_checkpointing:
        model.recompute_activations()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tokens = torch.zeros((setup.micro_batch, setup.sequence_length), dtype=torch.int64)
    with Alive() as alive:
        loss_sum(model(tokens), tokens).backward()  # type: ignore[no-untyped-call]
    peak: int = alive.peak
    return peak


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: dict[int, tuple[Any, int]] = {}
        self.peak: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in before:
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        gone = [key for key, (storage, _) in self.storages.items() if storage.expired()]
        for key in gone:
            del self.storages[key]
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return made
