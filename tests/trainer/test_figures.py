"""Figures of sums, by hand."""

from __future__ import annotations

import math

import pytest
from pretrain_trainer.figures import figures, figures_of_texts
from pretrain_trainer.validate import Sums

GROUPS = [
    {"tokens": Sums(0, 6.0, 4, 2), "next_sentence": Sums(0, 1.0, 2, 1)},
    {"tokens": Sums(1, 3.0, 1, 0), "next_sentence": Sums(1, 0.0, 2, 2)},
    {"tokens": Sums(1, 3.0, 5, 4), "next_sentence": Sums(1, 1.0, 4, 3)},
]


def test_targets_weigh_the_same_whatever_group_they_are_in() -> None:
    found = figures(GROUPS, 100, whole_text=False)
    assert found["heads"] == {
        "tokens": {"loss": 12 / 10, "accuracy": 6 / 10, "targets": 10},
        "next_sentence": {"loss": 2 / 8, "accuracy": 6 / 8, "targets": 8},
    }
    assert found["loss"] == pytest.approx(12 / 10 + 2 / 8)
    assert found["perplexity"] == pytest.approx(math.exp(12 / 10))
    assert (found["tokens"], found["bytes"], found["bits_per_byte"]) == (10, 100, None)


def test_bits_per_byte() -> None:
    uniform = [{"tokens": Sums(0, 8 * math.log(256), 8, 0)}]
    assert figures(uniform, 8, whole_text=True)["bits_per_byte"] == pytest.approx(8), "a token a byte, all of 256 alike"
    assert figures(uniform, 16, whole_text=True)["bits_per_byte"] == pytest.approx(4)


def test_each_text_has_its_own() -> None:
    found = figures_of_texts(GROUPS, {"news": 40, "wiki": 60}, whole_text=False)
    assert found["bytes"] == 100
    assert {name: of["tokens"] for name, of in found["sources"].items()} == {"news": 4, "wiki": 6}
    assert found["sources"]["news"]["perplexity"] == pytest.approx(math.exp(6 / 4))
    assert found["sources"]["wiki"]["heads"]["next_sentence"]["accuracy"] == 5 / 6


def test_no_targets() -> None:
    found = figures([{"tokens": Sums(0, 0.0, 0, 0)}], 10, whole_text=False)
    assert (found["loss"], found["heads"]["tokens"]["accuracy"]) == (0, 0)
