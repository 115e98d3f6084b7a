"""What a metric is: its name, type, help text and labels, declared once and used by the program and by the documentation.

Names follow Prometheus' rules (https://prometheus.io/docs/practices/naming): base units, `_total` for counters, labels whose
values are bounded: never a step, a pod or the text of an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

JOB_LABELS = ("namespace", "name")
"""Which PretrainJob a series is about."""

SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True)
class Metric:
    """A family of series."""

    name: str
    """As it is asked for; a histogram adds _bucket, _sum and _count."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = JOB_LABELS
    buckets: tuple[float, ...] = SECONDS_BUCKETS
    """Of a histogram."""

    def register(self, registry: CollectorRegistry) -> Any:
        """A prometheus_client metric of this kind, in a registry."""
        import prometheus_client

        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nobody asks for
        match self.kind:
            case "counter":
                return prometheus_client.Counter(self.name, self.help, self.labels, registry=registry)
            case "gauge":
                return prometheus_client.Gauge(self.name, self.help, self.labels, registry=registry)
            case "histogram":
                return prometheus_client.Histogram(
                    self.name, self.help, self.labels, registry=registry, buckets=self.buckets
                )

    def family(self) -> CounterMetricFamily | GaugeMetricFamily:
        """An empty family for a collector that is asked for its values when they are read; not for histograms."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        assert self.kind != "histogram", f"{self.name}: a histogram is observed, not collected"
        made = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return made(self.name.removesuffix("_total"), self.help, labels=self.labels)
