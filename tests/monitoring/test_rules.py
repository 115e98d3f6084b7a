"""The rules by promtool's own judgement, each on series that must set it off and on series that must not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretrain_operator.monitoring.alerts import Pace, Thresholds, rules, span

from tests.monitoring.cases import CASES, Case
from tests.monitoring.tools import ROOT, needs_prometheus, promtool

RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
SEVERITY = {rule["alert"]: rule["labels"]["severity"] for group in rules()["groups"] for rule in group["rules"]}


@needs_prometheus
def test_promtool_takes_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert done.returncode == 0, done.stderr
    assert f"{len(SEVERITY)} rules found" in done.stdout


@needs_prometheus
def test_promtool_takes_them_at_any_pace_and_threshold(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    made = rules(Pace(sure=1, window=10, patient=3, long=20, resolution=1), Thresholds(goodput="0.9"), operator=('pod="a"',))
    path.write_text(yaml.safe_dump(made))
    assert promtool("check", "rules", str(path)).returncode == 0
    assert 'absent(pretrain_operator_leading{pod="a"} == 1)' in path.read_text()
    assert "< 0.9 and on" in path.read_text()


def test_every_rule_has_a_case_for_both() -> None:
    assert {case.alert for case in CASES} == set(SEVERITY)
    for alert in SEVERITY:
        assert any(case.quiet for case in CASES if case.alert == alert), alert


@needs_prometheus
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_a_rule_fires_when_it_must_and_only_then(case: Case, tmp_path: Path) -> None:
    tests = [_test(case, case.fires, fires=True), *(_test(case, series, fires=False) for series in case.quiet)]
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def _test(case: Case, series: Mapping[str, str], *, fires: bool) -> Any:
    labels = {"alertname": case.alert, "alertstate": "firing", "severity": SEVERITY[case.alert], **case.labels}
    told = "ALERTS{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}',
                "eval_time": f"{case.minutes}m",
                "exp_samples": [{"labels": told, "value": 1}] if fires else [],
            }
        ],
    }


@needs_prometheus
@pytest.mark.parametrize("number", [0, 1], ids=["in a cluster", "on one machine"])
def test_promtool_takes_the_configurations_in_the_docs(number: int, tmp_path: Path) -> None:
    """Debian's Prometheus is built without Kubernetes: how targets are found there is left out."""
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    path = tmp_path / "prometheus.yml"
    written = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[number]
    path.write_text(written.replace("kubernetes_sd_configs: [{role: pod}]", "static_configs: [{targets: [a:1]}]"))
    (tmp_path / "alerts.yaml").write_text(RULES.read_text(encoding="utf-8"))
    done = promtool("check", "config", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_durations_as_prometheus_writes_them() -> None:
    assert [span(seconds) for seconds in (1, 59, 60, 90, 120, 3600, 5400)] == ["1s", "59s", "1m", "90s", "2m", "1h", "90m"]
