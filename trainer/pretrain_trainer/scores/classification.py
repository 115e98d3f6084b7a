"""Scores of labels: accuracy, precision, recall, F1, confusion matrix. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretrain_trainer.scores.counts import Rates, by_kind, macro, micro
from pretrain_trainer.scores.interval import Metrics, Multiplicities


@dataclass(frozen=True)
class Classification:
    """What is told of labels besides the metrics.

    confusion: a row for each label that is asked for, a column for each that is predicted, both in the order of `labels`.
    """

    labels: tuple[str, ...]
    by_label: dict[str, Rates]
    macro: Rates
    micro: Rates
    confusion: tuple[tuple[int, ...], ...]


def classify(references: Sequence[str], predictions: Sequence[str], labels: Sequence[str] = ()) -> Classification:
    """The scores of one label for each example. scikit-learn's figures are the same.

    labels: all labels, in the order of the confusion matrix. Omit for those that occur, sorted.
    """
    order = ordered(references, predictions, labels)
    asked, found = (_places(side, order) for side in (references, predictions))
    matrix = np.bincount(asked * len(order) + found, minlength=len(order) ** 2).reshape(len(order), len(order))
    counts = [np.asarray(count, float) for count in (np.diagonal(matrix), matrix.sum(axis=0), matrix.sum(axis=1))]
    return Classification(
        labels=order,
        by_label=by_kind(order, *counts),
        macro=macro(*counts),
        micro=micro(*counts),
        confusion=tuple(tuple(int(cell) for cell in row) for row in matrix),
    )


def resampled_labels(references: Sequence[str], predictions: Sequence[str], groups: Sequence[int] | None = None) -> Metrics:
    """The metrics of a sample of the examples.

    groups: the example that each label belongs to, where examples have several, as words have tags. Omit for one each.
    """
    order = ordered(references, predictions, ())
    asked, found = (_places(side, order) for side in (references, predictions))
    right, size = asked == found, len(order)

    def metrics(sample: Multiplicities) -> dict[str, float]:
        weights = sample if groups is None else sample[np.asarray(groups, int)]
        # Without examples bincount would count in whole numbers.
        counts = [
            np.bincount(places, of, size).astype(float)
            for places, of in ((asked[right], weights[right]), (found, weights), (asked, weights))
        ]
        averaged = macro(*counts)
        return {
            "accuracy": float(counts[0].sum() / counts[2].sum()) if counts[2].sum() else 0.0,
            "macro-precision": averaged.precision,
            "macro-recall": averaged.recall,
            "macro-f1": averaged.f1,
            "micro-f1": micro(*counts).f1,
        }

    return metrics


def ordered(references: Sequence[str], predictions: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that are given, and those that occur besides."""
    return (*labels, *sorted({*references, *predictions}.difference(labels)))


def log_loss(references: Sequence[str], probabilities: NDArray[np.floating], labels: Sequence[str]) -> float:
    """Mean negative log probability of the label that is asked for, in nats.

    probabilities: (examples, labels), in the order of `labels`; each row adds up to 1.
    """
    assert probabilities.shape == (len(references), len(labels)), "one probability for each example and label"
    taken = np.asarray(probabilities, float)[np.arange(len(references)), _places(references, labels)]
    return float(-np.log(np.maximum(taken, np.finfo(float).tiny)).mean())


def _places(side: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    place = {label: number for number, label in enumerate(labels)}
    return np.array([place[label] for label in side], np.int64)
