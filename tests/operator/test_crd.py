"""The CRD: the committed file is what the code makes, and the conversion loses nothing in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pretrain_operator.crd import CHART_FILE, PLAIN_FILE, chart_template, crd, plain, structural
from pydantic import BaseModel, Field

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("file", "text"), [(CHART_FILE, chart_template()), (PLAIN_FILE, plain())], ids=["chart", "plain"])
def test_the_committed_files_are_what_the_code_makes(file: Path, text: str) -> None:
    committed = (ROOT / file).read_text(encoding="utf-8")
    assert committed == text, f"{file} is not what the code makes; run `make generate` and commit it"


def test_the_template_is_the_crd_between_guards() -> None:
    lines = chart_template().splitlines()
    assert lines[1] == "{{- if .Values.crds.enabled }}"
    assert lines[-1] == "{{- end }}"
    body = yaml.safe_load("\n".join(line for line in lines if "{{" not in line))
    assert body["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert body == crd()


def test_the_schema_is_structural() -> None:
    """What the API server refuses, and what we ask of ourselves: everything described, everything bounded."""
    root = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path, schema in _schemas(root["properties"]["spec"], "spec"):
        assert schema.get("description") or path.endswith(("[]", "{}")), path
        assert set(schema) <= KNOWN, path
        match schema["type"]:
            case "string":
                assert "maxLength" in schema or "enum" in schema, path
            case "array":
                assert schema["maxItems"] <= 100_000, path
                assert schema["x-kubernetes-list-type"] == "atomic", path
            case "object":
                assert ("properties" in schema) != ("additionalProperties" in schema), path
                assert "additionalProperties" not in schema or schema["maxProperties"], path
            case "integer" | "number":
                assert "enum" in schema or {"minimum", "maximum"} <= set(schema), path
            case other:
                assert other == "boolean", path
    for path, schema in _schemas(root["properties"]["status"], "status"):
        assert schema.get("description") or path.endswith(("[]", "{}")), path
        assert set(schema) <= KNOWN, path


def test_no_pattern_uses_what_the_api_server_cannot_read() -> None:
    """RE2 knows no lookaround, no backreferences and no Python anchors."""
    patterns = re.findall(r"pattern: (.*)", chart_template())
    assert patterns
    assert not [pattern for pattern in patterns if re.search(r"\(\?[=!<]|\\[1-9AZ]", pattern)]


def test_each_default_stands_once() -> None:
    """A section that may be left out is {}, and its fields say the rest; where a rule stands, it is written out."""
    for path, schema in _schemas(crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec"):
        if "properties" in schema and "default" in schema and "x-kubernetes-validations" not in schema:
            assert schema["default"] == {}, path


class Optional(BaseModel):
    some: int | None = Field(default=None, ge=1, description="Some.")
    other: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.5, description="Other.")


def test_an_optional_field_is_absent_and_never_null() -> None:
    made = structural(Optional.model_json_schema(), {}, {})
    assert made["properties"]["some"] == {"description": "Some.", "type": "integer", "format": "int64", "minimum": 1}
    assert made["properties"]["other"] == {
        "description": "Other.",
        "type": "number",
        "format": "double",
        "default": 0.5,
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "exclusiveMaximum": True,
    }


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"type": "string"}, "a string without a bound"),
        ({"type": "array", "items": {"type": "integer"}}, "a list without a bound"),
        ({"type": "array", "maxItems": 3, "prefixItems": [{"type": "integer"}]}, "prefixItems"),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, "a map without a bound"),
        ({"type": "object", "additionalProperties": True}, "fields that are not described"),
        ({"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, "a choice of types"),
        ({"oneOf": [{"type": "integer"}], "type": "integer"}, "oneOf"),
        ({"type": "array", "maxItems": 3, "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, "a has no description"),
        ({}, "type None"),
        ({"type": ["integer", "null"]}, "type"),
    ],
)
def test_what_has_no_equivalent_is_refused(schema: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        structural(schema, {}, {})


KNOWN = {
    "description", "type", "format", "enum", "default", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "maxProperties", "required", "properties",
    "additionalProperties", "items", "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
}  # fmt: skip


def _schemas(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from _schemas(field, f"{path}.{name}")
    if "items" in schema:
        yield from _schemas(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from _schemas(schema["additionalProperties"], f"{path}{{}}")
