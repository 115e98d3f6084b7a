"""The chart's monitors and rules in the hands of a real Prometheus Operator: taken as they are, no target that is down, the
series of a job that runs, and an alert that fires and resolves.

Wanted besides what all tests here want: the Prometheus Operator, with a Prometheus that takes monitors and rules of all
namespaces and labels. Its CustomResourceDefinitions are looked for; without them these tests skip.
"""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pretrain_operator.monitoring.alerts import rules

from tests.e2e.installed import RELEASE, Operator, Operators
from tests.e2e.jobs import tiny_job
from tests.e2e.kubectl import Kubectl, Namespaces
from tests.e2e.s3 import BUCKET, ClusterS3, Forward
from tests.e2e.waiting import eventually, failed, succeeded, until

pytestmark = pytest.mark.e2e

PORT = 9090
MONITORING = {
    "monitoring": {
        "interval": "5s",
        **{part: {"enabled": True} for part in ("podMonitor", "serviceMonitor", "prometheusRule", "dashboards")},
    }
}
LONG_TOKENS = 800 * 1024
"""So many that training lasts for several scrapes on a quick machine too: most of a minute."""
LONG_TEXT_FILES, LONG_TEXT_COPIES = 2, 40
"""The same for text: so much that a task cleans it for several scrapes. Each copy is numbered, so that none is a duplicate."""
SEEN_SECONDS = 120.0
LOADED_SECONDS = 180.0
FIRED_SECONDS = 300.0


@dataclass(frozen=True)
class Prometheus:
    """The cluster's Prometheus, by its API."""

    forward: Forward

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self.forward.url(PORT)}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, str]]:
        """The labels of all series that an expression has now."""
        return [sample["metric"] for sample in self.get("query", query=expression)["result"]]

    def firing(self, namespace: str) -> list[dict[str, str]]:
        """The labels of alerts that fire for a namespace."""
        alerts = [alert for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"]
        return [alert["labels"] for alert in alerts if alert["labels"].get("namespace") == namespace]


@pytest.fixture(scope="module")
def prometheus(kubectl: Kubectl) -> Iterator[Prometheus]:
    if kubectl.run("get", "crd", "podmonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com").returncode:
        pytest.skip("the CustomResourceDefinitions of the Prometheus Operator are not in the cluster")
    (found, *_) = kubectl.get("prometheuses.monitoring.coreos.com", "--all-namespaces")["items"]
    forward = Forward(Kubectl(found["metadata"]["namespace"]), "service/prometheus-operated", (PORT,))
    yield Prometheus(forward)
    forward.stop()


def test_the_rules_are_taken_as_they_are(prometheus: Prometheus, operators: Operators, namespaces: Namespaces) -> None:
    operator = operators(namespaces("rules").namespace, values=MONITORING)
    expected = {rule["alert"] for group in rules()["groups"] for rule in group["rules"]}

    def loaded() -> dict[str, str]:
        """Health of each of our rules, by name."""
        groups = prometheus.get("rules")["groups"]
        mine = [group for group in groups if f"/{operator.kubectl.namespace}-{RELEASE}-" in group["file"]]
        return {rule["name"]: rule["health"] for group in mine for rule in group["rules"]}

    seen = eventually(loaded, lambda found: set(found.values()) == {"ok"}, LOADED_SECONDS)
    assert set(seen) == expected


def test_a_job_is_seen_from_its_text_to_its_model_and_when_it_is_gone_no_more(
    prometheus: Prometheus, s3: ClusterS3, operators: Operators, namespaces: Namespaces
) -> None:
    kubectl = namespaces("seen")
    operator = operators(kubectl.namespace, values=MONITORING)
    mine = f'namespace="{kubectl.namespace}"'
    _led(prometheus, operator)
    spec = {"training.tokens": LONG_TOKENS, "corpus.sources": [_long_text(s3)]}
    kubectl("apply", "-f", "-", stdin=tiny_job(s3, kubectl.namespace, spec=spec))

    def look(_job: Any) -> None:
        """No target of the job is down, the second training pod is none, and nobody speaks in another's name."""
        assert not prometheus.query(f'up{{{mine}, pod=~".*-worker-1"}}')
        assert not prometheus.query(f'{{{mine}, __name__=~"pretrain_.*", exported_namespace!=""}}')

    until(kubectl, "tiny", lambda job: bool(prometheus.query(f"pretrain_training_step{{{mine}}} > 0")), meanwhile=look)
    (step,) = prometheus.query(f"pretrain_training_step{{{mine}}}")
    assert (step["name"], step["namespace"], step["pod"]) == ("tiny", kubectl.namespace, "tiny-train-worker-0")
    assert step["job"] == f"{operator.kubectl.namespace}/{RELEASE}-training"
    # The status may say so some seconds later, and it is scraped at another time.
    eventually(lambda: prometheus.query(f'pretrain_job_phase{{{mine}, name="tiny", phase="Training"}} == 1'), bool)
    assert prometheus.query(f'last_over_time(pretrain_preprocess_documents_total{{{mine}, name="tiny"}}[30m])')
    # A pod that ends between two looks of Prometheus fails one scrape, and is no target any more then.
    eventually(lambda: prometheus.query(f"up{{{mine}}} == 0"), lambda down: not down, 15)

    until(kubectl, "tiny", succeeded, meanwhile=look)
    assert not prometheus.firing(kubectl.namespace)
    kubectl("delete", "pretrainjob", "tiny")
    eventually(lambda: prometheus.query(f'{{{mine}, __name__=~"pretrain_.*"}}'), lambda left: not left, SEEN_SECONDS)


def test_an_alert_fires_and_resolves(
    prometheus: Prometheus, s3: ClusterS3, operators: Operators, namespaces: Namespaces
) -> None:
    """At the pace of the chart: a job whose source is not there fails, and is deleted once somebody has seen it."""
    kubectl = namespaces("alert")
    _led(prometheus, operators(kubectl.namespace, values=MONITORING))
    sources = [{"name": "absent", "uri": "s3://pretrain/absent/*.jsonl"}]
    kubectl("apply", "-f", "-", stdin=tiny_job(s3, kubectl.namespace, spec={"corpus.sources": sources}))
    until(kubectl, "tiny", failed)
    (alert,) = eventually(lambda: prometheus.firing(kubectl.namespace), bool, FIRED_SECONDS)
    assert (alert["alertname"], alert["name"], alert["severity"]) == ("PretrainJobFailed", "tiny", "critical")
    assert alert["reason"] == "UserError"
    kubectl("delete", "pretrainjob", "tiny")
    eventually(lambda: prometheus.firing(kubectl.namespace), lambda left: not left, SEEN_SECONDS)


def _led(prometheus: Prometheus, operator: Operator) -> None:
    """Waits until Prometheus sees the operator at work."""
    series = f'pretrain_operator_leading{{namespace="{operator.kubectl.namespace}"}} == 1'
    eventually(lambda: prometheus.query(series), bool, SEEN_SECONDS)


def _long_text(s3: ClusterS3) -> dict[str, Any]:
    """A source of English articles, a line each, in a file for each task."""
    lines = (s3.storage("raw").read("en.txt") or b"").decode().splitlines()
    for number in range(LONG_TEXT_FILES):
        copies = [f"{number} {copy} {line}" for copy in range(LONG_TEXT_COPIES) for line in lines]
        s3.storage("raw-long").write(f"{number}.txt", "\n".join(copies).encode())
    return {"name": "en", "uri": f"s3://{BUCKET}/raw-long/*.txt", "format": "text", "documents": "line"}
