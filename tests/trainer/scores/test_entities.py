"""Scores of entities, against seqeval and by hand."""

from __future__ import annotations

import random

import pytest
from pretrain_trainer.scores import metric_of, score
from pretrain_trainer.scores.classification import Classification
from pretrain_trainer.scores.entities import Entities
from seqeval.metrics import accuracy_score, classification_report, f1_score
from seqeval.scheme import IOB2

REFERENCES = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "O"], ["B-LOC", "B-LOC"]]
PREDICTIONS = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "O"], ["B-LOC", "B-LOC"]]
"""PER: one asked for, none right (too short), two found. LOC: three asked for, all right, none besides."""


def test_by_hand() -> None:
    scores = score("token-classification", REFERENCES, PREDICTIONS)
    details = entities(scores.details)
    person, place = details.by_type["PER"], details.by_type["LOC"]
    assert (person.precision, person.recall, person.f1, person.support, person.found) == (0, 0, 0, 1, 2)
    assert (place.precision, place.recall, place.f1, place.support, place.found) == (1, 1, 1, 3, 3)
    assert metric_of(scores, "entity-f1") == pytest.approx(2 * 3 / (4 + 5))
    assert metric_of(scores, "macro-f1") == 1 / 2
    assert metric_of(scores, "accuracy") == 6 / 8


def test_what_does_not_begin_is_no_entity() -> None:
    references, predictions = [["B-PER", "I-PER", "O"]], [["I-PER", "I-PER", "O"]]
    assert f1_score(references, predictions) == 1, "seqeval's default calls that right"
    assert metric_of(score("token-classification", references, predictions), "entity-f1") == 0


def test_a_type_that_changes_inside_ends_the_entity() -> None:
    scores = score("token-classification", [["B-PER", "I-LOC"]], [["B-PER", "I-PER"]])
    assert metric_of(scores, "entity-f1") == 0
    assert metric_of(score("token-classification", [["B-PER", "I-LOC"]], [["B-PER", "O"]]), "entity-f1") == 1


@pytest.mark.parametrize("seed", range(5))
def test_seqeval_says_the_same(seed: int) -> None:
    drawn = random.Random(seed)
    tags = ["O", "B-人", "I-人", "B-地", "I-地", "B-机构", "I-机构"]
    references = [drawn.choices(tags, k=drawn.randint(1, 12)) for _ in range(60)]
    predictions = [[tag if drawn.random() < 0.7 else drawn.choice(tags) for tag in tags] for tags in references]
    scores = score("token-classification", references, predictions, resamples=0)
    details = entities(scores.details)
    theirs = classification_report(references, predictions, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    for kind, rates in (*details.by_type.items(), ("macro avg", details.macro), ("micro avg", details.micro)):
        expected = theirs[kind]
        ours = (rates.precision, rates.recall, rates.f1, rates.support)
        assert ours == pytest.approx((expected["precision"], expected["recall"], expected["f1-score"], expected["support"]))
    assert scores.metrics["accuracy"] == accuracy_score(references, predictions)


def test_nothing_found() -> None:
    scores = score("token-classification", REFERENCES, [["O"] * len(tags) for tags in REFERENCES])
    assert scores.metrics["entity-f1"] == 0
    assert scores.metrics["accuracy"] == 3 / 8


def test_tags_that_are_no_entities_are_labels_of_words() -> None:
    scores = score("token-classification", [["n", "v"], ["n", "O"]], [["n", "n"], ["n", "O"]])
    assert isinstance(scores.details, Classification)
    assert scores.details.labels == ("O", "n", "v")
    assert scores.metrics["accuracy"] == 3 / 4
    assert scores.metrics["macro-f1"] == pytest.approx((1 + 4 / 5 + 0) / 3)
    assert "entity-f1" not in scores.metrics
    low, high = scores.intervals["accuracy"].low, scores.intervals["accuracy"].high
    assert (low, high) == (1 / 2, 1), "sentences are drawn, not words"


def entities(details: object) -> Entities:
    assert isinstance(details, Entities)
    return details
