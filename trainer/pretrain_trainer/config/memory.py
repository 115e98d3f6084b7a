"""Bytes that one training process needs on its device, with the arithmetic shown. Pure; nothing is measured here.

Terms are of four kinds: what is there all the time, what a backward pass adds, what an optimizer step adds, and the weights
while they are made. A process needs the first and the larger of the next two, and room for the last at the start.

Model states follow ZeRO (Rajbhandari et al. 2020, section 3.1): with N processes and P parameters in bf16, AdamW keeps
16 P at stage 0, 4 P + 12 P/N at 1, 2 P + 14 P/N at 2, 16 P/N at 3. DeepSpeed adds to that a copy of the gradients in fp32
while it steps, a bucket of fixed size, and at stage 3 the parameters that are gathered at the time. Activations follow the
method of Korthikanti et al. 2022, section 4 (count what each operation keeps for its backward pass), applied to our
decoder; attention by SDPA keeps no matrix of sequence x sequence. Of other families the activations are not counted.
Fragmentation of the device's memory is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pretrain_trainer.config.batch import batch_of
from pretrain_trainer.config.presets import Dimensions
from pretrain_trainer.config.sections import Training

GIB = 2**30

BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's reduce_bucket_size: its buffer for gradients on their way, allocated whole whatever the model's size."""
LIVE_PARAMETERS = 1_000_000_000
"""DeepSpeed's stage3_max_live_parameters: most parameters that ZeRO 3 keeps gathered."""
SUB_GROUP_ELEMENTS = 1_000_000_000
"""DeepSpeed's sub_group_size: most parameters that ZeRO 3 steps at once."""
GPU_RUNTIME_BYTES = GIB
"""Allowance for the CUDA context, cuBLAS workspaces and NCCL buffers."""
CPU_RUNTIME_BYTES = GIB // 2
"""Allowance for Python, torch and DeepSpeed in main memory; 0.25 GiB were seen after their import."""
MOST_PROCESSES = 4096

_ZERO_STAGES: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)

Phase = Literal["always", "backward", "step", "start"]


@dataclass(frozen=True)
class Term:
    """One summand: bytes, and the arithmetic that they come from."""

    name: str
    phase: Phase
    bytes: int
    arithmetic: str


@dataclass(frozen=True)
class Setup:
    """What the memory of a process follows from."""

    shape: Dimensions
    vocab_size: int
    """Rows of the embedding."""
    sequence_length: int
    micro_batch: int
    zero_stage: Literal[0, 1, 2, 3]
    precision: Literal["bf16", "fp32"]
    activation_checkpointing: bool
    world_size: int
    gpus: bool

    @property
    def parameters(self) -> int:
        return self.shape.parameters(self.vocab_size)

    @property
    def width(self) -> int:
        """Bytes of a number in the model's own arithmetic."""
        return 2 if self.precision == "bf16" else 4


@dataclass(frozen=True)
class Memory:
    """The bytes that one process needs."""

    setup: Setup
    terms: tuple[Term, ...]

    @property
    def total(self) -> int:
        """The most that is needed at any time."""
        return max(self.of("start"), self.of("always") + max(self.of("backward"), self.of("step")))

    def of(self, *phases: Phase) -> int:
        """Bytes of the terms of these phases."""
        return sum(term.bytes for term in self.terms if term.phase in phases)

    def fits(self, device_bytes: int) -> bool:
        """Whether a device of that many bytes is large enough."""
        return self.total <= device_bytes

    def remedy(self, device_bytes: int) -> str:
        """What to change so that a process fits into `device_bytes`: one thing, if that is enough, else several."""
        alone = [
            next((words for words, setup in changes if estimate(setup).fits(device_bytes)), None)
            for changes in _changes(self.setup)
        ]
        if any(alone):
            return ", or ".join(words for words in alone if words)
        for words, setup in _combinations(self.setup):
            if estimate(setup).fits(device_bytes):
                return words
        return "take devices with more memory, or a smaller model: no sharding makes this one fit"

    def table(self) -> str:
        """The terms with their arithmetic, for people."""
        width = max(len(term.name) for term in self.terms)
        lines = [
            f"{term.name:<{width}}  {term.bytes / GIB:>8.2f} GiB  {_WHEN[term.phase]:<12}  {term.arithmetic}"
            for term in self.terms
        ]
        always, backward, step, start = (f"{self.of(phase) / GIB:.2f}" for phase in _WHEN)
        total = f"max({always} + max({backward}, {step}), {start})"
        return "\n".join([*lines, f"{'needed':<{width}}  {self.total / GIB:>8.2f} GiB  {'at most':<12}  {total}"])


_WHEN: dict[Phase, str] = {
    "always": "always",
    "backward": "in backward",
    "step": "in the step",
    "start": "at the start",
}


def estimate(setup: Setup) -> Memory:
    """The memory of one process."""
    return Memory(setup, tuple(_terms(setup)))


def setup_of(training: Training, shape: Dimensions, vocab_size: int) -> Setup:
    """What a job's training comes to, for a model with that many rows in its embedding.

    Raises ValueError if its batch does not divide.
    """
    return Setup(
        shape=shape,
        vocab_size=vocab_size,
        sequence_length=training.sequence_length,
        micro_batch=batch_of(training).micro,
        zero_stage=training.deepspeed.zero_stage,
        precision=training.precision,
        activation_checkpointing=training.activation_checkpointing,
        world_size=training.world_size,
        gpus=training.gpus_per_node > 0,
    )


def model_states(
    parameters: int, zero_stage: Literal[0, 1, 2, 3], precision: Literal["bf16", "fp32"], world_size: int
) -> Iterator[Term]:
    """Parameters, gradients and optimizer state, as DeepSpeed 0.19 keeps them when torch's AdamW is handed to it."""
    width = 2 if precision == "bf16" else 4

    def term(name: str, phase: Phase, each: int, sharded: bool, most: int | None = None) -> Term:
        count = -(-parameters // world_size) if sharded else parameters
        if most is not None and count > most:
            return Term(name, phase, each * most, f"{each} bytes x {most:,} at once")
        shard = f" / {world_size}" if sharded and world_size > 1 else ""
        return Term(name, phase, each * count, f"{each} bytes x {parameters:,}{shard}")

    yield term("parameters", "always", width, sharded=zero_stage >= 3)
    yield term("gradients", "always", width, sharded=zero_stage >= 2)
    if precision == "bf16" or zero_stage >= 1:
        yield term("master weights", "always", 4, sharded=zero_stage >= 1)
    yield term("AdamW's moments", "always", 8, sharded=zero_stage >= 1)
    if precision == "bf16" or zero_stage >= 1:
        most = SUB_GROUP_ELEMENTS if zero_stage >= 3 else None
        yield term("gradients in fp32", "step", 4, sharded=zero_stage >= 1, most=most)


def _terms(setup: Setup) -> Iterator[Term]:
    yield from model_states(setup.parameters, setup.zero_stage, setup.precision, setup.world_size)
    if setup.zero_stage >= 1:
        # Stage 3 keeps its bucket, 1 and 2 make one for each backward pass. Stage 0 flattens less than a step needs anyway.
        phase: Phase = "always" if setup.zero_stage >= 3 else "backward"
        # Of main memory only the pages count that are written to.
        elements = BUCKET_ELEMENTS if setup.gpus else min(BUCKET_ELEMENTS, setup.parameters)
        yield Term("gradient bucket", phase, setup.width * elements, f"{setup.width} bytes x {elements:,}")
    if setup.zero_stage >= 3:
        live = min(setup.parameters, LIVE_PARAMETERS)
        yield Term("gathered parameters", "backward", setup.width * live, f"{setup.width} bytes x {live:,}")
    if setup.shape.family == "llama":
        yield from _activations(setup)
    if setup.precision == "bf16" and setup.zero_stage < 3:
        yield Term("weights in fp32", "start", 4 * setup.parameters, f"4 bytes x {setup.parameters:,}, then made bf16")
    if setup.gpus:
        yield Term("runtime", "always", GPU_RUNTIME_BYTES, "CUDA context, cuBLAS, NCCL: an allowance, not measured")
    else:
        yield _checkpoint_copy(setup)
        yield Term("runtime", "always", CPU_RUNTIME_BYTES, "Python, torch, DeepSpeed: an allowance")


def _checkpoint_copy(setup: Setup) -> Term:
    """The copy that a checkpoint is written from, which stays there for the next. A GPU's is in main memory, where nobody counts."""
    states = model_states(setup.parameters, setup.zero_stage, setup.precision, setup.world_size)
    # Under ZeRO 3 the weights are those of the optimizer, which keeps them in fp32.
    saved = [
        term
        for term in states
        if term.phase == "always" and term.name != "gradients" and (term.name != "parameters" or setup.zero_stage < 3)
    ]
    return Term(
        "copy for a checkpoint", "always", sum(term.bytes for term in saved), " + ".join(term.name for term in saved)
    )


def _activations(setup: Setup) -> Iterator[Term]:
    """What the operations of the decoder keep for their backward pass, and the logits, which are there at its start.

    A layer, for each token: both norms keep their input in fp32, their normalized input and their output (which is the
    input of the matrices after it); attention keeps queries, keys, values, its output and a number a head; SwiGLU keeps
    gate, its activation, up and their product. With checkpointing a layer keeps its input, and when its turn comes holds
    all that again, besides gradients on their way through it; the logits are gone by then, so the larger of the two counts.
    """
    shape, width = setup.shape, setup.width
    hidden, inner, kv = shape.hidden_size, shape.intermediate_size, shape.kv_heads * shape.head_dim
    norm = (4 + 2 * width) * hidden
    layer = 2 * norm + width * (2 * hidden + 2 * kv) + 4 * shape.heads + 4 * width * inner
    kept = width * hidden if setup.activation_checkpointing else layer
    tokens = setup.micro_batch * setup.sequence_length

    def term(name: str, each: int, arithmetic: str) -> Term:
        return Term(name, "backward", tokens * each, f"{tokens:,} tokens x {arithmetic}")

    # In fp32: their log-softmax, its gradient, and their own.
    logits = term("logits", 12 * setup.vocab_size, f"3 x 4 bytes x {setup.vocab_size:,}")
    yield term("activations", shape.layers * kept + norm, f"({shape.layers} layers x {kept:,} + {norm:,}) bytes")
    if setup.activation_checkpointing:
        gradients = width * (2 * hidden + inner)
        again = term("one layer again", layer + gradients, f"({layer:,} + {gradients:,}) bytes")
        yield max(logits, again, key=lambda either: either.bytes)
    else:
        yield logits


def _changes(setup: Setup) -> Iterator[Iterator[tuple[str, Setup]]]:
    """For each thing that can be changed alone, its changes from the least on."""
    micro = setup.micro_batch
    smaller = (divisor for divisor in range(micro - 1, 0, -1) if micro % divisor == 0)
    yield ((f"set training.microBatchSize to {size}", replace(setup, micro_batch=size)) for size in smaller)
    if not setup.activation_checkpointing:
        yield iter([("set training.activationCheckpointing to true", replace(setup, activation_checkpointing=True))])
    yield ((f"set training.deepspeed.zeroStage to {stage}", replace(setup, zero_stage=stage)) for stage in _higher(setup))
    if setup.zero_stage > 0:
        yield ((_on(changed), changed) for changed in _more_processes(setup))


def _combinations(setup: Setup) -> Iterator[tuple[str, Setup]]:
    """Several changes at once, from the least on: what costs only time, then sharding, then more processes."""
    small = replace(setup, micro_batch=1, activation_checkpointing=True)
    words = "set training.microBatchSize to 1, training.activationCheckpointing to true"
    yield words, small
    for stage in _higher(setup):
        yield f"{words}, training.deepspeed.zeroStage to {stage}", replace(small, zero_stage=stage)
    for changed in _more_processes(replace(small, zero_stage=3)):
        yield f"{words}, training.deepspeed.zeroStage to 3, and {_on(changed)}", changed


def _higher(setup: Setup) -> Iterator[Literal[0, 1, 2, 3]]:
    """The ZeRO stages that shard more."""
    return (stage for stage in _ZERO_STAGES if stage > setup.zero_stage)


def _more_processes(setup: Setup) -> Iterator[Setup]:
    count = 2 * setup.world_size
    while count <= MOST_PROCESSES:
        yield replace(setup, world_size=count)
        count *= 2


def _on(setup: Setup) -> str:
    if setup.gpus:
        return f"train on {setup.world_size} GPUs (training.nodes x training.gpusPerNode)"
    return f"train on {setup.world_size} processes (training.nodes x training.processesPerNode)"
