"""Scores of labels, against scikit-learn and by hand."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from pretrain_stage.errors import UserError
from pretrain_trainer.scores import DEFAULT_METRIC, METRICS, as_json, is_better, metric_of, score
from pretrain_trainer.scores.classification import Classification
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
from sklearn.metrics import log_loss as their_log_loss

REFERENCES = ["好", "好", "差", "差", "差", "中"]
PREDICTIONS = ["好", "差", "差", "差", "好", "差"]
"""Right: 好 1 of 2, 差 2 of 3, 中 never predicted."""


def test_by_hand() -> None:
    scores = score("classification", REFERENCES, PREDICTIONS, labels=["中", "好", "差"])
    assert scores.metrics["accuracy"] == 3 / 6
    details = classification(scores.details)
    assert details.labels == ("中", "好", "差")
    assert details.confusion == ((0, 0, 1), (0, 1, 1), (0, 1, 2))
    good, bad, medium = (details.by_label[label] for label in ("好", "差", "中"))
    assert (good.precision, good.recall, good.support, good.found) == (1 / 2, 1 / 2, 2, 2)
    assert (bad.precision, bad.recall, bad.support, bad.found) == (2 / 4, 2 / 3, 3, 4)
    assert bad.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert (medium.precision, medium.recall, medium.f1, medium.support) == (0, 0, 0, 1)
    assert scores.metrics["macro-precision"] == pytest.approx((0 + 1 / 2 + 2 / 4) / 3)
    assert scores.metrics["macro-recall"] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert metric_of(scores, "macro-f1") == pytest.approx((0 + 1 / 2 + 4 / 7) / 3)
    assert metric_of(scores, "micro-f1") == metric_of(scores, "accuracy")


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_says_the_same(seed: int) -> None:
    drawn = random.Random(seed)
    labels = [f"标签{number}" for number in range(drawn.randint(1, 7))]
    references = drawn.choices(labels, k=40)
    predictions = drawn.choices(labels[: drawn.randint(1, len(labels))], k=40)
    scores = score("classification", references, predictions, labels=labels, resamples=0)
    details = classification(scores.details)
    assert scores.metrics["accuracy"] == accuracy_score(references, predictions)
    for kind, rates in (("macro", details.macro), ("micro", details.micro)):
        theirs = precision_recall_fscore_support(references, predictions, average=kind, zero_division=0)
        assert (rates.precision, rates.recall, rates.f1) == pytest.approx(theirs[:3])
        assert scores.metrics[f"{kind}-f1"] == pytest.approx(theirs[2])
    each = precision_recall_fscore_support(references, predictions, labels=labels, zero_division=0)
    for place, label in enumerate(labels):
        ours = details.by_label[label]
        assert (ours.precision, ours.recall, ours.f1, ours.support) == pytest.approx([of[place] for of in each])
    assert [list(row) for row in details.confusion] == confusion_matrix(references, predictions, labels=labels).tolist()


def test_a_single_class() -> None:
    scores = score("classification", ["是"] * 3, ["是"] * 3)
    assert scores.metrics == dict.fromkeys(("accuracy", "macro-precision", "macro-recall", "macro-f1", "micro-f1"), 1)
    assert classification(scores.details).confusion == ((3,),)
    assert (scores.intervals["accuracy"].low, scores.intervals["accuracy"].high) == (1, 1)


def test_a_label_that_does_not_occur_is_in_the_matrix_and_not_in_the_mean() -> None:
    scores = score("classification", ["a", "b"], ["a", "b"], labels=["a", "b", "c"], resamples=0)
    assert classification(scores.details).confusion == ((1, 0, 0), (0, 1, 0), (0, 0, 0))
    assert scores.metrics["macro-f1"] == 1


def test_log_loss() -> None:
    probabilities = np.array([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
    scores = score("classification", ["x", "y", "x"], ["x", "y", "y"], labels=["x", "y"], probabilities=probabilities)
    assert scores.metrics["log-loss"] == pytest.approx(-(math.log(0.8) + math.log(0.5) + math.log(0.1)) / 3)
    assert scores.metrics["log-loss"] == pytest.approx(their_log_loss(["x", "y", "x"], probabilities, labels=["x", "y"]))
    certain = np.array([[1.0, 0.0]])
    wrong = score("classification", ["y"], ["x"], labels=["x", "y"], probabilities=certain, resamples=0)
    assert math.isfinite(wrong.metrics["log-loss"])


def test_metrics_that_a_model_is_chosen_by() -> None:
    scores = score("classification", REFERENCES, PREDICTIONS, loss=0.5, resamples=0)
    assert all(isinstance(metric_of(scores, name), float) for name in METRICS["classification"])
    assert all(DEFAULT_METRIC[task] in METRICS[task] for task in METRICS)
    with pytest.raises(
        UserError, match=r"bleu is no metric of these predictions \(classification\); choose one of accuracy, loss"
    ):
        metric_of(scores, "bleu")
    assert is_better("loss", 0.4, 0.5)
    assert not is_better("loss", 0.5, 0.5)
    assert is_better("macro-f1", 0.6, 0.5)
    assert not is_better("macro-f1", 0.5, 0.5)
    assert is_better("bleu", 0, None)
    assert not is_better("loss", math.nan, None)


def test_no_examples() -> None:
    scores = score("classification", [], [], labels=["a", "b"])
    assert scores.metrics == dict.fromkeys(("accuracy", "macro-precision", "macro-recall", "macro-f1", "micro-f1"), 0)
    assert scores.intervals == {}


def test_as_json() -> None:
    found = as_json(score("classification", REFERENCES, PREDICTIONS, resamples=20))
    assert found["examples"] == 6
    assert found["task"] == "classification"


def classification(details: object) -> Classification:
    assert isinstance(details, Classification)
    return details
