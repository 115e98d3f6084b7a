"""Which source each sample is from: a pure function of the shares and the global sample index.

Two sources are interleaved as Bresenham's line is drawn: of the first n samples, the first source has n times its share, rounded.
More sources are a binary tree of such pairs, halves of the list against each other, so that after any number of samples none
is further from its share than half a sample for each level of the tree: 2 samples with 16 sources. It is exact arithmetic of
integers, a few operations for an index. The usual way (Megatron-LM's blended data set) gives each sample to the source that
lags most; that is as even, but has to walk through all the samples before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from pretrain_stage.errors import UserError

from pretrain_trainer.config.mixture import SourceShare
from pretrain_trainer.order import chance_at, sample_order

Shares = Sequence[int]
"""How much of each source is wanted, as integers in proportion; their sum is not 0."""


@dataclass(frozen=True)
class Place:
    """Where a sample is taken from."""

    source: int
    sample: int
    """Its place in the text of the source, in samples."""
    epoch: int
    """Passes over that text that were complete before it."""


@dataclass(frozen=True)
class Mixture:
    """The sources of a run in order, those without text left out."""

    names: tuple[str, ...]
    in_a_pass: tuple[int, ...]
    """Samples in one pass over each."""
    shares: tuple[int, ...]
    seed: int

    def places(self, indices: Sequence[int]) -> list[Place]:
        """Which samples stand at those global indices. Each pass over a source is a permutation of its samples."""
        found: dict[int, Place] = {}
        drawn: dict[int, list[tuple[int, int]]] = {}
        for index in indices:
            source, number = source_at(index, self.shares)
            drawn.setdefault(source, []).append((index, number))
        for source, of_source in drawn.items():
            numbers = np.array([number for _, number in of_source])
            samples = sample_order(self.seed, self.in_a_pass[source], numbers, self.names[source]).tolist()
            for (index, number), sample in zip(of_source, samples, strict=True):
                found[index] = Place(source, sample, number // self.in_a_pass[source])
        return [found[index] for index in indices]

    def number(self, place: Place) -> int:
        """The sample's number when the sources' texts are put one behind the other, in samples."""
        return sum(self.in_a_pass[: place.source]) + place.sample

    def chance(self, index: int) -> np.random.Generator:
        """The random numbers of the sample at a global index."""
        return chance_at("training samples", self.seed, index)

    def of_each(self, samples: int) -> list[int]:
        """How many of the first samples of the run are from each source."""
        return samples_of_each(samples, self.shares)

    def epochs(self, samples: int) -> list[float]:
        """Passes over each source in that many samples."""
        return [taken / whole for taken, whole in zip(self.of_each(samples), self.in_a_pass, strict=True)]

    def most_samples(self, epochs: int, step: int) -> int:
        """With how many samples, in whole steps of `step`, no source is passed over more than `epochs` times."""
        few, many = 0, 1
        while self._within(many * step, epochs):
            few, many = many, 2 * many
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (middle, many) if self._within(middle * step, epochs) else (few, middle)
        return few * step

    def _within(self, samples: int, epochs: int) -> bool:
        return all(taken <= epochs * whole for taken, whole in zip(self.of_each(samples), self.in_a_pass, strict=True))


def source_at(index: int, shares: Shares) -> tuple[int, int]:
    """Which source stands at a global sample index, and how many samples of it stand before."""
    first, stop = 0, len(shares)
    while stop - first > 1:
        middle = (first + stop) // 2
        left, both = sum(shares[first:middle]), sum(shares[first:stop])
        before = _of_first(index, left, both)
        if _of_first(index + 1, left, both) > before:
            index, stop = before, middle
        else:
            index, first = index - before, middle
    return first, index


def samples_of_each(samples: int, shares: Shares) -> list[int]:
    """How many of the first samples are from each source."""
    if len(shares) == 1:
        return [samples]
    middle = len(shares) // 2
    left = _of_first(samples, sum(shares[:middle]), sum(shares))
    return samples_of_each(left, shares[:middle]) + samples_of_each(samples - left, shares[middle:])


def _of_first(samples: int, share: int, both: int) -> int:
    """How many of the first samples of a pair are from the one with `share` of `both`: rounded, halves up."""
    return (2 * samples * share + both) // (2 * both) if both else 0


def wanted_shares(sources: Mapping[str, SourceShare], in_a_pass: Mapping[str, int], samples: int, step: int) -> list[int]:
    """How much of each source in `in_a_pass` is wanted: the smallest integers in proportion.

    sources: what the job says of them, by name. in_a_pass: samples in one pass over each. samples: in the whole run, in steps of
    `step`. A source with epochs gets so many passes; the others share what is left by their weights, or in proportion to
    their text if none has any.
    Raises UserError if these do not fit each other, or a source that is wanted has no sample.
    """
    asked = {name: sources.get(name, SourceShare(name=name)) for name in {**in_a_pass, **sources}}
    for name, source in asked.items():
        if (source.weight or source.epochs) and not in_a_pass.get(name):
            given = f"weight {source.weight:g}" if source.weight else f"epochs {source.epochs:g}"
            raise UserError(
                f"spec.corpus.sources: {name} has {given}, but its training text is shorter than one sample; add text to it, "
                "shorten training.sequenceLength, or remove the source"
            )
    passes = {name: exact(epochs) * in_a_pass[name] for name in in_a_pass if (epochs := asked[name].epochs) is not None}
    left = samples - sum(passes.values())
    others = [name for name in in_a_pass if name not in passes]
    if left <= -step or (not others and left >= step):
        raise UserError(
            f"spec.corpus.sources: epochs come to {float(sum(passes.values())):,.0f} samples, but training.tokens to "
            f"{samples:,}; change epochs or tokens so that they agree, or leave the rest to a source without epochs"
        )
    weights = {name: exact(weight) for name in others if (weight := asked[name].weight) is not None}
    if weights and len(weights) < len(others):
        lacking = next(name for name in others if name not in weights)
        raise UserError(
            f"spec.corpus.sources: {lacking} has neither weight nor epochs, but others have weights; give it one, or remove theirs"
        )
    shared = weights or {name: Fraction(in_a_pass[name]) for name in others}
    whole = sum(shared.values()) or Fraction(1)
    rest = {name: max(left, Fraction(0)) * part / whole for name, part in shared.items()}
    shares = proportional([passes[name] if name in passes else rest[name] for name in in_a_pass])
    if not any(shares):
        raise UserError("spec.corpus.sources: every weight is 0, so there is nothing to train on; raise one")
    return shares


def exact(number: float) -> Fraction:
    """The number as it was written: 0.7 is seven tenths."""
    return Fraction(repr(number))


def proportional(wanted: Sequence[Fraction]) -> list[int]:
    """The smallest integers in the proportion of those numbers."""
    scale = lcm(*(number.denominator for number in wanted))
    whole = [int(number * scale) for number in wanted]
    common = gcd(*whole) or 1
    return [number // common for number in whole]
