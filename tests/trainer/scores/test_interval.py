"""Intervals and differences."""

from __future__ import annotations

import random

import numpy as np
import pytest
from pretrain_stage.finetune import Task
from pretrain_trainer.scores import compare, score
from pretrain_trainer.scores.interval import intervals


def labels(right: int, wrong: int) -> tuple[list[str], list[str]]:
    return ["a", "b"] * ((right + wrong) // 2), ["a", "b"] * (right // 2) + ["b", "a"] * (wrong // 2)


def test_an_interval_is_as_wide_as_statistics_says() -> None:
    references, predictions = labels(800, 200)
    found = score("classification", references, predictions).intervals["accuracy"]
    half = 1.96 * (0.8 * 0.2 / 1000) ** 0.5
    assert found.low == pytest.approx(0.8 - half, abs=0.005)
    assert found.high == pytest.approx(0.8 + half, abs=0.005)


def test_an_interval_follows_from_its_seed() -> None:
    references, predictions = labels(60, 40)
    one, same, other = (score("classification", references, predictions, seed=seed).intervals for seed in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("task", "references", "predictions"),
    [
        ("classification", ["a", "b", "c", "a"], ["a", "c", "c", "b"]),
        ("token-classification", [["B-X"], ["B-Y", "O"], ["O"]], [["B-X"], ["B-X", "O"], ["B-Y"]]),
        ("token-classification", [["n", "v"], ["n"]], [["n", "n"], ["v"]]),
        ("generation", ["我爱北京天安门", "今天下雨", "好"], ["我爱北京", "今天下雨了", ""]),
    ],
)
def test_a_sample_is_scored_as_if_its_examples_were_all(task: Task, references: list[str], predictions: list[str]) -> None:
    """By scoring each drawn sample as a set of examples of its own."""
    count = len(references)
    found = score(task, references, predictions, resamples=30, seed=3).intervals
    generator = np.random.Generator(np.random.PCG64(3))
    drawn = []
    for _ in range(30):
        places = generator.integers(count, size=count)
        sides = ([side[place] for place in places] for side in (references, predictions))
        drawn.append(score(task, *sides, resamples=0, chinese=True).metrics)
    assert found.keys() == drawn[0].keys()
    for name, interval in found.items():
        low, high = np.quantile([metrics[name] for metrics in drawn], [0.025, 0.975])
        assert (interval.low, interval.high) == pytest.approx((low, high))


def test_systems_that_are_equally_good() -> None:
    references, predictions = labels(60, 40)
    same = compare("classification", references, predictions, predictions, "accuracy")
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    rotated = [*predictions[50:], *predictions[:50]]
    tied = compare("classification", references, predictions, rotated, "accuracy")
    assert tied.difference == 0
    assert tied.p_value == 1
    assert tied.low < 0 < tied.high


def test_a_difference_that_is_none_by_chance() -> None:
    references = ["a"] * 200
    worse = ["b"] * 60 + ["a"] * 140
    better = ["b"] * 20 + ["a"] * 180
    found = compare("classification", references, worse, better, "accuracy")
    assert (found.first, found.second) == (0.7, 0.9)
    assert found.difference == pytest.approx(0.2)
    assert 0 < found.low < 0.2 < found.high
    assert found.p_value == pytest.approx(1 / 1001)


def test_pairs_are_kept() -> None:
    """Two systems that err on nearly the same examples: apart their intervals overlap, paired the difference is plain."""
    references = ["a"] * 300
    first = ["b"] * 100 + ["a"] * 200
    second = ["b"] * 85 + ["a"] * 215
    apart = [score("classification", references, side).intervals["accuracy"] for side in (first, second)]
    assert apart[0].high > apart[1].low
    assert compare("classification", references, first, second, "accuracy").p_value < 0.01


def test_a_p_value_is_one_of_chance_where_there_is_only_chance() -> None:
    """Of systems that differ by chance alone one in twenty has a p-value below 0.05."""
    drawn = random.Random(0)
    low = 0
    for _ in range(100):
        first, second = (drawn.choices("ab", k=100) for _ in range(2))
        low += compare("classification", ["a"] * 100, first, second, "accuracy", resamples=100).p_value < 0.05
    assert 1 <= low <= 12


def test_bleu_of_two_systems() -> None:
    references = ["the cat sat on the mat today", "it rains in the city of light"] * 15
    worse = ["a cat sat at a mat today", "it rains at the city of light"] * 15
    found = compare("generation", references, worse, references, "bleu", resamples=100)
    assert found.second == pytest.approx(100)
    assert found.difference > 20
    assert found.p_value == pytest.approx(1 / 101)


def test_nothing_to_draw_from() -> None:
    assert intervals(lambda sample: {"x": 1.0}, 0, 100, 0) == {}
    assert intervals(lambda sample: {"x": 1.0}, 10, 0, 0) == {}
