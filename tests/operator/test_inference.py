"""`pretrain generate` and `pretrain predict`: what the command line makes of its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pretrain_operator.commands import app
from pretrain_trainer.generate import Sampling
from pretrain_trainer.inference import command
from pretrain_trainer.inference.answering import Settings
from typer.testing import CliRunner


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the commands were called with."""
    calls: list[tuple[Any, ...]] = []

    def noting(*given: Any, **named: Any) -> int:
        calls.append((*given, named))
        return 65

    monkeypatch.setattr(command, "generate", noting)
    monkeypatch.setattr(command, "predict_file", noting)
    return calls


def test_generate_hands_its_options_on(asked: list[tuple[Any, ...]]) -> None:
    assert CliRunner().invoke(app, ["generate", "model"]).exit_code == 65
    options = (
        "--max-new-tokens 9 --temperature 0 --top-k 4 --top-p 0.5 --stop END --stop 。 --seed 3 --device cpu -o json --plain"
    )
    assert (
        CliRunner().invoke(app, ["generate", "s3://a/b", "one", "two", *options.split(), "--endpoint", "http://x"]).exit_code
        == 65
    )
    plain: tuple[Any, ...] = (command.Where("model", None, "auto"), [], Settings(128, Sampling(0.8, None, 0.95)), 0)
    full: tuple[Any, ...] = (
        command.Where("s3://a/b", "http://x", "cpu"),
        ["one", "two"],
        Settings(9, Sampling(0, 4, 0.5), ("END", "。")),
        3,
    )
    assert asked == [
        (*plain, {"as_json": False, "without_template": False}),
        (*full, {"as_json": True, "without_template": True}),
    ]


def test_predict_hands_its_options_on(asked: list[tuple[Any, ...]]) -> None:
    assert CliRunner().invoke(app, ["predict", "model", "in", "out"]).exit_code == 65
    assert (
        CliRunner().invoke(app, ["predict", "model", "in", "out", "--batch-tokens", "7", "--temperature", "1"]).exit_code
        == 65
    )
    where, files = command.Where("model", None, "auto"), (Path("in"), Path("out"))
    assert asked == [
        (where, *files, Settings(128, Sampling(0, None, 1)), 8192, 0, {}),
        (where, *files, Settings(128, Sampling(1, None, 1)), 7, 0, {}),
    ]


@pytest.mark.parametrize("name", ["generate", "predict"])
def test_help_says_how_it_is_used_and_ends(name: str) -> None:
    said = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "120"}).output
    assert [word for word in (f"pretrain {name} ", "MODEL", "--temperature", "Exit codes", "65") if word not in said] == []
