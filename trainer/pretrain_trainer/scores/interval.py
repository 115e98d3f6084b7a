"""How sure a figure is: bootstrap intervals, and the difference of two systems on the same examples. Pure.

A metric is handed over as a function of multiplicities: how often each example occurs in a sample. Drawing examples with
replacement is drawing multiplicities, so predictions are looked at once, whatever the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Multiplicities = NDArray[np.int64]
"""(examples,): how often each example occurs in a sample."""
Metrics = Callable[[Multiplicities], Mapping[str, float]]
"""The metrics of a sample, by name."""

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Where a metric lies with a probability of LEVEL, were other examples of the same kind drawn."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Two systems on the same examples. difference: second minus first; p_value: two-sided, of there being none."""

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float
    resamples: int
    seed: int


def intervals(metrics: Metrics, examples: int, resamples: int, seed: int) -> dict[str, Interval]:
    """Percentile intervals (Efron and Tibshirani 1993, chapter 13) of all metrics. Nothing without examples or resamples."""
    if not examples or not resamples:
        return {}
    drawn = [metrics(sample) for sample in _samples(examples, resamples, seed)]
    return {name: _interval(np.array([values[name] for values in drawn])) for name in drawn[0]}


def difference(metric: str, first: Metrics, second: Metrics, examples: int, resamples: int, seed: int) -> Difference:
    """The paired bootstrap (Koehn 2004): both systems are asked about the same samples.

    The p-value is the share of samples whose difference is as far from the observed one as that is from none, the observed
    one counted among them (Riezler and Maxwell 2005; the test that sacreBLEU makes too).
    """
    assert min(examples, resamples) > 0, "a difference needs examples and resamples"
    once = np.ones(examples, np.int64)
    values = first(once)[metric], second(once)[metric]
    observed = values[1] - values[0]
    drawn = np.array([second(s)[metric] - first(s)[metric] for s in _samples(examples, resamples, seed)])
    # Sums in another order differ in their last bits, and a difference that is as large must not be taken for a smaller one.
    as_far = np.abs(drawn - observed) >= abs(observed) - 1e-12 * max(1.0, abs(values[0]), abs(values[1]))
    inside = _interval(drawn)
    return Difference(
        metric=metric,
        first=values[0],
        second=values[1],
        difference=observed,
        low=inside.low,
        high=inside.high,
        p_value=float(as_far.sum() + 1) / (resamples + 1),
        resamples=resamples,
        seed=seed,
    )


def _samples(examples: int, resamples: int, seed: int) -> Iterator[Multiplicities]:
    """The samples of a seed; the same for whatever is measured on them."""
    random = np.random.Generator(np.random.PCG64(seed))
    for _ in range(resamples):
        yield np.bincount(random.integers(examples, size=examples), minlength=examples)


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
