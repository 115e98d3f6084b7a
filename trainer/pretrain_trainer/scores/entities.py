"""Scores of entities: one counts as found if its type, its first and its last word are right (CoNLL 2003). Pure.

Entities are read by seqeval's strict rules of IOB2: I-PER without a B-PER before it begins no entity, where seqeval's default, which
is that of CoNLL's own script, would begin one and call it right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretrain_trainer.scores.counts import Rates, by_kind, macro, micro
from pretrain_trainer.scores.interval import Metrics, Multiplicities

Tags = Sequence[Sequence[str]]
"""A tag for each word of each example."""


@dataclass(frozen=True)
class Entities:
    """What is told of entities besides the metrics."""

    scheme: str
    by_type: dict[str, Rates]
    macro: Rates
    micro: Rates
    words: int


@dataclass(frozen=True)
class _Counted:
    """Counts of each example: (examples, types), and of words (examples,)."""

    types: tuple[str, ...]
    right: NDArray[np.int64]
    found: NDArray[np.int64]
    asked: NDArray[np.int64]
    right_words: NDArray[np.int64]
    words: NDArray[np.int64]


def is_iob2(tags: Tags) -> bool:
    """Whether those are tags of entities (B-PER, I-PER, O), and not of a kind for each word, such as parts of speech."""
    return all(tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2) for sentence in tags for tag in sentence)


def find_entities(references: Tags, predictions: Tags) -> tuple[Entities, Metrics]:
    """The scores, and the metrics of a sample of the examples. Both sides are of equal lengths, and in IOB2."""
    counted = _count(references, predictions)

    def metrics(sample: Multiplicities) -> dict[str, float]:
        counts = [(sample @ count).astype(float) for count in (counted.right, counted.found, counted.asked)]
        words = int(sample @ counted.words)
        f1 = micro(*counts).f1
        return {
            "accuracy": float(sample @ counted.right_words) / words if words else 0.0,
            "macro-f1": macro(*counts).f1,
            "micro-f1": f1,
            "entity-f1": f1,
        }

    whole = [count.sum(axis=0).astype(float) for count in (counted.right, counted.found, counted.asked)]
    found = Entities(
        scheme="IOB2, strict",
        by_type=by_kind(counted.types, *whole),
        macro=macro(*whole),
        micro=micro(*whole),
        words=int(counted.words.sum()),
    )
    return found, metrics


def _count(references: Tags, predictions: Tags) -> _Counted:
    asked, found = _spans(references), _spans(predictions)
    types = tuple(sorted({entity[0] for side in (asked, found) for entities in side for entity in entities}))
    same = [one & other for one, other in zip(asked, found, strict=True)]
    return _Counted(
        types=types,
        right=_by_type(same, types),
        found=_by_type(found, types),
        asked=_by_type(asked, types),
        right_words=np.array(
            [sum(map(str.__eq__, one, other)) for one, other in zip(references, predictions, strict=True)], int
        ),
        words=np.array([len(sentence) for sentence in references], int),
    )


def _spans(tags: Tags) -> list[set[tuple[str, int, int]]]:
    """The entities of each example: type, first word, word after the last."""
    from seqeval.scheme import IOB2
    from seqeval.scheme import Entities as Read

    found = Read([list(sentence) for sentence in tags], IOB2).entities
    return [{(entity.tag, entity.start, entity.end) for entity in entities} for entities in found]


def _by_type(entities: Sequence[set[tuple[str, int, int]]], types: Sequence[str]) -> NDArray[np.int64]:
    place = {kind: number for number, kind in enumerate(types)}
    counts = np.zeros((len(entities), len(types)), np.int64)
    for row, found in enumerate(entities):
        for kind, _, _ in found:
            counts[row, place[kind]] += 1
    return counts
