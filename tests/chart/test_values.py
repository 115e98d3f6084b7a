"""The values: closed by their schema, each described, and the README's table says the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, HELM, NO_HELM, Object, template
from tests.chart.values import README, Value, values, with_table

VALUES = (CHART / "values.yaml").read_text(encoding="utf-8")
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
KUBERNETES = {
    "affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity", "topologySpreadConstraints[].labelSelector",
}  # fmt: skip
"""Objects that go to Kubernetes as they are: the API server says what is wrong with them."""


def test_the_table_in_the_readme_is_that_of_the_values() -> None:
    readme = README.read_text(encoding="utf-8")
    assert readme == with_table(readme, VALUES), "the README's table is not that of values.yaml: run `make generate`"


def test_a_value_without_a_comment_is_refused() -> None:
    assert list(values("# What it does,\n# in two lines.\na:\n  # Inner.\n  b: [1]\n")) == [Value("a.b", "[1]", "Inner.")]
    assert next(values("# What it does,\n# in two lines.\na: {}\n")).description == "What it does, in two lines."
    with pytest.raises(ValueError, match=r"a\.c in values.yaml has no sentence above it"):
        list(values("a:\n  # Inner.\n  b: 1\n  c: 2\n"))


def test_the_schema_knows_the_values_and_no_others() -> None:
    def properties(schema: Object, prefix: str = "") -> Iterator[str]:
        for name, field in schema["properties"].items():
            if f"{prefix}{name}" in SECTIONS:
                yield from properties(field, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    assert set(properties(SCHEMA)) - {"global"} == {value.key for value in values(VALUES)}


def test_every_object_of_the_schema_is_closed() -> None:
    for path, schema in _schemas(SCHEMA, ""):
        assert {"type", "enum"} & set(schema), f"{path} may be anything"
        if schema.get("type") == "object" and path not in KUBERNETES | {"global"}:
            assert schema["additionalProperties"] is False or schema["additionalProperties"]["type"], path
        if schema.get("type") == "array":
            assert "items" in schema, path


@pytest.mark.skipif(HELM is None, reason=NO_HELM)
def test_a_wrong_key_is_refused_in_every_section() -> None:
    """Helm is asked once for each section, the root included."""
    for section in ["", *sorted(SECTIONS)]:
        wrong: Object = {"wrongKey": 1}
        for name in reversed(section.split(".") if section else []):
            wrong = {name: wrong}
        done = template(wrong)
        assert done.returncode != 0, f"{section}.wrongKey was taken"
        assert "wrongKey" in done.stderr, done.stderr


@pytest.mark.skipif(HELM is None, reason=NO_HELM)
@pytest.mark.parametrize("value", list(values(VALUES)), ids=lambda value: value.key)
def test_a_wrong_type_is_refused_by_name(value: Value) -> None:
    wrong: Any = {"wrongKey": 1} if value.default.startswith(("[", '"')) or value.default.isdigit() else "neither"
    for name in reversed(value.key.split(".")):
        wrong = {name: wrong}
    done = template(wrong)
    assert done.returncode != 0, f"{value.key} was taken"
    assert f"'/{value.key.replace('.', '/')}'" in done.stderr, done.stderr


@pytest.mark.skipif(HELM is None, reason=NO_HELM)
@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"image": {"digest": "sha256:12"}}, "/image/digest"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"image": {"repository": "operator:1"}}, "/image/repository"),
        ({"image": {"repository": "registry.example/operator@sha256:12"}}, "/image/repository"),
        ({"images": {"trainer": {"repository": "x --log-level=debug"}}}, "/images/trainer/repository"),
        ({"images": {"trainer": {"tag": "a b"}}}, "/images/trainer/tag"),
        ({"images": {"pullSecrets": ["a\nb"]}}, "/images/pullSecrets/0"),
        ({"scope": "namespaced", "watch": {"namespaces": ["*"]}}, "/watch/namespaces/0"),
        ({"scope": "namespaced", "watch": {"namespaces": ["a", "a"]}}, "/watch/namespaces"),
        ({"replicas": 3}, "/replicas"),
        ({"operator": {"workers": 0}}, "/operator/workers"),
        ({"operator": {"logLevel": "loud"}}, "/operator/logLevel"),
        ({"metrics": {"port": 80}}, "/metrics/port"),
        ({"monitoring": {"interval": "30"}}, "/monitoring/interval"),
        ({"monitoring": {"prometheusRule": {"goodput": 50}}}, "/monitoring/prometheusRule/goodput"),
        ({"monitoring": {"prometheusRule": {"runbookURL": "it's here"}}}, "/monitoring/prometheusRule/runbookURL"),
        ({"networkPolicy": {"apiServerPorts": []}}, "/networkPolicy/apiServerPorts"),
        ({"tolerations": [{"effekt": "NoExecute"}]}, "/tolerations/0"),
        ({"topologySpreadConstraints": [{"maxSkew": 1}]}, "/topologySpreadConstraints/0"),
        ({"podAnnotations": {"a": 1}}, "/podAnnotations/a"),
        ({"fullnameOverride": "7b"}, "/fullnameOverride"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_refused_by_name(wrong: Object, where: str) -> None:
    done = template(wrong)
    assert done.returncode != 0
    assert f"'{where}'" in done.stderr, done.stderr


def _sections(mapping: Object, prefix: str = "") -> Iterator[str]:
    keys = {value.key for value in values(VALUES)}
    for name, value in mapping.items():
        if isinstance(value, dict) and f"{prefix}{name}" not in keys:
            yield f"{prefix}{name}"
            yield from _sections(value, f"{prefix}{name}.")


SECTIONS = set(_sections(yaml.safe_load(VALUES)))
"""Values that only hold others."""


def _schemas(schema: Object, path: str) -> Iterator[tuple[str, Object]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from _schemas(field, f"{path}.{name}".lstrip("."))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _schemas(schema["additionalProperties"], f"{path}{{}}")
    if "items" in schema:
        yield from _schemas(schema["items"], f"{path}[]")
