"""Scores: figures of references and predictions, with intervals. Pure functions; whoever has predictions may ask.

Fine-tuning asks for validation, for early stopping and for its test set, the course's baselines for their rows; all get
the same figures from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Metric, Task
from pydantic import JsonValue

from pretrain_trainer.scores.classification import Classification, classify, log_loss, resampled_labels
from pretrain_trainer.scores.entities import Entities, find_entities, is_iob2
from pretrain_trainer.scores.generation import Generation, compare_texts
from pretrain_trainer.scores.interval import Difference, Interval, Metrics, difference, intervals

RESAMPLES = 1_000

METRICS: dict[Task, tuple[Metric, ...]] = {
    "classification": ("loss", "accuracy", "macro-f1", "micro-f1"),
    "token-classification": ("loss", "accuracy", "macro-f1", "micro-f1", "entity-f1"),
    "generation": ("loss", "bleu", "rouge-l", "exact-match", "token-f1"),
}
"""The metrics that a model of a task can be chosen by."""
DEFAULT_METRIC: dict[Task, Metric] = {
    "classification": "macro-f1",
    "token-classification": "entity-f1",
    "generation": "loss",
}


@dataclass(frozen=True)
class Scores:
    """Figures of predictions. metrics: by name; bleu from 0 to 100, losses in nats, all others from 0 to 1.

    intervals: of those metrics that can be taken of a sample. details: what is told besides.
    """

    task: Task
    examples: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    resamples: int
    seed: int
    details: Classification | Entities | Generation


def score(
    task: Task,
    references: Sequence[Any],
    predictions: Sequence[Any],
    *,
    labels: Sequence[str] = (),
    probabilities: NDArray[np.floating] | None = None,
    loss: float | None = None,
    chinese: bool | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Scores:
    """The figures of a task.

    references, predictions: an item for each example.
        classification: labels.
        token-classification: lists of tags, one a word. Tags that are not all of IOB2 are scored as labels of words.
        generation: texts; a reference may be a list of texts, the best of which counts.
    labels: classification: all labels, in the order of the confusion matrix and of `probabilities`.
    probabilities: classification: (examples, labels), for the metric log-loss.
    loss: mean loss in nats, which only the model knows; it becomes the metric loss.
    chinese: generation: whether texts are taken by characters. Omit to look at the references.
    resamples: samples of the bootstrap, which intervals are made of; 0 for none, as validation needs none.
    """
    assert len(references) == len(predictions), "a prediction for each reference"
    details, sampled = _scored(task, references, predictions, labels, chinese)
    metrics = dict(sampled(np.ones(len(references), np.int64)))
    if probabilities is not None:
        metrics["log-loss"] = log_loss(references, probabilities, labels)
    if loss is not None:
        metrics["loss"] = loss
    found = intervals(sampled, len(references), resamples, seed)
    return Scores(task, len(references), metrics, found, resamples, seed, details)


def metric_of(scores: Scores, name: str) -> float:
    """One metric. Raises UserError if the task has none of that name."""
    if name not in scores.metrics:
        raise UserError(
            f"metric: {name} is no metric of these predictions ({scores.task}); choose one of {', '.join(sorted(scores.metrics))}"
        )
    return scores.metrics[name]


def is_better(name: Metric, value: float, best: float | None) -> bool:
    """Whether a value is better than the best so far (None: there is none): lower of loss, higher of all others.

    A value that is no number is better than none.
    """
    assert name in get_args(Metric), f"unknown metric {name!r}"
    if np.isnan(value):
        return False
    return best is None or (value < best if name == "loss" else value > best)


def compare(
    task: Task,
    references: Sequence[Any],
    first: Sequence[Any],
    second: Sequence[Any],
    metric: str,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """By how much the second system is better than the first on the same examples, and whether that may be chance."""
    systems = [_scored(task, references, predictions, (), None)[1] for predictions in (first, second)]
    return difference(metric, systems[0], systems[1], len(references), resamples, seed)


def as_json(scores: Scores) -> dict[str, JsonValue]:
    """The scores as JSON has them."""
    return asdict(scores)


def _scored(
    task: Task, references: Sequence[Any], predictions: Sequence[Any], labels: Sequence[str], chinese: bool | None
) -> tuple[Classification | Entities | Generation, Metrics]:
    match task:
        case "classification":
            return classify(references, predictions, labels), resampled_labels(references, predictions)
        case "token-classification":
            pairs = zip(references, predictions, strict=True)
            assert all(len(one) == len(other) for one, other in pairs), "a predicted tag for each word"
            if is_iob2([*references, *predictions]):
                return find_entities(references, predictions)
            flat = [[tag for tags in side for tag in tags] for side in (references, predictions)]
            groups = [number for number, tags in enumerate(references) for _ in tags]
            return classify(flat[0], flat[1], labels), resampled_labels(flat[0], flat[1], groups)
        case "generation":
            texts = [[one] if isinstance(one, str) else list(one) for one in references]
            return compare_texts(texts, predictions, chinese)
