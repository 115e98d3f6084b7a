"""The alert rules as files: for a plain Prometheus, and as the chart's PrometheusRule."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import yaml

from pretrain_operator.monitoring.alerts import Thresholds, rules

HEAD = "Made from operator/pretrain_operator/monitoring/alerts.py by `make generate`; edit that, not this."
SECTION = ".Values.monitoring.prometheusRule"


def plain() -> str:
    """A file for `rule_files` of Prometheus."""
    return f"# Alert rules for Prometheus: docs/monitoring.md.\n# {HEAD}\n{_yaml(rules())}"


def chart_template() -> str:
    """The PrometheusRule as a template of the chart, where a value stands for each threshold.

    Prometheus' own templates ({{ $labels.name }}) are Helm's too, and so are written as strings of Helm's.
    """
    marks = Thresholds(**{name: f"@{value_name(name)}@" for name in _names()})
    body = _yaml(rules(thresholds=marks, runbooks="@runbookURL@", operator=('namespace="@namespace@"',)))
    body = re.sub(r"\{\{|\}\}", lambda found: f'{{{{ "{found[0]}" }}}}', body)
    body = body.replace("@namespace@", "{{ .Release.Namespace }}").replace(
        "@runbookURL@", f'{{{{ {SECTION}.runbookURL | trimSuffix "/" }}}}'
    )
    for name in _names():
        body = body.replace(f"@{value_name(name)}@", f"{{{{ {SECTION}.{value_name(name)} }}}}")
    assert "@" not in body, "a mark without its value"
    indented = "".join(f"  {line}\n" for line in body.splitlines())
    return TEMPLATE_HEAD + indented + "{{- end }}\n"


def value_name(threshold: str) -> str:
    """The value of the chart that sets a threshold."""
    first, *rest = threshold.split("_")
    return first + "".join(word.capitalize() for word in rest)


TEMPLATE_HEAD = f"""\
{{{{- /* {HEAD} */ -}}}}
{{{{- if .Values.monitoring.prometheusRule.enabled }}}}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{{{ include "pretrain-operator.fullname" . }}}}
  namespace: {{{{ .Release.Namespace | quote }}}}
  labels:
    {{{{- include "pretrain-operator.monitorLabels" (dict "labels" .Values.monitoring.prometheusRule.labels "root" .) | nindent 4 }}}}
spec:
"""


def _names() -> list[str]:
    return [field.name for field in dataclasses.fields(Thresholds)]


def _yaml(made: dict[str, Any]) -> str:
    return yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=120)
