"""Samples of pretraining by global index: the same whoever draws them, in whatever order."""

from __future__ import annotations

import numpy as np
import pytest
from pretrain_trainer.config.window import window_of
from pretrain_trainer.mixture import Mixture
from pretrain_trainer.objective import Sample
from pretrain_trainer.objectives import objective_of
from pretrain_trainer.samples import TextSamples

from tests.trainer.texts import OBJECTIVES, documents, special, text, training

TEXTS = [text([documents(30), documents(20, seed=1)], "a"), text([documents(40, seed=2)], "b")]


def samples(objective: str, seed: int = 1) -> TextSamples:
    section = training(objective, 64)
    in_a_pass = tuple(window_of(section).samples(len(one)) for one in TEXTS)
    return TextSamples(
        objective_of(section, special()), TEXTS, Mixture(("a", "b"), in_a_pass, (2, 1), seed), numbered=seed == 1
    )


def same(one: Sample, other: Sample) -> bool:
    rows = ((one.inputs, other.inputs), (one.targets, other.targets))
    return all(np.array_equal(a[name], b[name]) for a, b in rows for name in a if name != "sample")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_index_has_one_sample(objective: str) -> None:
    drawn = samples(objective).at(range(60))
    again = samples(objective)
    assert all(same(again.at(range(index, index + 1))[0], drawn[index]) for index in reversed(range(60)))
    other = samples(objective, seed=2).at(range(60))
    assert sum(same(a, b) for a, b in zip(drawn, other, strict=True)) < 6, "but for chance"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_samples_stack_and_their_targets_are_counted(objective: str) -> None:
    all_of = samples(objective)
    inputs, targets = all_of.together(all_of.at(range(16)))
    assert inputs["sample"].tolist() == list(range(16))
    assert {len(rows) for rows in (*inputs.values(), *targets.values())} == {16}
    assert inputs["tokens"].shape == (16, 64)
    told = all_of.targets(range(16))
    counted = {head: int((rows != -100).sum()) for head, rows in targets.items()}
    assert told in (None, counted)
    assert (told is None) == objective.startswith("masked-lm")
    assert counted.get("next_sentence", 16) == 16


def test_places_tell_sources_apart() -> None:
    all_of = samples("causal-lm")
    first, second = all_of.mixture.in_a_pass
    places = all_of.places(range(2 * first))
    in_first = [place for place in places if place < first]
    assert sorted(in_first[:first]) == list(range(first))
    assert {place >= first for place in places} == {True, False}
    assert max(places) < first + second
