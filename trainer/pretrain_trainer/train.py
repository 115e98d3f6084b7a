"""The training loop: what each process of a training run does from its first import to its last checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from pretrain_stage.config import Job
from pretrain_stage.events import Events
from pretrain_stage.manifest import Part, close, leave_part
from pretrain_stage.process import Stopped
from pretrain_stage.scratch import private_folder
from pretrain_stage.storage import Storage, open_storage
from torch import Tensor

from pretrain_trainer.account import Account, FurthestStep, leave_account, told_furthest
from pretrain_trainer.batches import Batches, Example
from pretrain_trainer.checkpoint import CheckpointManifest, output_files
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.engine import build_engine, grad_norm
from pretrain_trainer.listeners.choice import listeners_of
from pretrain_trainer.meter import Meter, StopRequest, Taken
from pretrain_trainer.objective import loss_sum
from pretrain_trainer.optimizer import set_learning_rate
from pretrain_trainer.plan import Plan, make_plan
from pretrain_trainer.rank import scratch_name
from pretrain_trainer.ranks import Group, connect, place
from pretrain_trainer.schedule import learning_rate
from pretrain_trainer.snapshot import Resume, Saver, find_resume, load
from pretrain_trainer.tokens import HELD_OUT, TRAIN, TokenStream, bring, open_stream, shard_files, shard_path, token_cache
from pretrain_trainer.validate import HeldOut, held_out, held_out_loss, perplexity


def train(job: Job[TrainerSpec], events: Events, account: Account, record_samples: Path | None = None) -> None:
    """Trains the job's model, or goes on from its newest checkpoint that verifies; leaves the stage's manifest.

    account: where this process's time goes. record_samples: a folder in which each process writes the indices of the samples
    that it takes.
    Raises Stopped after a checkpoint if any process was asked to stop; UserError if the job, its data or its checkpoints
    are wrong, or the loss is no longer a number.
    """
    started = time.monotonic()
    training = job.spec.training
    group = connect(place(), gpus=training.gpus_per_node > 0)
    storage = open_storage(job.spec.storage)
    plan = make_plan(job, storage, group.place.world_size)
    scratch = private_folder(storage) / scratch_name(group.place.node)
    scratch.mkdir(exist_ok=True)  # without a launcher nobody else has
    cache = token_cache(storage, group.place.node)
    text, unseen = (open_tokens(storage, plan, group, cache, split) for split in (TRAIN, HELD_OUT))
    validation = held_out(unseen, training.sequence_length, training.validation.max_sequences)
    resume = find_resume(storage, plan, group, scratch, events)
    _say_plan(plan, group, resume, validation.targets, events)
    final = resume.manifest if resume else None
    if final is None or final.step < plan.batch.steps:
        furthest = _furthest(storage, plan, group, account)
        listeners = listeners_of(storage, plan, group, scratch, resume, account, events)
        meter = Meter(plan.batch.tokens, listeners, account, resume, furthest)
        batches = Batches(plan, text, group, record_samples)
        try:
            final = _loop(plan, group, resume, batches, validation, Saver(storage, plan, group, scratch, resume), meter)
        finally:
            meter.close()
        if furthest is not None:
            furthest.forget()
    account.finishes()
    _finish(storage, plan, group, final, time.monotonic() - started, events)
    if group.place.first:
        leave_account(scratch, account)


def _furthest(storage: Storage, plan: Plan, group: Group, account: Account) -> FurthestStep | None:
    """Tells the account how far earlier attempts came; returns where process 0 notes how far this one comes."""
    if not group.place.first:
        return None
    noted = FurthestStep(private_folder(storage) / "furthest-step", plan.training_key)
    account.furthest = max(told_furthest(), noted.before)
    return noted


def _loop(
    plan: Plan, group: Group, resume: Resume | None, batches: Batches, validation: HeldOut, saver: Saver, meter: Meter
) -> CheckpointManifest:
    """The loop, from where the run begins or goes on; returns the final checkpoint."""
    training, steps = plan.job.spec.training, plan.batch.steps
    engine = build_engine(plan, group, universal=resume is not None and resume.universal)
    if resume is not None:
        load(engine, resume, group)
    request = StopRequest()
    meter.begins()
    for step in range(resume.manifest.step + 1 if resume else 1, steps + 1):
        take_step(step, plan, engine, batches, meter, request)
        if step == steps or step % training.validation.every_steps == 0:
            meter.account.validates(step)
            meter.validation(step, held_out_loss(engine, validation, group.device, group))
        if step == steps or meter.stop or step % training.checkpoints.every_steps == 0:
            meter.settle()
            meter.account.saves()
            meter.publish()
            with meter.failure_counted():
                saved = saver.save(engine, step, meter.measures)
            meter.checkpoint(saved)
        if step < steps and meter.stop:
            meter.publish()
            raise Stopped
    batches.close()
    meter.publish()
    return saved.manifest


def take_step(step: int, plan: Plan, engine: Any, batches: Batches, meter: Meter, request: StopRequest) -> None:
    """One optimizer step: step number `step`, counted from 1."""
    training = plan.job.spec.training
    rate = learning_rate(training.schedule, training.optimizer.learning_rate, step - 1, plan.batch.steps)
    set_learning_rate(engine.optimizer, rate)
    skipped = engine.skipped_steps
    meter.account.waits()
    examples, waited = batches.take(step)
    meter.account.computes(step)
    targets = batches.targets(step)
    loss = _optimize(engine, examples, targets, plan.batch.world_size)
    meter.step(Taken(step, loss, targets, rate, grad_norm(engine), waited, engine.skipped_steps - skipped), request)


def _optimize(engine: Any, examples: list[Example], targets: int, world_size: int) -> Tensor:
    """One optimizer step over this process's micro-batches. Returns the sum of their losses, fp64, on the device.

    The gradient is that of the step's mean loss: all its targets weigh the same, whichever micro-batch or process has them.
    DeepSpeed averages over micro-batches and processes, which is undone here.
    """
    scale = len(examples) * world_size / targets
    total = torch.zeros((), dtype=torch.float64, device=examples[0][0].device)
    for inputs, wanted in examples:
        loss = loss_sum(engine(inputs), wanted)
        engine.backward(loss * scale)
        engine.step()
        total += loss.detach()
    return total


def open_tokens(storage: Storage, plan: Plan, group: Group, cache: Path, split: str) -> TokenStream:
    """The tokens of a split; the processes of a node share the work of bringing them."""
    where = group.place
    files = shard_files(plan.inputs.tokenize, split)
    bring(storage, files[where.local_rank :: where.local_world_size], cache)
    group.wait()
    return open_stream([shard_path(storage, file, cache) for file in files], plan.inputs.token_facts.dtype)


def _say_plan(plan: Plan, group: Group, resume: Resume | None, held_out_targets: int, events: Events) -> None:
    """The arithmetic of the run, before it begins."""
    if not group.place.first:
        return
    batch, training = plan.batch, plan.job.spec.training
    begin = f"going on from step {resume.manifest.step}" if resume else "from the beginning"
    events.info(
        f"{plan.parameters:,} parameters; {batch.steps:,} steps of {batch.samples} x {batch.sequence_length} = "
        f"{batch.tokens:,} tokens; {batch.micro} a micro-batch x {batch.accumulation} accumulated x {batch.world_size} "
        f"processes; {plan.epochs:.2f} passes over {plan.inputs.token_facts.train_tokens:,} tokens; validation on "
        f"{held_out_targets:,} tokens; ZeRO {training.deepspeed.zero_stage}, {training.precision}, {begin}",
        parameters=plan.parameters,
        steps=batch.steps,
        step_tokens=batch.tokens,
        micro_batch=batch.micro,
        accumulation=batch.accumulation,
        world_size=batch.world_size,
        epochs=plan.epochs,
        first_step=resume.manifest.step + 1 if resume else 1,
        first_sample=resume.manifest.next_sample if resume else 0,
    )


def _finish(storage: Storage, plan: Plan, group: Group, final: CheckpointManifest, seconds: float, events: Events) -> None:
    """Leaves the manifest of the stage, whose output is the final checkpoint."""

    def leave() -> None:
        facts = {
            "final_loss": final.measures["loss"],
            "validation_loss": final.measures["validation_loss"],
            "perplexity": perplexity(final.measures["validation_loss"]),
            "steps": final.step,
            "tokens": final.tokens,
            "parameters": plan.parameters,
            "checkpoint": final.folder,
        }
        part = Part(
            stage="train",
            index=0,
            identity=plan.stage_identity,
            outputs=output_files(storage, final),
            facts=facts,
            seconds=seconds,
        )
        leave_part(storage, part)
        close(storage, "train", plan.stage_identity, plan.config, plan.stage_inputs, tasks=1)
        events.say(
            "result", f"trained {final.step:,} steps; validation loss {final.measures['validation_loss']:.4f}", **facts
        )

    group.from_first(leave)
