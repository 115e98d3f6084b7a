"""Which source each sample is from."""

from __future__ import annotations

import math
import random
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from pretrain_stage.errors import UserError
from pretrain_trainer.config.mixture import SourceShare
from pretrain_trainer.mixture import Mixture, proportional, samples_of_each, source_at, wanted_shares

SHARES = [(1,), (1, 1), (7, 3), (1, 0, 2), (0, 5), (1, 1, 1), (997, 2, 1), (10**15, 10**15 - 1, 3), tuple(range(1, 17))]


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_every_beginning_is_close_to_the_shares(shares: tuple[int, ...]) -> None:
    """Half a sample for each level of the tree, and each sample of a source stands once, in its order."""
    most = math.ceil(math.log2(len(shares))) / 2
    counts = [0] * len(shares)
    for index in range(3000):
        source, number = source_at(index, shares)
        assert number == counts[source]
        counts[source] += 1
        assert samples_of_each(index + 1, shares) == counts
        for share, count in zip(shares, counts, strict=True):
            assert abs(count - Fraction((index + 1) * share, sum(shares))) <= most
    assert all(count == 0 for share, count in zip(shares, counts, strict=True) if share == 0)


def test_an_index_far_away_needs_no_walk() -> None:
    shares = (3, 5, 8)
    first = samples_of_each(10**18, shares)
    assert sum(first) == 10**18
    source, number = source_at(10**18, shares)
    assert number == first[source]


def mixture(seed: int = 1) -> Mixture:
    return Mixture(("a", "b", "c"), (40, 1000, 7), (2, 1, 1), seed)


def test_each_source_is_passed_over_in_an_order_of_its_own() -> None:
    places = mixture().places(range(400))
    assert [place.source for place in mixture().places([3, 399])] == [places[3].source, places[399].source]
    assert Counter(place.source for place in places) == {0: 200, 1: 100, 2: 100}
    first = [place.sample for place in places if place.source == 0]
    for epoch in range(5):
        assert sorted(first[epoch * 40 : (epoch + 1) * 40]) == list(range(40))
    assert [place.epoch for place in places if place.source == 0] == [number // 40 for number in range(200)]
    assert first[:40] != first[40:80]
    alone = Mixture(("z", "b"), (1000, 1000), (1, 1), 1).places(range(200))
    assert [place.sample for place in alone if place.source == 1] == [place.sample for place in places if place.source == 1]
    assert [place.sample for place in alone if place.source == 0] != [place.sample for place in alone if place.source == 1]


def test_most_samples_are_what_no_source_exceeds() -> None:
    found = mixture().most_samples(epochs=3, step=8)
    assert max(mixture().epochs(found)) <= 3 < max(mixture().epochs(found + 8))


def shares(in_a_pass: dict[str, int], samples: int = 1000, **sources: dict[str, Any]) -> list[int]:
    given = {name: SourceShare(name=name, **fields) for name, fields in sources.items()}
    return wanted_shares(given, in_a_pass, samples, 10)


def test_shares_follow_from_text_weights_and_epochs() -> None:
    assert shares({"a": 30, "b": 10}) == [3, 1]
    assert shares({"a": 30, "b": 10}, a={}, b={}) == [3, 1]
    assert shares({"a": 30, "b": 10}, a={"weight": 0.7}, b={"weight": 0.3}) == [7, 3]
    assert shares({"a": 30, "b": 10}, a={"weight": 0}, b={"weight": 1}) == [0, 1]
    assert shares({"a": 100, "b": 10}, a={"epochs": 2.5}) == [1, 3], "250 of 1000"
    assert shares({"a": 100, "b": 10, "c": 30}, a={"epochs": 4}) == [8, 3, 9], "the rest in proportion to the text"
    assert shares({"a": 100, "b": 10, "c": 30}, a={"epochs": 4}, b={"weight": 1}, c={"weight": 1}) == [4, 3, 3]
    assert shares({"a": 100, "b": 10}, a={"epochs": 9.9}, b={"epochs": 1}) == [99, 1]
    assert shares({"a": 100, "b": 10}, 1009, a={"epochs": 9.9}, b={"epochs": 1}) == [99, 1], "a step is not to be divided"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"a": {"epochs": 11}}, "epochs come to 1,100 samples, but training.tokens to 1,000; change epochs or tokens"),
        ({"a": {"epochs": 3}, "b": {"epochs": 1}}, "epochs come to 310 samples, but training.tokens to 1,000; change"),
        ({"a": {"weight": 1}}, "b has neither weight nor epochs, but others have weights; give it one, or remove theirs"),
        ({"a": {"weight": 0}, "b": {"weight": 0}}, "every weight is 0, so there is nothing to train on; raise one"),
        ({"c": {"weight": 2}}, "c has weight 2, but its training text is shorter than one sample; add text to it"),
        ({"c": {"epochs": 2}}, "c has epochs 2, but its training text is shorter than one sample"),
    ],
)
def test_shares_that_cannot_be_are_refused(given: dict[str, dict[str, Any]], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        shares({"a": 100, "b": 10}, 1000, **given)
    assert str(error.value).startswith(f"spec.corpus.sources: {sentence}")


def test_proportions_are_exact() -> None:
    chance = random.Random(0)
    for _ in range(50):
        wanted = [Fraction(chance.randrange(10), chance.randrange(1, 30)) for _ in range(4)] + [Fraction(1, 7)]
        found = proportional(wanted)
        assert math.gcd(*found) == 1
        assert [Fraction(number, found[-1]) for number in found] == [number / wanted[-1] for number in wanted]
