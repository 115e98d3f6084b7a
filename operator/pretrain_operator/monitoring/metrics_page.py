"""docs/metrics.md: every metric of every program, from the catalogues."""

from __future__ import annotations

from pretrain_stage.metric import SECONDS_BUCKETS, Metric

from pretrain_operator.monitoring.catalogues import BOUNDS, PROGRAMS, bound

HEAD = """\
# Metrics

Made from the catalogues in the code by `make generate`; edit those, not this page. How to have them scraped, the dashboards and
the alerts: [monitoring.md](monitoring.md).

Names, units and types follow Prometheus' rules. A series of a job carries `namespace` and `name`, those of its PretrainJob. The
values of all labels are bounded ([below](#labels)): no step, no pod, no text of an error. Prometheus itself adds labels of the
target, such as `instance` and `pod`. A histogram has the series `_bucket`, `_sum` and `_count`; its buckets, in seconds, are
"""


def page() -> str:
    """The text of the page."""
    buckets = ", ".join(f"{bucket:g}" for bucket in SECONDS_BUCKETS)
    parts = [f"{HEAD}{buckets}.\n"]
    for program in PROGRAMS:
        rows = [
            f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
            for metric in program.metrics
        ]
        table = ["| metric | type | labels | what it tells |", "|---|---|---|---|", *rows]
        parts.append(f"## {program.title}\n\n{program.where}\n\n" + "\n".join(table) + "\n")
    labels = [f"| `{label}` | {_bounds(label)} |" for label in BOUNDS]
    parts.append("## Labels\n\n" + "\n".join(["| label | its values |", "|---|---|", *labels]) + "\n")
    return "\n".join(parts)


def _bounds(label: str) -> str:
    """What bounds a label, in each of its meanings."""
    users: dict[str, list[Metric]] = {}
    for program in PROGRAMS:
        for metric in program.metrics:
            if label in metric.labels:
                users.setdefault(bound(metric, label), []).append(metric)
    if len(users) == 1:
        return BOUNDS[label]
    return "; ".join(
        text + (" (of " + ", ".join(f"`{metric.name}`" for metric in metrics) + ")" if text != BOUNDS[label] else "")
        for text, metrics in users.items()
    )
