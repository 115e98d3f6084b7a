"""The state of a run for people: a table on a terminal, lines anywhere else. `draw` and `changes` are pure."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import select
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pretrain_operator.goodput_bar import bar, legend
from pretrain_operator.local.progress import RunState, StageState, Training, Word

BAR_CELLS = 12
CURVE_CELLS = 24
PROGRESS_SECONDS = 10.0
"""Seconds between two lines of progress of one stage, where there is no terminal."""

STYLES: dict[Word, str] = {
    "waiting": "dim",
    "running": "cyan",
    "stopping": "yellow",
    "done": "green",
    "unchanged": "dim green",
    "failed": "bold red",
    "stopped": "yellow",
}


class View(Protocol):
    """Where the state of a run is shown."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def show(self, state: RunState) -> None:
        """Called several times a second; shows what is new."""


class Output:
    """Standard output whose reader may go away (a closed terminal, `| head`): the run goes on, unseen."""

    def __init__(self) -> None:
        self._stream = sys.stdout
        self.encoding = self._stream.encoding

    def write(self, text: str) -> int:
        with _unseen():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _unseen():
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """Sends standard output and error nowhere from now on, each if its reader has gone."""
    try:
        yield
    except OSError:
        poll = select.poll()
        for descriptor in (1, 2):
            poll.register(descriptor, 0)
        for descriptor, event in poll.poll(0):
            if event & (select.POLLERR | select.POLLHUP):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def standard_console() -> Console:
    """The console on standard output."""
    return Console(file=Output())  # type: ignore[arg-type]  # as much of a file as rich asks for


class TableView:
    """One table that is drawn anew in place, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def show(self, state: RunState) -> None:
        self._live.update(draw(state), refresh=True)


class LineView:
    """A line for each change of state, and at most one line of progress in PROGRESS_SECONDS for each stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before: RunState | None = None
        self._said: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def show(self, state: RunState) -> None:
        for line in changes(self._before, state):
            self._print(line)
        for stage in state.stages:
            if not stage.active or stage.started is None:
                continue
            if state.now - self._said.get(stage.name, stage.started) >= PROGRESS_SECONDS:
                self._said[stage.name] = state.now
                self._print(progress_line(stage, state.now))
        self._before = state

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class NoView:
    """Shows nothing: the caller says what came of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def show(self, state: RunState) -> None: ...


def draw(state: RunState) -> RenderableType:
    """The run as a table: a line a stage, what training says below its own, warnings at the end."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True, header_style="dim")
    table.add_column("STAGE", no_wrap=True, min_width=10)
    table.add_column("STATE", no_wrap=True, min_width=9)
    table.add_column(state.job, ratio=1, overflow="fold")
    table.add_column("TIME", justify="right", no_wrap=True)
    table.add_column("LEFT", justify="right", no_wrap=True)
    for stage in state.stages:
        table.add_row(
            stage.name,
            Text(stage.word, style=STYLES[stage.word]),
            Group(*_details(stage)),
            duration(stage.elapsed(state.now)),
            duration(stage.remaining),
        )
    warnings = [
        Text(f"warning: {warned.stage}: {warned.message}{_times(warned.times)}", style="yellow") for warned in state.warnings
    ]
    goodput = [bar(state.goodput), legend(state.goodput)] if _has_trained(state) else []
    # The cursor rests on a line of its own: the ^C that a terminal echoes must not wrap and shift the table.
    return Group(table, *goodput, *warnings, Text())


def _has_trained(state: RunState) -> bool:
    return bool(state.goodput) and any(stage.training for stage in state.stages)


def changes(before: RunState | None, after: RunState) -> Iterator[str]:
    """Lines for what is different: stages that were started or have ended, new warnings."""
    words = {stage.name: stage.word for stage in before.stages} if before else {}
    for stage in after.stages:
        if stage.word == words.get(stage.name, "waiting"):
            continue
        outcome = ", ".join(outcomes(stage))
        match stage.word:
            case "running":
                yield f"{stage.name}: running{f' ({stage.tasks} tasks)' if stage.tasks > 1 else ''}"
            case "stopping":
                yield f"{stage.name}: stopping: {stage.note}"
            case _:
                took = duration(stage.elapsed(after.now))
                yield f"{stage.name}: {stage.word} after {took}{': ' + outcome if outcome else ''}"
    known = {(warned.stage, warned.message) for warned in before.warnings} if before else set()
    for warned in after.warnings:
        if (warned.stage, warned.message) not in known:
            yield f"{warned.stage}: warning: {warned.message}"


def progress_line(stage: StageState, now: float) -> str:
    """How far a running stage is."""
    parts = _work(stage)
    if stage.remaining is not None:
        parts.append(f"{duration(stage.remaining)} left")
    return f"{stage.name}: {', '.join(parts) or stage.note or 'running'} (after {duration(stage.elapsed(now))})"


FACTS = {
    "tokens_estimate": "roughly {:,} tokens before cleaning",
    "vocab_size": "{:,} entries",
    "train_tokens": "{:,} tokens",
    "held_out_tokens": "{:,} held out",
    "steps": "{:,} steps",
    "final_loss": "loss {:.3f}",
    "validation_loss": "validation loss {:.3f}",
    "loss": "loss {:.3f}",
    "perplexity": "perplexity {:.2f}",
    "bits_per_byte": "{:.3f} bits a byte",
    "records": "{:,} records",
}
"""Facts of manifests that are worth a word, and how each is said."""
SHOWN_FIGURES = ("accuracy", "macro-f1", "entity-f1", "bleu", "rouge-l", "exact-match", "token-f1")
"""Figures of a fine-tuned model that are; its report has all of them."""


def outcomes(stage: StageState) -> list[str]:
    """What a stage has come to, in a few words each."""
    found = []
    if stage.counts.read:
        dropped = stage.counts.read - stage.counts.kept
        found += [f"{stage.counts.read:,} read", f"{stage.counts.kept:,} kept", f"{dropped:,} dropped"]
    found += [said.format(stage.facts[key]) for key, said in FACTS.items() if isinstance(stage.facts.get(key), int | float)]
    found += _of_a_task(stage.facts)
    return found or (list(_training_numbers(stage.training)) if stage.training else [])


def _of_a_task(facts: Mapping[str, Any]) -> Iterator[str]:
    """What a stage of fine-tuning says: which model was chosen, figures on the test split, else how many examples there are."""
    match facts:
        case {"metric": str(metric), "best": int(best) | float(best)}:
            yield f"best validation {metric} {best:.3f}"
        case {"test": dict(figures)}:
            yield from (f"{name} {value:.3f}" for name, value in figures.items() if name in SHOWN_FIGURES)
        case {"examples": {"train": int(train), "validation": int(validation), "test": int(test)}}:
            yield f"{train:,} examples, {validation:,} to validate, {test:,} to test"


def duration(seconds: float | None) -> str:
    """Seconds as m:ss, h:mm:ss or days; nothing for None."""
    if seconds is None:
        return ""
    whole = int(max(0.0, seconds))
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def curve(values: Sequence[float], cells: int) -> str:
    """The values as a row of bars, scaled between the smallest and the largest; each cell is the mean of its share."""
    if not values:
        return ""
    cells = min(cells, len(values))
    edges = [round(i * len(values) / cells) for i in range(cells + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(blocks[round((mean - low) / (high - low) * 7) if high > low else 0] for mean in means)


def _details(stage: StageState) -> Iterator[Text]:
    """The lines beside a stage's name."""
    if not stage.active:
        yield Text(", ".join(outcomes(stage)), style="dim" if stage.word == "unchanged" else "")
        return
    work, *more = _work(stage) or [""]
    if not work or stage.word == "stopping":
        yield Text(stage.note, style="dim", no_wrap=stage.word != "stopping", overflow="ellipsis")
    if not work:
        return
    line = Text()
    if stage.fraction is not None:
        full = round(stage.fraction * BAR_CELLS)
        line.append("━" * full, style="cyan").append("━" * (BAR_CELLS - full), style="bright_black").append(" ")
    yield line.append(work)
    if more:
        yield Text(", ".join(more))
    if stage.training is not None and len(stage.training.losses) > 1:
        yield Text(curve(stage.training.losses, CURVE_CELLS), style="cyan")
    if stage.training is not None and stage.note and stage.word == "running":
        yield Text(stage.note, style="dim", no_wrap=True, overflow="ellipsis")


def _work(stage: StageState) -> list[str]:
    """How much of a running stage is done."""
    if stage.training is not None:
        return list(_training_numbers(stage.training))
    done = stage.done + sum(task.done for task in stage.running.values())
    read = stage.counts.read + sum(task.read for task in stage.running.values())
    kept = stage.counts.kept + sum(task.kept for task in stage.running.values())
    if not stage.running and not stage.finished:
        return []
    percent = [] if stage.fraction is None else [f"{math.floor(stage.fraction * 100)} %"]
    amount = [f"{read:,} read", f"{kept:,} kept"] if read else [f"{done:,.0f} {stage.unit}"] if done else []
    tasks = [f"{stage.finished} of {stage.tasks} tasks"] if stage.tasks > 1 else []
    return [*percent, *amount, *tasks]


def _training_numbers(training: Training) -> Iterator[str]:
    yield f"step {training.step:,} of {training.steps:,}"
    if training.loss is not None:
        yield f"loss {training.loss:.3f}"
    if training.validation_loss is not None:
        yield f"validation loss {training.validation_loss:.3f}"
    if training.tokens_per_second is not None:
        yield f"{training.tokens_per_second:,.0f} tokens/s"
    if training.checkpoint is not None:
        yield f"checkpoint at {training.checkpoint:,}"


def _times(times: int) -> str:
    return "" if times == 1 else f" ({times} times)"
