"""The operator itself: whether it works, whether it hears, how much it has to do."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models import units

from pretrain_operator.catalogue import (
    API_REQUESTS,
    BUILD,
    JOB_PHASE,
    LEADING,
    QUEUE_DEPTH,
    RECONCILE_SECONDS,
    RECONCILES,
    WATCH_TIMESTAMP,
)
from pretrain_operator.monitoring.dashboards.panels import (
    GREEN,
    RED,
    WINDOW,
    YELLOW,
    board,
    curves,
    heading,
    number,
    with_panels,
)
from pretrain_operator.monitoring.query import one_each, quantile, rate, series

UID = "pretrain-operator"
FAILED = 'code!~"2.."'


def operators() -> Dashboard:
    """The dashboard."""
    age = f"time() - max({series(WATCH_TIMESTAMP)})"
    return with_panels(
        board(UID, "Pretraining / Operator", "The operator of PretrainJobs: its replicas, its queue, its requests."),
        number(1, "Replicas that lead", "One each installation: it holds the Lease and works.", f"sum({series(LEADING)})",
               units.Short, steps=((None, RED), (1, GREEN)), trend=False),
        number(2, "Replicas", "That are scraped.", f"count({series(BUILD)})", units.Short, trend=False),
        number(3, "Last heard", "Time since a watch brought something; its own Lease comes every few seconds.", age, units.Seconds,
               steps=((None, GREEN), (30, YELLOW), (120, RED))),
        number(4, "Queue", "Jobs that are due and wait for a worker.", f"sum({series(QUEUE_DEPTH)})", units.Short,
               steps=((None, GREEN), (100, YELLOW))),
        number(5, "Jobs", "That it knows.", f"count({one_each(series(JOB_PHASE) + ' == 1')})", units.Short),
        number(6, "Version", "Of each replica.", f"count by (version) ({series(BUILD)})", units.Short, legend="{{version}}",
               trend=False),
        heading(10, "Work"),
        curves(11, "Looks at a job", "Each second, by how they ended. retry: to be tried again; fault: an error of the operator's own.",
               {"{{result}}": f"sum by (result) ({rate(RECONCILES, WINDOW)})"}, units.OpsPerSecond, stacked=True),
        curves(12, "Duration of a look", "Quantiles.",
               {f"p{share * 100:g}": quantile(share, RECONCILE_SECONDS, WINDOW) for share in (0.5, 0.9, 0.99)}, units.Seconds),
        curves(13, "Queue", "Jobs that are due and wait for a worker.", {"waiting": f"sum({series(QUEUE_DEPTH)})"}, units.Short),
        heading(20, "API server"),
        curves(21, "Requests", "Each second, by verb.", {"{{verb}}": f"sum by (verb) ({rate(API_REQUESTS, WINDOW)})"},
               units.RequestsPerSecond, stacked=True),
        curves(22, "Requests that failed", "Each second, by status code; 0 is no answer. 409 is a conflict that is tried again.",
               {"{{verb}} {{code}}": f"sum by (verb, code) ({rate(API_REQUESTS, WINDOW, FAILED)})"}, units.RequestsPerSecond),
        curves(23, "Last heard", "Time since a watch brought something.", {"seconds": age}, units.Seconds,
               steps=((None, GREEN), (120, RED))),
    )  # fmt: skip
