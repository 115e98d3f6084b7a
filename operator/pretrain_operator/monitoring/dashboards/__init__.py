"""The dashboards, by the name of their file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from pretrain_operator.monitoring.dashboards.fleet import fleet
from pretrain_operator.monitoring.dashboards.job import job
from pretrain_operator.monitoring.dashboards.operators import operators
from pretrain_operator.monitoring.dashboards.preprocessing import preprocessing

DASHBOARDS: Mapping[str, Callable[[], Dashboard]] = {
    "fleet": fleet,
    "job": job,
    "preprocessing": preprocessing,
    "operator": operators,
}


def text(name: str) -> str:
    """A dashboard as Grafana takes it."""
    return json.dumps(DASHBOARDS[name]().build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
