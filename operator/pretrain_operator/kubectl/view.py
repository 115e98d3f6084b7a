"""One job for people: a table that may be drawn anew, or lines of what has changed. Pure.

In the manner of the local engine's view, from what the operator wrote into the job's status.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pretrain_operator.kubectl.columns import age
from pretrain_operator.kubectl.seen import SeenCondition, SeenJob, SeenRestart, SeenStage, SeenTraining
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


def draw(job: SeenJob, now: datetime, losses: Sequence[float] = (), note: str = "") -> RenderableType:
    """The job as a table: a line a stage, what training says below its own; then what needs attention.

    losses: those seen so far, for a curve. note: what is to be said of the connection.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True, header_style="dim")
    table.add_column("STAGE", no_wrap=True, min_width=10)
    table.add_column("STATE", no_wrap=True, min_width=9)
    table.add_column("TASKS", justify="right", no_wrap=True)
    table.add_column("", ratio=1, overflow="fold")
    table.add_column("TIME", justify="right", no_wrap=True)
    for stage in job.stages:
        table.add_row(
            stage.name,
            Text(stage.state, style=STYLES.get(stage.state, "")),
            f"{stage.succeeded}/{stage.tasks}",
            Group(*_details(job, stage, losses)),
            duration(_seconds(stage, now)),
        )
    parts: list[RenderableType] = [Text.assemble(*_title(job, now)), Text(job.storage, style="dim"), Text()]
    parts += [table] if job.stages else []
    parts += _restarts(job)
    parts += [Text(f"{line}", style="bold red" if failed else "yellow") for line, failed in attention(job, now)]
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
    if after.training is not None and (before is None or before.training != after.training):
        running = after.stage_named("train")
        if running is not None and running.state == "Running" and after.training.step:
            yield f"train: {', '.join(_numbers(after.training))}"
    known = {(restart.attempt, restart.time) for restart in before.restarts} if before else set()
    for restart in after.restarts:
        if (restart.attempt, restart.time) not in known:
            yield f"restart: {restarted(restart)}"
    told = {line for line, _ in attention(before, now)} if before else set()
    for line, _ in attention(after, now):
        if line not in told:
            yield line


def attention(job: SeenJob, now: datetime) -> list[tuple[str, bool]]:
    """What a person should know besides: each line with whether it is a failure."""
    lines = [(_sentence(condition), condition.type == "Failed") for condition in job.conditions if _unusual(condition, job)]
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
    """One restart as a sentence."""
    kept = "" if restart.checkpoint_step is None else f"; goes on from step {restart.checkpoint_step:,}"
    return f"attempt {restart.attempt} ended, {restart.reason}: {restart.message}{kept}"


def _title(job: SeenJob, now: datetime) -> Iterator[tuple[str, str]]:
    yield f"{job.namespace}/{job.name}", "bold"
    word = job.phase or ("Suspended" if job.suspended else "no status yet")
    yield f"  {word}", STYLES.get(word, "yellow")
    if job.ended is not None and job.started is not None:
        yield f"  took {duration((job.ended - job.started).total_seconds())}", "dim"
    yield f"  age {age(job.created, now)}", "dim"


def _details(job: SeenJob, stage: SeenStage, losses: Sequence[float]) -> Iterator[Text]:
    """The lines beside a stage's name."""
    if stage.name == "train" and job.training is not None and stage.state != "Pending":
        yield from _training(job, stage, job.training, losses)
        return
    words = [f"{count} {word}" for count, word in ((stage.active, "active"), (stage.failed, "failed")) if count]
    line = Text()
    if stage.state == "Running" and stage.tasks > 1:
        line.append_text(_bar(stage.succeeded / stage.tasks))
        words.insert(0, f"{math.floor(100 * stage.succeeded / stage.tasks)} %")
    yield line.append(", ".join(words))


def _training(job: SeenJob, stage: SeenStage, training: SeenTraining, losses: Sequence[float]) -> Iterator[Text]:
    step, *numbers = _numbers(training)
    line = Text()
    if stage.state == "Running" and training.steps:
        fraction = min(1.0, training.step / training.steps)
        line = _bar(fraction).append(f"{math.floor(100 * fraction)} %, ")
    yield line.append(step)
    if numbers:
        yield Text(", ".join(numbers))
    if stage.state == "Running":
        pods = f"{stage.active} of {stage.tasks} pods"
        yield Text(pods if training.attempt == 1 else f"{pods}, attempt {training.attempt}", style="dim")
    if len(losses) > 1:
        yield Text(curve(losses, CURVE_CELLS), style="cyan")


def _bar(fraction: float) -> Text:
    full = round(fraction * BAR_CELLS)
    return Text().append("━" * full, style="cyan").append("━" * (BAR_CELLS - full), style="bright_black").append(" ")


def _numbers(training: SeenTraining) -> Iterator[str]:
    yield f"step {training.step:,} of {training.steps:,}" if training.steps else "no step yet"
    if training.loss is not None:
        yield f"loss {training.loss:.4g}"
    if training.validation_loss is not None:
        yield f"validation loss {training.validation_loss:.4g}"
    if training.tokens_per_second is not None:
        yield f"{training.tokens_per_second:,.0f} tokens/s"
    if training.eta:
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
    return [*lines, Text()]


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
