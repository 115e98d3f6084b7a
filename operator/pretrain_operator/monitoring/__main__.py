"""Writes what is made from the catalogues, in the root of a checkout: `make generate`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pretrain_operator.monitoring import chart_rules, dashboards, metrics_page

CHART = Path("charts/pretrain-operator")


def files() -> Mapping[Path, str]:
    """The text of each file."""
    return {
        Path("docs/metrics.md"): metrics_page.page(),
        Path("deploy/prometheus/alerts.yaml"): chart_rules.plain(),
        CHART / "templates" / "prometheusrule.yaml": chart_rules.chart_template(),
        **{CHART / "files" / "dashboards" / f"{name}.json": dashboards.text(name) for name in dashboards.DASHBOARDS},
    }


def main() -> None:
    """Writes them all."""
    if not CHART.is_dir():
        sys.exit(f"{CHART}: no such folder; call this in the root of a checkout")
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
