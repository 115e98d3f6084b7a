"""The metrics and labels that a query names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pretrain_operator.monitoring.catalogues import BY_NAME
from pretrain_stage.metric import Metric

SELECTOR = re.compile(r"\b(pretrain_\w+)(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def selectors(query: str) -> Iterator[tuple[Metric, set[str]]]:
    """Each metric of ours that a query names, with the labels that it is chosen by. KeyError if a name is in no catalogue."""
    for name, matchers in SELECTOR.findall(query):
        base = name
        for part in ("_bucket", "_sum", "_count"):
            whole = name.removesuffix(part)
            if whole != name and whole in BY_NAME and BY_NAME[whole].kind == "histogram":
                base = whole
        metric = BY_NAME[base]
        assert (base != name) == (metric.kind == "histogram"), f"{name}: of a {metric.kind}"
        yield metric, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def groupings(query: str) -> set[str]:
    """All labels that a query groups by or matches on."""
    return {label.strip() for found in GROUPING.findall(query) for label in found.split(",") if label.strip()}
