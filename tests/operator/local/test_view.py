"""What people see: the table is a pure function of the state, and so are the lines."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from pretrain_operator.local.progress import RunState, StageState, Task, Training, Warned
from pretrain_operator.local.view import LineView, changes, curve, draw, duration, outcomes, progress_line
from pretrain_stage.manifest import Counts
from rich.console import Console

CLEANED = StageState(
    "clean",
    word="done",
    started=0.0,
    ended=12.0,
    counts=Counts(read=1234, kept=1100, dropped={"quality": {"gopher_short_doc": 134}}),
)
TOKENIZING = StageState(
    "tokenize",
    tasks=4,
    word="running",
    started=20.0,
    running={2: Task(3120, 6240, "documents")},
    finished=1,
    unit="documents",
)
TRAINING = StageState(
    "train",
    word="running",
    started=20.0,
    training=Training(120, 400, 3.2141, 3.3, 27.1, 12345.6, 100, losses=(9.0, 6.0, 4.0, 3.2)),
    note="metrics at http://127.0.0.1:9400/metrics",
)
WAITING = StageState("minhash-signatures")


def run(*stages: StageState, warnings: tuple[Warned, ...] = ()) -> RunState:
    return RunState("demo", stages, started=0.0, now=85.0, warnings=warnings)


def printed(state: RunState, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width, force_terminal=False)
    console.print(draw(state))
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_table() -> None:
    assert printed(run(CLEANED, WAITING, TRAINING, warnings=(Warned("clean", "1 line is no JSON", 3),)), 100) == [
        "STAGE               STATE      demo                                                       TIME  LEFT",
        "clean               done       1,234 read, 1,100 kept, 134 dropped                        0:12",
        "minhash-signatures  waiting",
        "train               running    ━━━━━━━━━━━━ step 120 of 400                               1:05",
        "                               loss 3.214, validation loss 3.300, 12,346 tokens/s,",
        "                               checkpoint at 100",
        "                               █▄▂▁",
        "                               metrics at http://127.0.0.1:9400/metrics",
        "warning: clean: 1 line is no JSON (3 times)",
        "",
    ]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = printed(run(CLEANED, WAITING, TOKENIZING, TRAINING), width)
    assert max(len(line) for line in lines) <= width
    assert any("minhash-signatures" in line for line in lines) or width < 80


def test_work_of_tasks() -> None:
    text = "\n".join(printed(run(TOKENIZING), 80))
    assert "37 %" in text
    assert "3,120 documents, 1 of 4 tasks" in text


def test_the_table_tells_where_the_time_goes_once_training_runs() -> None:
    def shown(*stages: StageState) -> list[str]:
        console = Console(file=StringIO(), width=100, force_terminal=False)
        console.print(draw(replace(run(*stages), goodput={"initializing": 10.0, "productive": 30.0})))
        assert isinstance(console.file, StringIO)
        return [line.rstrip() for line in console.file.getvalue().splitlines()]

    lines = shown(TRAINING)
    assert "━" * 60 in lines
    assert "productive 75 %, initializing 25 %" in lines
    assert "━" * 60 not in shown(CLEANED)


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (None, run(WAITING), []),
        (run(WAITING), run(replace(WAITING, word="running", started=85.0)), ["minhash-signatures: running"]),
        (run(replace(TOKENIZING, word="waiting")), run(TOKENIZING), ["tokenize: running (4 tasks)"]),
        (run(TOKENIZING), run(TOKENIZING), []),
        (
            run(replace(CLEANED, word="running")),
            run(CLEANED),
            ["clean: done after 0:12: 1,234 read, 1,100 kept, 134 dropped"],
        ),
        (
            run(CLEANED),
            run(CLEANED, warnings=(Warned("clean", "slow storage"),)),
            ["clean: warning: slow storage"],
        ),
        (
            run(CLEANED, warnings=(Warned("clean", "slow storage"),)),
            run(CLEANED, warnings=(Warned("clean", "slow storage", 2),)),
            [],
        ),
    ],
)
def test_lines_for_changes(before: RunState | None, after: RunState, lines: list[str]) -> None:
    assert list(changes(before, after)) == lines


def test_a_line_of_progress() -> None:
    assert progress_line(TRAINING, 85.0) == (
        "train: step 120 of 400, loss 3.214, validation loss 3.300, 12,346 tokens/s, checkpoint at 100 (after 1:05)"
    )
    assert progress_line(TOKENIZING, 85.0) == "tokenize: 37 %, 3,120 documents, 1 of 4 tasks (after 1:05)"


def test_lines_of_progress_come_every_ten_seconds_at_most() -> None:
    console = Console(file=StringIO(), width=200)
    view = LineView(console)
    for tenth in range(351):
        view.show(replace(run(TRAINING), now=20.0 + tenth / 10))
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "train: running"
    assert [line.rsplit("after ")[1] for line in lines[1:]] == ["0:10)", "0:20)", "0:30)"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"examples": {"train": 1_920, "validation": 240, "test": 240}}, ["1,920 examples, 240 to validate, 240 to test"]),
        (
            {"steps": 16, "validation_loss": 0.7, "metric": "macro-f1", "best": 0.8125, "examples": {"train": 9}},
            ["16 steps", "validation loss 0.700", "best validation macro-f1 0.812"],
        ),
        ({"examples": 60, "test": {"accuracy": 0.75, "loss": 0.6, "macro-f1": 0.5}}, ["accuracy 0.750", "macro-f1 0.500"]),
        ({"records": 1_000, "errors": 0}, ["1,000 records"]),
    ],
)
def test_what_a_stage_of_a_task_has_come_to(facts: dict[str, Any], said: list[str]) -> None:
    assert outcomes(replace(WAITING, facts=facts)) == said


def test_what_a_stage_has_come_to() -> None:
    assert outcomes(replace(WAITING, facts={"train_tokens": 2_000_000, "held_out_tokens": 9_000})) == [
        "2,000,000 tokens",
        "9,000 held out",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""), (-5, "0:00"), (0.9, "0:00"), (59.99, "0:59"), (60, "1:00"), (3599, "59:59"), (3661, "1:01:01"),
        (86_399, "23:59:59"), (90_061, "1d 01:01"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], ""),
        ([3.0], "▁"),
        ([1.0, 1.0], "▁▁"),
        ([8.0, 1.0], "█▁"),
        ([float(v) for v in range(8)], "▁▂▃▄▅▆▇█"),
        ([float(v) for v in range(80, 0, -1)], "█▇▆▅▄▃▂▁"),
    ],
)
def test_the_curve(values: list[float], text: str) -> None:
    assert curve(values, 8) == text
