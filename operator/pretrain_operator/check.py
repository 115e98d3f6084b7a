"""Whether a job can work: what can be known before anything heavy starts, with the arithmetic shown.

`arithmetic` is pure: a job and its surroundings give findings. What only sources, storage and tokenizer themselves can
tell is the first stage's task (preflight), which `pretrain check` runs as well.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Finetune
from pretrain_trainer.config.batch import Batch, batch_of
from pretrain_trainer.config.memory import GIB, Memory, estimate, model_states, setup_of
from pretrain_trainer.config.sections import Checkpoints
from pretrain_trainer.config.vocabulary import embedding_rows

from pretrain_operator.api import PretrainJob
from pretrain_operator.quantity import amount, mebibytes

TOKENS_PER_PARAMETER = 20
"""Roughly where a given amount of arithmetic gives the lowest loss (Hoffmann et al. 2022)."""

ASSUMED_MFU = 0.4
"""Model FLOPs utilization that estimates assume. Llama 3 405B was trained at 38 to 43 % (Grattafiori et al. 2024, table 4)."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `ok` is None for what cannot be known here, or does not count."""

    name: str
    ok: bool | None
    message: str
    """What was found; if it is wrong, with field, value and remedy."""
    details: tuple[str, ...] = ()
    """The arithmetic, line by line."""

    def json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "message": self.message, "details": list(self.details)}


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Surroundings:
    """Where the job would run. What is None is not known, or does not count."""

    cores: int | None = None
    memory: int | None = None
    """Main memory of the machine that all processes run on, in bytes; None for a cluster."""
    gpus: tuple[Gpu, ...] | None = None
    """GPUs that programs see."""
    gpus_chosen: bool = False
    """Whether the user has chosen them by CUDA_VISIBLE_DEVICES."""
    gpu_memory: int | None = None
    """Memory of the GPU that the user plans for, in bytes."""
    tokenizer_entries: int | None = None
    """Entries of the tokenizer at tokenizer.uri."""
    disk_free: int | None = None
    """Bytes free where storage.uri is a folder."""
    checkpoint_bytes: int = 0
    """Bytes of the checkpoints that are there already."""


def arithmetic(job: PretrainJob, around: Surroundings) -> list[Finding]:
    """Everything that follows from the job and its surroundings alone. All faults, not only the first."""
    batch, batch_finding = _batch(job)
    rows, vocabulary = _vocabulary(job, around)
    findings = [vocabulary, batch_finding]
    if batch is not None:
        findings.append(_warmup(job, batch))
        findings.append(_checkpoints(job, batch))
    if rows is not None:
        findings.append(_tokens(job, rows))
        findings.append(_disk(job, rows, batch, around))
    if batch is not None and rows is not None:
        shape = job.spec.model.dimensions(job.spec.training)
        findings.append(_memory(job, estimate(setup_of(job.spec.training, shape, rows)), around))
    findings += _processes(job, around)
    if batch is not None and rows is not None:
        findings += _cost(job, batch, rows)
    findings += [_task(task, rows, job, around) for task in job.spec.finetune]
    return findings


def faults(findings: list[Finding]) -> list[str]:
    """The messages of what is wrong."""
    return [finding.message for finding in findings if finding.ok is False]


def _vocabulary(job: PretrainJob, around: Surroundings) -> tuple[int | None, Finding]:
    """Rows of the embedding, if they can be known, and what there is to say."""
    model, tokenizer = job.spec.model, job.spec.tokenizer
    shape = model.dimensions(job.spec.training)
    entries = tokenizer.train.vocab_size if tokenizer.train else around.tokenizer_entries
    if entries is None and model.vocab_size is None:
        return None, Finding("model", None, f"parameters follow from the vocabulary of {tokenizer.uri}, not known yet")
    if entries is None:
        assert model.vocab_size is not None, "the case before"
        rows = model.vocab_size
    else:
        try:
            rows = embedding_rows(model, entries)
        except ValueError as error:
            return None, Finding("model", False, f"spec.{error}")
    layers = f"{shape.encoder_layers} + {shape.layers}" if shape.encoder_layers else f"{shape.layers}"
    grouped = f" ({shape.kv_heads} for keys and values), SwiGLU" if shape.family == "llama" else ", feed-forward"
    described = (
        f"{shape.family}: {layers} layers x {shape.hidden_size} wide, {shape.heads} heads{grouped} {shape.intermediate_size}, embedding {rows:,} x {shape.hidden_size}"
        f"{', tied' if shape.tie_embeddings else ' twice'}"
    )
    return rows, Finding("model", True, f"{shape.parameters(rows):,} parameters", (described,))


def _batch(job: PretrainJob) -> tuple[Batch | None, Finding]:
    training = job.spec.training
    try:
        batch = batch_of(training)
    except ValueError as error:
        return None, Finding("batch", False, f"spec.{error}")
    return batch, Finding(
        "batch",
        True,
        f"{batch.steps:,} steps of {batch.tokens:,} tokens",
        (
            f"{batch.samples} samples x {batch.sequence_length} tokens = {batch.tokens:,} tokens",
            f"{batch.samples} samples = {batch.micro} a micro-batch x {batch.accumulation} accumulated x "
            f"{batch.world_size} processes",
            f"{training.tokens:,} tokens / {batch.tokens:,} = {batch.steps:,} steps (the last one whole)",
        ),
    )


def _warmup(job: PretrainJob, batch: Batch) -> Finding:
    schedule = job.spec.training.schedule
    if schedule.warmup_steps > batch.steps:
        return Finding(
            "schedule",
            False,
            f"spec.training.schedule.warmupSteps: {schedule.warmup_steps:,} is more than the {batch.steps:,} steps of training, so "
            "the learning rate would never be reached; lower it, or raise training.tokens",
        )
    return Finding("schedule", True, f"{schedule.kind}, {schedule.warmup_steps:,} of {batch.steps:,} steps warm up")


def _checkpoints(job: PretrainJob, batch: Batch) -> Finding:
    every = job.spec.training.checkpoints.every_steps
    if every >= batch.steps:
        return Finding(
            "checkpoints", None, f"only one, at the end: everySteps is {every:,}; a killed training begins again at step 0"
        )
    return Finding("checkpoints", True, f"every {every:,} of {batch.steps:,} steps")


def _tokens(job: PretrainJob, rows: int) -> Finding:
    parameters = job.spec.model.dimensions(job.spec.training).parameters(rows)
    ratio = job.spec.training.tokens / parameters
    return Finding(
        "tokens",
        True,
        f"{ratio:,.2g} tokens a parameter",
        (
            f"{job.spec.training.tokens:,} tokens / {parameters:,} parameters; the lowest loss for a given amount of "
            f"arithmetic is near {TOKENS_PER_PARAMETER} (Hoffmann et al. 2022)",
        ),
    )


def _memory(job: PretrainJob, memory: Memory, around: Surroundings) -> Finding:
    """Bytes of one process against its GPU, or on CPU against its share of this machine's memory, or of its pod's."""
    details = tuple(memory.table().splitlines())
    training = job.spec.training
    if job.spec.model.family != "llama":
        states = f"{memory.of('always') / GIB:.1f} GiB a process for weights and optimizer"
        return Finding("memory", None, f"{states}; activations are estimated for family llama only", details)
    needed = f"{memory.total / GIB:.1f} GiB a process"
    instead = ""
    if not training.gpus_per_node and around.memory is None:
        limit = mebibytes(training.resources.memory) * 2**20
        name, device = f"training.resources.memory for each of {training.processes} processes", limit // training.processes
        instead = "raise training.resources.memory, or "
    elif not training.gpus_per_node:
        assert around.memory is not None, "the case before"
        name, device = f"main memory for each of {training.world_size} processes", around.memory // training.world_size
    elif around.gpu_memory is not None:
        name, device = "planned GPU", around.gpu_memory
    elif around.gpus:
        smallest = min(around.gpus, key=lambda gpu: gpu.bytes)
        name, device = smallest.name, smallest.bytes
    else:
        return Finding("memory", None, f"{needed}; no GPU is known here, give its size with --gpu-memory", details)
    if memory.fits(device):
        return Finding("memory", True, f"{needed} of {device / GIB:.1f} GiB ({name})", details)
    return Finding(
        "memory",
        False,
        f"spec.training: {needed} needed, but there are {device / GIB:.1f} GiB ({name}); {instead}{memory.remedy(device)}",
        details,
    )


def _disk(job: PretrainJob, rows: int, batch: Batch | None, around: Surroundings) -> Finding:
    """Space for the checkpoints that are there at one time, and the export."""
    training, parameters = job.spec.training, job.spec.model.dimensions(job.spec.training).parameters(rows)
    states = model_states(parameters, training.deepspeed.zero_stage, training.precision, world_size=1)
    one = sum(term.bytes for term in states if term.phase == "always" and term.name != "gradients")
    parts = _kept(training.checkpoints, batch.steps if batch is not None else 0)
    kept = sum(parts.values())
    export = parameters * (2 if job.spec.export.precision == "bf16" else 4)
    needed = one * kept + export
    details = (
        f"{kept} checkpoints ({', '.join(f'{number} {which}' for which, number in parts.items())}) x {size(one)} + export "
        f"{size(export)} = {size(needed)}",
    )
    if around.disk_free is None:
        return Finding("disk", None, f"{size(needed)} for checkpoints and export", details)
    room = around.disk_free + around.checkpoint_bytes
    if needed > room:
        return Finding(
            "disk",
            False,
            f"spec.storage.uri: {job.spec.storage.uri} has {size(room)} for checkpoints and export, which need {size(needed)}; free "
            "some space, choose another folder, or keep fewer checkpoints (training.checkpoints)",
            details,
        )
    return Finding("disk", True, f"{size(needed)} of {size(room)} for checkpoints and export", details)


def _kept(policy: Checkpoints, steps: int) -> dict[str, int]:
    """How many checkpoints there are at most at one time, by why."""
    parts = {"kept": policy.keep_last, "gone on from": 1, "being written": 1}
    if policy.keep_every_steps is not None:
        parts["of every so many steps"] = steps // math.lcm(policy.keep_every_steps, policy.every_steps)
    return parts | ({"the best": 1} if policy.keep_best else {})


def _cost(job: PretrainJob, batch: Batch, rows: int) -> Iterator[Finding]:
    """How long training will hold its GPUs, and what that costs, at the utilization that is assumed."""
    training, price = job.spec.training, job.spec.cost.price_per_gpu_hour
    if not training.gpus_per_node:
        if price is not None:
            yield Finding("cost", True, "0: spec.training.gpusPerNode is 0, and CPU time is not counted")
        return
    shape, tokens = job.spec.model.dimensions(job.spec.training), batch.steps * batch.tokens
    each = shape.flops_per_token(rows, batch.sequence_length)
    needed = f"{each:.3g} operations a token (PaLM, appendix B) x {tokens:,} tokens = {each * tokens:.3g}"
    if training.peak_teraflops is None:
        message = (
            f"training takes {each * tokens:.3g} operations; set training.peakTeraflops, the peak of a GPU, for an estimate"
        )
        yield Finding("cost", None if price is not None else True, message, (needed,))
        return
    gpu_hours = each * tokens / (training.peak_teraflops * 1e12 * ASSUMED_MFU) / 3600
    hours = gpu_hours / training.world_size
    details = (
        needed,
        f"/ ({training.peak_teraflops:g} x 10^12 a second x {ASSUMED_MFU:.0%}, the utilization assumed) = {gpu_hours:,.2f} GPU hours, "
        f"{hours:,.2f} h on {training.world_size} GPUs; starts, restarts, checkpoints and evaluation come on top",
    )
    message = f"about {hours:,.1f} h of training on {training.world_size} GPUs: {gpu_hours:,.1f} GPU hours"
    if price is None:
        yield Finding("cost", True, f"{message}; set cost.pricePerGPUHour to see what they cost", details)
        return
    yield _within_budget(job, gpu_hours * price, f"{message} at {price:g} = {gpu_hours * price:,.2f}", details)


def _within_budget(job: PretrainJob, cost: float, message: str, details: tuple[str, ...]) -> Finding:
    budget = job.spec.cost.budget
    if budget is None or cost <= budget:
        return Finding("cost", True, message, details)
    short = f"{message}; spec.cost.budget: {budget:g} is less, so the job would be suspended before its end; raise it"
    return Finding("cost", None, short, details)


def _processes(job: PretrainJob, around: Surroundings) -> Iterator[Finding]:
    """What the job wants to run at once against what this machine has."""
    corpus, training = job.spec.corpus, job.spec.training
    if around.cores is not None:
        at_once = min(corpus.parallelism, around.cores)
        yield Finding(
            "preprocessing",
            True,
            f"{corpus.tasks:,} tasks, {at_once} at once",
            (f"parallelism {corpus.parallelism:,}, {around.cores} cores here",),
        )
    if training.gpus_per_node:
        yield from _gpus(job, around)
    elif around.cores is not None:
        crowded = training.world_size > around.cores
        yield Finding(
            "training",
            None if crowded else True,
            f"{training.world_size} processes on {around.cores} cores{': they take turns, which is slow' if crowded else ''}",
        )


def _gpus(job: PretrainJob, around: Surroundings) -> Iterator[Finding]:
    training = job.spec.training
    if around.gpus is None:
        return
    if training.world_size > len(around.gpus):
        yield Finding(
            "training",
            False,
            f"spec.training.gpusPerNode: nodes {training.nodes} x gpusPerNode {training.gpus_per_node} = {training.world_size} GPUs, this "
            f"machine has {len(around.gpus)}; lower them, set gpusPerNode to 0 to train on CPU, or check with --cluster",
        )
    elif training.nodes > 1 and around.gpus_chosen:
        yield Finding(
            "training",
            False,
            f"spec.training.nodes: {training.nodes} nodes on one machine share its GPUs out by number, but CUDA_VISIBLE_DEVICES "
            f"has chosen some; unset it, or set nodes to 1 and gpusPerNode to {training.world_size}",
        )
    else:
        yield Finding("training", True, f"{training.world_size} of {len(around.gpus)} GPUs")


def _task(task: Finetune, rows: int | None, job: PretrainJob, around: Surroundings) -> Finding:
    """What fine-tuning for a task comes to. How many examples there are is known when they have been read."""
    name, field = f"finetune {task.name}", f"spec.finetune (name {task.name})"
    if around.gpus is not None and task.gpus > len(around.gpus):
        message = (
            f"{field}.gpus: {task.gpus}, this machine has {len(around.gpus)}; lower it, set it to 0 to train on CPU, or check with "
            "--cluster"
        )
        return Finding(name, False, message)
    most = task.examples.max_train_examples
    steps = (
        f"{task.epochs:g} passes over the examples, {task.batch_size} in a step"
        if most is None
        else f"{math.ceil(task.epochs * max(1, most / task.batch_size)):,} steps of {task.batch_size} examples"
    )
    details = [
        f"{task.world_size} processes, each {task.batch_size // task.world_size} of the examples of a step; with {task.patience} "
        "validations in a row that are no better it ends early"
    ]
    if task.base is not None:
        details.append(f"from {task.base.uri}")
    elif rows is not None:
        begin = "fresh weights of the same shape" if task.from_scratch else "the model of this job"
        details.append(f"from {begin}, {job.spec.model.dimensions(job.spec.training).parameters(rows):,} parameters")
    return Finding(name, True, f"{task.task} by {task.method}: at most {steps}", tuple(details))


def here(job: PretrainJob, cores: int, gpu_memory: int | None) -> Surroundings:
    """This machine."""
    uri = job.spec.storage.uri
    folder = None if uri.startswith("s3://") else Path(uri.removeprefix("file://")).expanduser().absolute()
    return Surroundings(
        cores=cores,
        memory=main_memory(),
        gpus=visible_gpus(os.environ)
        if job.spec.training.gpus_per_node or any(task.gpus for task in job.spec.finetune)
        else (),
        gpus_chosen="CUDA_VISIBLE_DEVICES" in os.environ,
        gpu_memory=gpu_memory,
        tokenizer_entries=tokenizer_entries(job.spec.tokenizer.uri),
        disk_free=None if folder is None else free_bytes(folder),
        checkpoint_bytes=0 if folder is None else bytes_below(folder / "checkpoints"),
    )


def elsewhere(job: PretrainJob, gpu_memory: int | None) -> Surroundings:
    """A cluster, of which only the size of its GPUs can be told."""
    return Surroundings(gpu_memory=gpu_memory, tokenizer_entries=tokenizer_entries(job.spec.tokenizer.uri))


def main_memory() -> int:
    """Bytes of main memory that programs here may use: the machine's, or its container's."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return whole
    return whole if limit == "max" else min(whole, int(limit))


def visible_gpus(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The GPUs that nvidia-smi finds and CUDA_VISIBLE_DEVICES leaves; none without nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in found.splitlines() if line.strip()]
    gpus = [(index, uuid, Gpu(name, int(mebibytes) * 2**20)) for index, uuid, name, mebibytes in rows]
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(gpu for _, _, gpu in gpus)
    visible = []
    for wanted in chosen.split(","):
        match = next((gpu for index, uuid, gpu in gpus if wanted and (wanted == index or uuid.startswith(wanted))), None)
        if match is None:  # as CUDA does: what follows an unknown one does not count
            break
        visible.append(match)
    return tuple(visible)


def tokenizer_entries(uri: str | None) -> int | None:
    """Entries of the tokenizer.json on this machine, special tokens included; None if it cannot be read here."""
    if uri is None or uri.startswith("s3://"):
        return None
    try:
        tokenizer = json.loads(Path(uri.removeprefix("file://")).expanduser().read_bytes())
        vocabulary = tokenizer["model"]["vocab"]
        entries = {entry[0] for entry in vocabulary} if isinstance(vocabulary, list) else set(vocabulary)
        return len(entries | {token["content"] for token in tokenizer.get("added_tokens", [])})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # preflight says what is wrong with it


def free_bytes(folder: Path) -> int | None:
    """Bytes free where the folder is, or would be."""
    for existing in (folder, *folder.parents):
        try:
            return shutil.disk_usage(existing).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def bytes_below(folder: Path) -> int:
    """Bytes of all files below the folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def parse_size(text: str, option: str) -> int:
    """Bytes in "80GiB", "80Gi" or "80GB". Raises UserError that names the option."""
    try:
        number = amount(text.strip().removesuffix("B"))
    except (ValueError, KeyError):
        number = Fraction(0)
    if number < 2**20:
        raise UserError(f"{option}: {text} is no size; write it like 80GiB")
    return int(number)


def size(number: int) -> str:
    """Bytes for people."""
    for unit, bytes_each in (("TiB", 2**40), ("GiB", GIB), ("MiB", 2**20)):
        if number >= bytes_each:
            return f"{number / bytes_each:,.1f} {unit}"
    return f"{number / 1024:,.1f} KiB"
