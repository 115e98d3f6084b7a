"""The training loop: what each process of a training run does from its first import to its last checkpoint."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pretrain_stage.config import Job
from pretrain_stage.events import Events
from pretrain_stage.manifest import Part, close, leave_part
from pretrain_stage.process import ATTEMPT_VARIABLE, Stopped
from pretrain_stage.scratch import private_folder
from pretrain_stage.storage import Storage, open_storage
from pydantic import JsonValue
from torch import Tensor

from pretrain_trainer.account import Account, FurthestStep, leave_account, told_furthest
from pretrain_trainer.batches import Batches, Example
from pretrain_trainer.checkpoint import CheckpointManifest, begin
from pretrain_trainer.commit_log import Attempt
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.course import Course, Pretraining
from pretrain_trainer.engine import build_engine, grad_norm
from pretrain_trainer.finetune.plan import make_finetune_plan, task_storage
from pretrain_trainer.finetune.section import training_of
from pretrain_trainer.listeners.choice import listeners_of
from pretrain_trainer.meter import Meter, StopRequest, Taken
from pretrain_trainer.objective import answers, loss_sum
from pretrain_trainer.optimizer import set_learning_rate
from pretrain_trainer.plan import RunPlan, make_plan
from pretrain_trainer.rank import scratch_name
from pretrain_trainer.ranks import Group, connect, place
from pretrain_trainer.saver import Saver
from pretrain_trainer.schedule import learning_rate
from pretrain_trainer.snapshot import Resume, find_resume, load
from pretrain_trainer.watch.replicas import check_replicas
from pretrain_trainer.watch.rollback import losses_before, roll_back
from pretrain_trainer.watch.spikes import Spikes


def train(
    job: Job[TrainerSpec], events: Events, account: Account, record_samples: Path | None = None, task: str | None = None
) -> None:
    """Trains the job's model, or goes on from its newest checkpoint that verifies; leaves the stage's manifest.

    account: where this process's time goes. record_samples: a folder in which each process writes the indices of the samples
    that it takes. task: of spec.finetune, to fine-tune a model for; None is pretraining.
    Raises Stopped after a checkpoint if any process was asked to stop; UserError if the job, its data or its checkpoints
    are wrong, or the loss is no longer a number.
    """
    started = time.monotonic()
    group = connect(place(), gpus=training_of(job, task).gpus_per_node > 0)
    account.reached("rendezvous")
    storage = open_storage(job.spec.storage)
    course = _course(job, storage, group, task, events)
    account.reached("inputs")
    plan = course.plan
    scratch = _scratch(course.storage, group)
    attempt = group.from_first(lambda: _begin(course))
    resume = find_resume(course.storage, plan, group, scratch, events)
    account.reached("checkpoint")
    _say_plan(course, group, resume, events)
    final = resume.manifest if resume else None
    if final is None or not _is_last(course, final.step, final.measures):
        furthest = _furthest(course.storage, plan, group, account)
        listeners = listeners_of(course.storage, plan, group, scratch, resume, account, events)
        meter = Meter(plan.batch.tokens, listeners, account, resume, furthest, plan.learning_rate_field)
        batches = Batches(plan, course.samples, group, record_samples, attempt.skipped)
        if plan.job.spec.training.faults.loss_spike.action != "ignore":
            meter.spikes = Spikes(
                group.from_first(lambda: losses_before(course.storage, resume.manifest.step if resume else 0))
            )
        try:
            final = _loop(course, group, resume, batches, scratch, attempt, meter)
        finally:
            meter.close()
        if furthest is not None:
            furthest.forget()
    account.finishes()
    _finish(storage, course, group, attempt, final, time.monotonic() - started, events)
    if group.place.first:
        leave_account(scratch, account)


def _course(job: Job[TrainerSpec], storage: Storage, group: Group, task: str | None, events: Events) -> Course:
    """What is learned."""
    if task is None:
        return Pretraining(make_plan(job, storage, group.place.world_size), storage, group)
    from pretrain_trainer.finetune.course import Finetuning

    plan = make_finetune_plan(job, task, storage, group.place.world_size)
    own = task_storage(job.spec.storage, task)
    return Finetuning(plan, storage, own, group, _scratch(own, group), events)


def _begin(course: Course) -> Attempt:
    """Takes the right to commit checkpoints from every attempt before. Raises Superseded if a newer one has begun."""
    told = os.environ.get(ATTEMPT_VARIABLE, "")
    number = int(told) if told.isdigit() and int(told) else None
    # The operator counts the attempts of a job from 1, of one that is made again too: that one has another uid.
    attempt = begin(course.storage, number, course.plan.job.metadata.uid or "")
    course.make_way(attempt)
    return attempt


def _scratch(storage: Storage, group: Group) -> Path:
    """The folder of local disk that the processes of a node share."""
    folder = private_folder(storage) / scratch_name(group.place.node)
    folder.mkdir(exist_ok=True)  # without a launcher nobody else has
    return folder


def _is_last(course: Course, step: int, measures: Mapping[str, float]) -> bool:
    """Whether the run ends with that step."""
    return step == course.plan.batch.steps or course.ended(measures)


def _furthest(storage: Storage, plan: RunPlan, group: Group, account: Account) -> FurthestStep | None:
    """Tells the account how far earlier attempts came; returns where process 0 notes how far this one comes."""
    if not group.place.first:
        return None
    noted = FurthestStep(private_folder(storage) / "furthest-step", plan.training_key)
    account.furthest = max(told_furthest(), noted.before)
    return noted


def _loop(
    course: Course, group: Group, resume: Resume | None, batches: Batches, scratch: Path, attempt: Attempt, meter: Meter
) -> CheckpointManifest:
    """The loop, from where the run begins or goes on; returns the final checkpoint."""
    plan = course.plan
    training, steps = plan.job.spec.training, plan.batch.steps
    engine = build_engine(plan, group, course.model, universal=resume is not None and resume.universal)
    meter.account.reached("engine")
    if resume is not None:
        load(engine, resume, group)
        meter.account.reached("load")
    engine.module.adapt(engine)
    saver = Saver(engine, course.storage, plan, group, scratch, resume, attempt, meter, meter.account, course.committed)
    meter.arriving = saver.leave
    request = StopRequest()
    meter.begins()
    with saver:
        due = False
        for step in range(resume.manifest.step + 1 if resume else 1, steps + 1):
            take_step(step, plan, engine, batches, meter, request)
            saver.hear()
            if step == steps or step % training.validation.every_steps == 0:
                meter.account.validates(step)
                meter.validation(step, course.validate(engine, step, meter.measures))
            last = _is_last(course, step, meter.measures)
            due = due or last or step % training.checkpoints.every_steps == 0
            if due or meter.stop:
                meter.settle()
            spiked = meter.spike is not None and training.faults.loss_spike.action == "rollback"
            if spiked and meter.spikes is not None and (last or meter.stop or meter.spikes.over):
                saver.leave()
                back = roll_back(course.storage, plan, group, attempt, meter.spike)
                if back is not None:
                    raise back
                meter.spike, spiked = None, False
            if due or meter.stop:
                if (meter.nonfinite or spiked) and not last:
                    continue  # it waits for a step that is well: what may never recover is no good checkpoint
                due = False
                if training.faults.replica_check_steps and plan.batch.world_size > 1:
                    check_replicas(engine, group, step)
                meter.account.saves()
                saver.save(step, meter.measures, meter.publish(), wait=last or meter.stop)
                meter.begins()
            if last:
                break
            if meter.stop:
                meter.publish()()
                raise Stopped
    batches.close()
    meter.publish()()
    return saver.last


def take_step(step: int, plan: RunPlan, engine: Any, batches: Batches, meter: Meter, request: StopRequest) -> None:
    """One optimizer step: step number `step`, counted from 1."""
    training = plan.job.spec.training
    rate = learning_rate(training.schedule, training.optimizer.learning_rate, step - 1, plan.batch.steps)
    set_learning_rate(engine.optimizer, rate)
    skipped = engine.skipped_steps
    meter.account.waits(step)
    examples, targets, waited = batches.take(step)
    meter.account.computes(step)
    every = training.faults.replica_check_steps if plan.batch.world_size > 1 else 0
    check = partial(check_replicas, engine, batches.group, step) if every and step % every == 0 else None
    loss = _optimize(engine, examples, targets, plan.batch.world_size, check)
    meter.step(Taken(step, loss, rate, grad_norm(engine), waited, engine.skipped_steps - skipped), request)


def _optimize(
    engine: Any,
    examples: list[Example],
    targets: dict[str, int],
    world_size: int,
    before_update: Callable[[], None] | None = None,
) -> Tensor:
    """One optimizer step over this process's micro-batches. Returns their share of the step's loss, fp64, on the device.

    targets: of the step over all processes, by head. The gradient is that of the step's mean loss: all targets of a head weigh
    the same, whichever micro-batch or process has them. DeepSpeed averages over micro-batches and processes, which is undone
    here.
    """
    total = torch.zeros((), dtype=torch.float64, device=engine.device)
    for number, (inputs, wanted) in enumerate(examples, 1):
        logits = answers(engine(**inputs))
        # A head may have nothing to answer in a step: the sum is 0 then, whatever it is divided by.
        shares = [loss_sum(logits[head], asked) / max(1, targets[head]) for head, asked in wanted.items()]
        loss = torch.stack(shares).sum()
        penalty = engine.module.penalty()
        # A loss that is no number makes the gradient none, which all processes learn before they update.
        scale = len(examples) * world_size * torch.where(loss.detach().isfinite(), 1.0, math.nan)
        engine.backward(loss * scale if penalty is None else loss * scale + penalty)
        if before_update is not None and number == len(examples):
            before_update()
        engine.step()
        total += loss.detach()
    return total


def _say_plan(course: Course, group: Group, resume: Resume | None, events: Events) -> None:
    """The arithmetic of the run, before it begins."""
    if not group.place.first:
        return
    plan = course.plan
    batch, training = plan.batch, plan.job.spec.training
    begin = f"going on from step {resume.manifest.step}" if resume else "from the beginning"
    events.info(
        f"{course.parameters:,} parameters; {batch.steps:,} steps of {batch.samples} x {batch.sequence_length} = "
        f"{batch.tokens:,} tokens; {batch.micro} a micro-batch x {batch.accumulation} accumulated x {batch.world_size} "
        f"processes; {course.about}; ZeRO {training.deepspeed.zero_stage}, {training.precision}, {begin}",
        parameters=course.parameters,
        steps=batch.steps,
        step_tokens=batch.tokens,
        micro_batch=batch.micro,
        accumulation=batch.accumulation,
        world_size=batch.world_size,
        epochs=plan.epochs,
        first_step=resume.manifest.step + 1 if resume else 1,
        first_sample=resume.manifest.next_sample if resume else 0,
    )


def _finish(
    storage: Storage,
    course: Course,
    group: Group,
    attempt: Attempt,
    final: CheckpointManifest,
    seconds: float,
    events: Events,
) -> None:
    """Leaves the manifest of the stage, whose output is the final checkpoint."""
    plan = course.plan

    def leave() -> None:
        facts: dict[str, JsonValue] = {
            "final_loss": final.measures["loss"],
            "validation_loss": final.measures["validation_loss"],
            "steps": final.step,
            "tokens": final.tokens,
            "parameters": course.parameters,
            **course.facts(final),
        }
        part = Part(
            stage=plan.stage,
            index=0,
            identity=plan.stage_identity,
            outputs=course.outputs(final),
            facts=facts,
            place=final.folder,
            seconds=seconds,
        )
        leave_part(storage, part)
        close(storage, plan.stage, plan.stage_identity, plan.config, plan.stage_inputs, tasks=1)
        events.say(
            "result", f"trained {final.step:,} steps; validation loss {final.measures['validation_loss']:.4f}", **facts
        )
        course.tidy(attempt)

    group.from_first(leave)
