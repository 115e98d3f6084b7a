"""The confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretrain_trainer.scores.classification import Classification, classify
from pretrain_trainer.scores.picture import draw_confusion, font_for

LABELS = ["好评", "差评", "$x^$ <b>"]
FOUND = classify([LABELS[0]] * 3 + [LABELS[1]] * 2 + [LABELS[2]], [LABELS[0]] * 2 + [LABELS[1]] * 3 + [LABELS[2]], LABELS)


def test_a_picture_is_drawn_with_any_label(tmp_path: Path) -> None:
    """Warnings are errors: matplotlib warns of a character that its font has not."""
    path = tmp_path / "confusion.png"
    draw_confusion(FOUND, "评论 $1", path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_a_font_labels_are_numbered(tmp_path: Path) -> None:
    assert font_for(LABELS, fonts()) is None
    path = tmp_path / "confusion.png"
    draw_confusion(FOUND, "评论", path, fonts())
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_font_has_all_characters() -> None:
    font = font_for(["plain"], fonts())
    assert font is not None
    assert font.name == "DejaVuSans.ttf"
    assert font_for(["plain", "\U0010ffff"]) is None


@pytest.mark.parametrize("size", [21, 70])
def test_many_labels(tmp_path: Path, size: int) -> None:
    labels = [f"label {number:03d}" for number in range(size)]
    found: Classification = classify([*labels, *labels[:2]], [*labels, labels[5], labels[5]], labels)
    draw_confusion(found, "many", tmp_path / "many.png")
    assert (tmp_path / "many.png").stat().st_size > 1000


def test_one_label(tmp_path: Path) -> None:
    draw_confusion(classify(["a"], ["a"]), "one", tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def fonts() -> tuple[str, ...]:
    """None that is installed."""
    return ("No Such Font",)
