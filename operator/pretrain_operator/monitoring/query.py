"""PromQL made from the catalogues: a metric or a label that is not in them is an error here, not an empty panel."""

from __future__ import annotations

import re
from typing import Literal

from pretrain_stage.metric import JOB_LABELS, Metric

MATCHER = re.compile(r"^([a-z_]+)(=|!=|=~|!~)\"[^\"]*\"$")
JOB = ", ".join(JOB_LABELS)
"""What all series of a job are grouped by: a restarted pod, or a second replica, is another series of the same job."""


def series(metric: Metric, *matchers: str, part: Literal["", "_bucket", "_sum", "_count"] = "") -> str:
    """A selector. matchers: such as `state="stalled"`. part: of a histogram."""
    assert (metric.kind == "histogram") == bool(part), f"{metric.name} is a {metric.kind}"
    for matcher in matchers:
        assert _label(matcher) in metric.labels, f"{metric.name} has no such label: {matcher}"
    return _selector(metric.name + part, matchers)


def target_series(metric: Metric, *matchers: str) -> str:
    """A selector that goes by what Prometheus knows of the target, such as `namespace="pretrain-system"`."""
    for matcher in matchers:
        assert _label(matcher) not in metric.labels, f"{metric.name} has this label by itself: {matcher}"
    return _selector(metric.name, matchers)


def rate(metric: Metric, window: str, *matchers: str, part: Literal["", "_bucket", "_sum", "_count"] = "") -> str:
    """What a counter gains in a second."""
    return f"rate({series(metric, *matchers, part=part)}[{window}])"


def increase(metric: Metric, window: str, *matchers: str) -> str:
    """What a counter gains in the window."""
    return f"increase({series(metric, *matchers)}[{window}])"


def most(metric: Metric, window: str, *matchers: str) -> str:
    """The largest value in the window, though its target may be gone."""
    return f"max_over_time({series(metric, *matchers)}[{window}])"


def one_each(expression: str, *labels: str) -> str:
    """One value for each job (and value of `labels`), where several targets tell the same."""
    return f"max by ({', '.join((JOB, *labels))}) ({expression})"


def total_each(expression: str, *labels: str) -> str:
    """One value for each job (and value of `labels`), where several targets tell parts of it."""
    return f"sum by ({', '.join((JOB, *labels))}) ({expression})"


def quantile(share: float, metric: Metric, window: str, *matchers: str) -> str:
    """A quantile of a histogram over all its series."""
    return f"histogram_quantile({share:g}, sum by (le) ({rate(metric, window, *matchers, part='_bucket')}))"


def mean(metric: Metric, window: str, *matchers: str) -> str:
    """The mean of what a histogram observed in the window, for each job."""
    total, count = (total_each(rate(metric, window, *matchers, part=part)) for part in ("_sum", "_count"))
    return f"{total} / {count}"


def _label(matcher: str) -> str:
    found = MATCHER.match(matcher)
    assert found is not None, f"not a matcher: {matcher}"
    return found[1]


def _selector(name: str, matchers: tuple[str, ...]) -> str:
    return f"{name}{{{','.join(matchers)}}}" if matchers else name
