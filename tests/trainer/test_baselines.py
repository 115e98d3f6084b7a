"""The baselines of the course's table, and the questions for lm-eval."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COURSE = Path(__file__).parents[2] / "examples" / "course"
PRAISE, BLAME = ["很好", "喜欢", "满意", "干净", "推荐"], ["很差", "失望", "破旧", "吵闹", "后悔"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rows of all baselines on reviews that anyone can tell apart; twice as many praise as blame."""
    folder = tmp_path_factory.mktemp("examples")
    draw = random.Random(0)
    for split, count in (("train", 60), ("validation", 15), ("test", 30)):
        examples = [example(draw, split, number) for number in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in examples))
    found = run("baselines.py", folder, "--out", folder / "rows.json")
    assert "| tf-idf | 100.0 [100.0, 100.0] |" in found
    rows: dict[str, Any] = json.loads((folder / "rows.json").read_text())
    return rows


def test_what_learns_is_better_than_the_majority(rows: dict[str, Any]) -> None:
    accuracy = {name: row["scores"]["metrics"]["accuracy"] for name, row in rows.items()}
    assert accuracy == {"majority": pytest.approx(2 / 3), "tf-idf": 1, "snownlp": 1}


def test_rows_tell_of_their_cost(rows: dict[str, Any]) -> None:
    for row in rows.values():
        assert row["train_examples"] == 60
        assert row["seconds"] >= 0
        assert row["peak_bytes"] > 10_000_000
        assert row["scores"]["examples"] == 30
        assert row["scores"]["intervals"]["macro-f1"]["low"] <= row["scores"]["metrics"]["macro-f1"]
    assert rows["tf-idf"]["peak_bytes"] > 1.3 * rows["majority"]["peak_bytes"], "each has a process of its own"


def test_questions_for_lm_eval(tmp_path: Path) -> None:
    texts = [f"第{number}家酒店的房间很干净，离车站只有{number}分钟的路程！" for number in range(20)] + ["太短，了"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert "20 questions and 21 texts" in run("lm-eval/questions.py", tmp_path / "texts.jsonl", tmp_path / "out")
    questions = [json.loads(line) for line in (tmp_path / "out" / "endings.jsonl").read_text().splitlines()]
    for text, question in zip(texts, questions, strict=False):
        assert question["beginning"] + question["endings"][question["right"]] == text
        assert len(set(question["endings"])) == 4
    assert len({question["right"] for question in questions}) == 4
    assert len((tmp_path / "out" / "texts.jsonl").read_text().splitlines()) == 21


def example(draw: random.Random, split: str, number: int) -> dict[str, str]:
    label, words = ("good", PRAISE) if number % 3 else ("bad", BLAME)
    return {"id": f"{split}{number}", "text": f"这家酒店{draw.choice(words)}，{draw.choice(words)}。", "label": label}


def run(program: str, *arguments: Path | str) -> str:
    command = [sys.executable, "-W", "error", str(COURSE / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
