"""What the chart brings for Prometheus and Grafana: off unless asked for, and about the pods that are really made."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from pretrain_operator.backends.pytorch_job import INDEX_LABEL
from pretrain_operator.monitoring.alerts import Thresholds, rules
from pretrain_operator.monitoring.chart_rules import value_name
from pretrain_operator.monitoring.dashboards import DASHBOARDS, text
from pretrain_operator.names import labels

from tests.chart.helm import CHART, HELM, NAMESPACED, NO_HELM, Object, of_kind, render

pytestmark = pytest.mark.skipif(HELM is None, reason=NO_HELM)

KINDS = {
    "podMonitor": "PodMonitor",
    "serviceMonitor": "ServiceMonitor",
    "prometheusRule": "PrometheusRule",
    "dashboards": "ConfigMap",
}
LARGEST_CONFIG_MAP = 1 << 20


def monitoring(**parts: Any) -> Object:
    return {"monitoring": parts}


def one(kind: str, **parts: Any) -> Any:
    (found,) = of_kind(render(monitoring(**parts)), kind)
    return found


@pytest.mark.parametrize("part", KINDS)
def test_each_part_comes_when_it_is_asked_for_and_alone(part: str) -> None:
    assert not [item for item in render() if item["kind"] in KINDS.values()]
    objects = render(monitoring(**{part: {"enabled": True}}))
    assert {item["kind"] for item in objects if item["kind"] in KINDS.values()} == {KINDS[part]}


@pytest.mark.parametrize("part", KINDS)
def test_labels_by_which_they_are_chosen(part: str) -> None:
    """Those of the user are added; ours stay."""
    wanted = {"release": "prometheus", "app.kubernetes.io/name": "other"}
    for item in of_kind(render(monitoring(**{part: {"enabled": True, "labels": wanted}})), KINDS[part]):
        assert item["metadata"]["labels"]["release"] == "prometheus"
        assert item["metadata"]["labels"]["app.kubernetes.io/name"] == "pretrain-operator"


def _matches(selector: Any, found: dict[str, str]) -> bool:
    """As Kubernetes judges a label selector."""
    assert set(selector) == {"matchExpressions"}
    return all(
        {
            "Exists": rule["key"] in found,
            "DoesNotExist": rule["key"] not in found,
            "In": found.get(rule["key"]) in rule.get("values", ()),
        }[rule["operator"]]
        for rule in selector["matchExpressions"]
    )


def test_each_pod_that_serves_metrics_is_one_target_and_no_other_is() -> None:
    """Of a training group only the first pod serves them; a target that is always down would be an alert of its own."""
    first, second = ({**labels("llm", "train", 1), INDEX_LABEL: index} for index in ("0", "1"))
    task, stranger = labels("llm", "clean"), {"app.kubernetes.io/name": "nginx"}
    training, preprocessing = sorted(
        of_kind(render(monitoring(podMonitor={"enabled": True})), "PodMonitor"),
        key=lambda item: item["metadata"]["name"],
        reverse=True,
    )
    assert training["metadata"]["name"] == "pretrain-operator-training"
    assert preprocessing["metadata"]["name"] == "pretrain-operator-preprocessing"
    chosen = [
        [_matches(monitor["spec"]["selector"], found) for found in (first, second, task, stranger)]
        for monitor in (training, preprocessing)
    ]
    assert chosen == [[True, False, False, False], [False, False, True, False]]
    for monitor in (training, preprocessing):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] == "metrics"
        assert endpoint["interval"] == "30s"
        assert endpoint["honorLabels"] is False, "a tenant's pod could speak for another namespace"


def test_monitors_look_where_the_operator_works() -> None:
    for values, where in (({}, {"any": True}), (NAMESPACED, {"matchNames": ["team-a", "team-b"]})):
        for monitor in of_kind(render(monitoring(podMonitor={"enabled": True}) | values), "PodMonitor"):
            assert monitor["spec"]["namespaceSelector"] == where
            assert monitor["metadata"]["namespace"] == "pretrain-system"


def test_the_operators_service_is_the_one_that_is_scraped() -> None:
    objects = render(monitoring(serviceMonitor={"enabled": True}, interval="5s"))
    (monitor,), (service,) = of_kind(objects, "ServiceMonitor"), of_kind(objects, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert monitor["spec"]["endpoints"] == [{"port": "metrics", "interval": "5s", "honorLabels": True}]
    assert "metrics" in {port["name"] for port in service["spec"]["ports"]}


def test_the_rules_are_those_of_the_generator() -> None:
    made = one("PrometheusRule", prometheusRule={"enabled": True})
    assert made["spec"] == rules(operator=('namespace="pretrain-system"',))


def test_thresholds_and_runbooks_are_values() -> None:
    given = {
        "goodput": 0.75,
        "checkpointIntervals": 2,
        "lossSpikeRatio": 1.5,
        "restartsPerHour": 7,
        "storageErrorsPerHour": 40,
    }
    made = one(
        "PrometheusRule", prometheusRule={"enabled": True, "runbookURL": "https://runbooks.example/pretrain/", **given}
    )
    thresholds = Thresholds("0.75", "2", "1.5", "7", "40")
    assert made["spec"] == rules(
        thresholds=thresholds, runbooks="https://runbooks.example/pretrain", operator=('namespace="pretrain-system"',)
    )


def test_the_charts_thresholds_are_those_of_the_plain_rules() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["monitoring"]["prometheusRule"]
    for name, value in vars(Thresholds()).items():
        assert str(values[value_name(name)]) == value


def test_the_config_map_holds_every_dashboard_as_it_is() -> None:
    made = one("ConfigMap", dashboards={"enabled": True, "annotations": {"grafana_folder": "Pretraining"}})
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"grafana_folder": "Pretraining"}
    assert {name: json.loads(content) for name, content in made["data"].items()} == {
        f"pretrain-{name}.json": json.loads(text(name)) for name in DASHBOARDS
    }
    assert len(json.dumps(made)) < LARGEST_CONFIG_MAP


def test_the_network_policy_lets_prometheus_in() -> None:
    (policy,) = of_kind(
        render({"networkPolicy": {"enabled": True}, **monitoring(serviceMonitor={"enabled": True})}), "NetworkPolicy"
    )
    assert {"port": "metrics"} in policy["spec"]["ingress"][0]["ports"]
    assert "from" not in policy["spec"]["ingress"][0], "nobody knows where your Prometheus runs"
