"""One job for people: a table that may be drawn anew, or lines of what has changed. Pure.

In the manner of the local engine's view, from what the operator wrote into the job's status.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pretrain_operator.goodput_bar import bar, legend, percent, word
from pretrain_operator.kubectl.columns import age
from pretrain_operator.kubectl.seen import SeenCondition, SeenCost, SeenJob, SeenRestart, SeenStage, SeenTraining
from pretrain_operator.local.view import BAR_CELLS, CURVE_CELLS, curve, duration

STYLES = {
    "Pending": "dim",
    "Running": "cyan",
    "Preprocessing": "cyan",
    "Training": "cyan",
    "Finishing": "cyan",
    "Succeeded": "green",
    "Failed": "bold red",
    "Suspended": "yellow",
}
NORMAL = {"Accepted": "True", "Progressing": "True", "Suspended": "False", "Succeeded": "False", "Failed": "False"}
"""The status that each condition has while all is well; a condition of another type is always shown."""
UNSEEN_SECONDS = 30
"""After so long without a word of an operator's, there may be none."""
RESTARTS_SHOWN = 5
LINES_BESIDES_STAGES = 14
"""Lines that title, training, a restart and a condition take, about."""


def draw(
    job: SeenJob, now: datetime, losses: Sequence[float] = (), note: str = "", height: int | None = None
) -> RenderableType:
    """The job as a table: a line a stage, what training says below; then what needs attention.

    losses: those seen so far, for a curve. note: what is to be said of the connection. height: lines that there is room for;
    where there are few, stages that are done and those to come share a line.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True, header_style="dim")
    table.add_column("STAGE", no_wrap=True, min_width=10)
    table.add_column("STATE", no_wrap=True, min_width=9)
    table.add_column("TASKS", justify="right", no_wrap=True)
    table.add_column("", ratio=1, overflow="fold")
    table.add_column("TIME", justify="right", no_wrap=True)
    short = height is not None and height < len(job.stages) + LINES_BESIDES_STAGES
    for state, stages in _folded(job.stages) if short else ((stage.state, [stage]) for stage in job.stages):
        if len(stages) > 1:
            table.add_row(f"{len(stages)} stages", Text(state, style=STYLES.get(state, "")), "", "", "")
            continue
        (stage,) = stages
        table.add_row(
            stage.name,
            Text(state, style=STYLES.get(state, "")),
            f"{stage.succeeded}/{stage.tasks}",
            _detail(job, stage),
            duration(_seconds(stage, now)),
        )
    parts: list[RenderableType] = [Text.assemble(*_title(job, now)), Text(job.storage, style="dim")]
    progressing = job.condition("Progressing")
    if progressing is not None and progressing.status == "True" and job.finished is None:
        parts.append(Text(progressing.message, style="dim"))
    parts += [Text(), table] if job.stages else []
    parts += _training(job, losses)
    parts += _goodput(job, now)
    parts += _restarts(job)
    succeeded = job.condition("Succeeded") if job.finished == "Succeeded" else None
    parts += [Text(), Text(succeeded.message, style="green")] if succeeded and succeeded.message else []
    lines = attention(job, now)
    parts += [Text()] if lines else []
    parts += [Text(line, style="bold red" if failed else "yellow") for line, failed in lines]
    parts += [Text(note, style="yellow")] if note else []
    return Group(*parts, Text())


def changes(before: SeenJob | None, after: SeenJob, now: datetime) -> Iterator[str]:
    """Lines for what is different: phase, stages, training, restarts, conditions that need attention."""
    if before is None or before.phase != after.phase:
        yield f"{after.name}: {after.phase or 'no status yet'}"
    for stage in after.stages:
        earlier = before.stage_named(stage.name) if before else None
        if (earlier or SeenStage(stage.name, "Pending", 0, 0, 0, 0, None, None)).state != stage.state:
            took = duration(_seconds(stage, now))
            yield f"{stage.name}: {stage.state}{f' after {took}' if stage.ended and took else ''}"
        elif stage.state == "Running" and stage.name != "train" and earlier and earlier.succeeded != stage.succeeded:
            yield f"{stage.name}: {_tasks(stage)}"
        elif _fine_tuned(after, stage) is not None and before is not None and before.progress != after.progress:
            yield f"{stage.name}: {after.progress}"
    if after.training is not None and (before is None or before.training != after.training):
        running = after.stage_named("train")
        if running is not None and running.state == "Running" and after.training.step:
            yield f"train: {', '.join(_numbers(after.training, running=True))}"
    known = {(restart.attempt, restart.time) for restart in before.restarts} if before else set()
    for restart in after.restarts:
        if (restart.attempt, restart.time) not in known:
            yield f"restart: {restarted(restart)}"
    if after.finished == "Succeeded" and (before is None or before.finished is None):
        succeeded = after.condition("Succeeded")
        yield f"{after.name}: {succeeded.message}" if succeeded else after.name
    told = {_sentence(condition) for condition in _concerns(before)} if before else set()
    yield from (said for said in map(_sentence, _concerns(after)) if said not in told)


def attention(job: SeenJob, now: datetime) -> list[tuple[str, bool]]:
    """What a person should know besides: each line with whether it is a failure."""
    lines = [(_sentence(condition), condition.type == "Failed") for condition in _concerns(job)]
    if job.deleted is not None:
        lines.append(("Deleting: its pods are being ended; what is in storage stays", False))
    if job.managed_by:
        lines.append((f"spec.managedBy: {job.managed_by} takes care of this job, not the operator", False))
    elif not job.conditions:
        if job.created is not None and (now - job.created).total_seconds() >= UNSEEN_SECONDS:
            lines.append(
                (
                    f"No operator has looked at this job in {age(job.created, now)}; check that one runs and that it serves "
                    f"namespace {job.namespace}: kubectl get pods -A -l app.kubernetes.io/name=pretrain-operator",
                    False,
                )
            )
    elif job.observed_generation < job.generation:
        lines.append(("The operator has not yet acted on the last change of spec", False))
    return lines


def restarted(restart: SeenRestart) -> str:
    """One restart as a sentence. Steps may have been saved after what was known of checkpoints, so fewer may be lost."""
    known = [] if restart.checkpoint_step is None else [f"checkpoint known then: {restart.checkpoint_step:,}"]
    if restart.step is not None:
        lost = max(0, restart.step - (restart.checkpoint_step or 0))
        known = [f"at step {restart.step:,}", *known, f"up to {lost:,} steps lost"]
    kept = f" ({', '.join(known)})" if known else ""
    return f"attempt {restart.attempt} ended, {restart.reason}: {restart.message}{kept}"


def _folded(stages: Sequence[SeenStage]) -> Iterator[tuple[str, list[SeenStage]]]:
    """The stages, those in a row that have succeeded or not begun together."""
    for state, of_state in itertools.groupby(stages, key=lambda stage: stage.state):
        together = list(of_state)
        if state in ("Succeeded", "Pending"):
            yield state, together
        else:
            yield from ((state, [stage]) for stage in together)


def _title(job: SeenJob, now: datetime) -> Iterator[tuple[str, str]]:
    yield f"{job.namespace}/{job.name}", "bold"
    word = job.phase or ("Suspended" if job.suspended else "no status yet")
    yield f"  {word}", STYLES.get(word, "yellow")
    if job.ended is not None and job.started is not None:
        yield f"  took {duration((job.ended - job.started).total_seconds())}", "dim"
    yield f"  age {age(job.created, now)}", "dim"


def _detail(job: SeenJob, stage: SeenStage) -> Text:
    """What stands beside a stage: how far it is, and its pods."""
    line = Text()
    if stage.state != "Running":
        return line.append(f"{stage.failed} failed" if stage.failed else "")
    training = job.training if stage.name == "train" else None
    if training is not None:
        line.append_text(_bar(training.step / training.steps if training.steps else 0.0))
    elif (share := _fine_tuned(job, stage)) is not None:
        line.append_text(_bar(share))
    elif stage.tasks > 1:
        line.append_text(_bar(stage.succeeded / stage.tasks))
    return line.append(f"{stage.active} active").append(f", {stage.failed} failed" if stage.failed else "")


def _fine_tuned(job: SeenJob, stage: SeenStage) -> float | None:
    """Share of its steps that a stage which fine-tunes has done; None of another one, and while it is not known."""
    percent = job.progress.removesuffix("%")
    if stage.name != job.stage or stage.name == "train" or stage.state != "Running" or percent == job.progress:
        return None
    return int(percent) / 100 if percent.isdecimal() else None


def _training(job: SeenJob, losses: Sequence[float]) -> list[RenderableType]:
    """What the trainer says, below the stages."""
    stage, training = job.stage_named("train"), job.training
    if training is None or stage is None or (stage.state == "Pending" and not training.step):
        return []
    attempt = "" if training.attempt == 1 else f" attempt {training.attempt}"
    lines: list[RenderableType] = [
        Text(),
        Text(f"TRAINING{attempt}", style="dim"),
        Text(", ".join(_numbers(training, running=stage.state == "Running"))),
    ]
    return lines + ([Text(curve(losses, CURVE_CELLS), style="cyan")] if len(losses) > 1 else [])


def _goodput(job: SeenJob, now: datetime) -> list[RenderableType]:
    """Where the time went, and what it cost."""
    if job.goodput is None:
        return []
    trains = job.stage == "train"
    seconds, open_now = job.goodput.until(now, trains=trains), job.goodput.now(now, trains=trains)
    total = sum(seconds.values())
    if not total:
        return []
    ratio = "" if job.goodput.ratio is None else f" ({percent(job.goodput.ratio)} productive since training began)"
    state = f"; now {word(open_now)}" if open_now else ""
    lines: list[RenderableType] = [
        Text(),
        Text(f"TIME {duration(total)}{ratio}{state}", style="dim"),
        bar(seconds),
        legend(seconds),
    ]
    return lines + ([Text(cost(job.cost))] if job.cost is not None else [])


def cost(spent: SeenCost) -> str:
    """What a job has cost as a sentence."""
    used = f"{spent.gpu_seconds / 3600:,.2f} GPU hours"
    if spent.spent is None:
        return used
    price = "" if spent.price is None else f" at {spent.price:g} each"
    budget = "" if spent.budget is None else f" of {spent.budget:,g}"
    return f"{used}{price}: {spent.spent:,.2f}{budget} spent"


def _bar(fraction: float) -> Text:
    fraction = min(1.0, max(0.0, fraction))
    full = round(fraction * BAR_CELLS)
    bar = Text().append("━" * full, style="cyan").append("━" * (BAR_CELLS - full), style="bright_black")
    return bar.append(f" {math.floor(100 * fraction)} %, ")


def _numbers(training: SeenTraining, *, running: bool) -> Iterator[str]:
    yield f"step {training.step:,} of {training.steps:,}" if training.steps else "no step yet"
    if training.loss is not None:
        yield f"loss {training.loss:.4g}"
    if training.validation_loss is not None:
        yield f"validation loss {training.validation_loss:.4g}"
    if running and training.tokens_per_second is not None:
        yield f"{training.tokens_per_second:,.0f} tokens/s"
    if running and training.eta:
        yield f"{training.eta} left"
    if training.checkpoint_step is not None:
        yield f"checkpoint at {training.checkpoint_step:,}"


def _tasks(stage: SeenStage) -> str:
    failed = f", {stage.failed} failed" if stage.failed else ""
    return f"{stage.succeeded} of {stage.tasks} tasks{failed}"


def _restarts(job: SeenJob) -> list[RenderableType]:
    if not job.restarts:
        return []
    counted = f"{job.restart_count} of them counted against training.maxRestarts" if job.restart_count else "none counted"
    earlier = len(job.restarts) - RESTARTS_SHOWN
    title = f"RESTARTS of training ({counted}{f'; {earlier} earlier ones not shown' if earlier > 0 else ''})"
    lines: list[RenderableType] = [Text(), Text(title, style="dim")]
    for restart in job.restarts[-RESTARTS_SHOWN:]:
        time = "" if restart.time is None else f"{restart.time.astimezone():%m-%d %H:%M:%S}  "
        lines.append(Text(f"{time}{restarted(restart)}", style="yellow"))
    return lines


def _concerns(job: SeenJob) -> list[SeenCondition]:
    """The conditions that say something else than that all is well."""
    return [condition for condition in job.conditions if _unusual(condition, job)]


def _unusual(condition: SeenCondition, job: SeenJob) -> bool:
    if condition.type == "Succeeded":
        return False  # the title says it
    if condition.type == "Progressing" and (job.finished is not None or _suspended(job)):
        return False
    return condition.status != NORMAL.get(condition.type)


def _suspended(job: SeenJob) -> bool:
    suspended = job.condition("Suspended")
    return suspended is not None and suspended.status == "True"


def _sentence(condition: SeenCondition) -> str:
    not_so = "" if condition.status == "True" else f"={condition.status}"
    return f"{condition.type}{not_so} ({condition.reason}): {condition.message}"


def _seconds(stage: SeenStage, now: datetime) -> float | None:
    """How long the stage took, or has run until now."""
    if stage.started is None:
        return None
    return ((stage.ended or now) - stage.started).total_seconds()
