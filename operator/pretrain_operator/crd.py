"""The CustomResourceDefinition, made from the pydantic models of the resource.

pydantic writes JSON Schema; the API server takes only structural schemas, a subset with rules of its own. `structural`
turns one into the other and raises on whatever it does not know, so that nothing is lost in silence: a bound that the API
server would not check must not look as if it did.

    python -m pretrain_operator.crd     writes the CRD into the chart, and as it is into deploy/ (`make generate`)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pretrain_stage.section import Rule, Section
from pydantic import BaseModel

from pretrain_operator.api import GROUP, IN_CLUSTER, KIND, VERSION, PretrainJob, PretrainJobSpec
from pretrain_operator.resources import PRETRAIN_JOBS

PLURAL = PRETRAIN_JOBS.plural
CHART_FILE = Path("charts/pretrain-operator/templates/crd.yaml")
PLAIN_FILE = Path("deploy/crd.yaml")

PRINTER_COLUMNS = (
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase", "description": "The conditions in one word."},
    {"name": "Stage", "type": "string", "jsonPath": ".status.stage", "description": "The stage that runs."},
    {"name": "Progress", "type": "string", "jsonPath": ".status.progress", "description": "How far that stage is."},
    {"name": "Loss", "type": "number", "jsonPath": ".status.training.loss", "description": "Training loss."},
    {
        "name": "Tokens/s",
        "type": "integer",
        "jsonPath": ".status.training.tokensPerSecond",
        "description": "Tokens per second, all processes.",
    },
    {"name": "ETA", "type": "string", "jsonPath": ".status.training.eta", "description": "Time left in training."},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
)


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["ptj"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(PRINTER_COLUMNS),
                    "schema": {"openAPIV3Schema": _resource()},
                }
            ],
        },
    }


def plain() -> str:
    """The CRD for `kubectl apply --server-side`."""
    return yaml.safe_dump(crd(), sort_keys=False, allow_unicode=True, width=120)


def chart_template() -> str:
    """The CRD as a template of the chart: switched by crds.enabled, kept at uninstall by crds.keep."""
    body = plain()
    assert "{{" not in body, "Helm would take this for a template action"
    named = f"  name: {PLURAL}.{GROUP}\n"
    assert body.count(named) == 1, "the annotation has to go under metadata"
    keep = "  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n"
    return (
        "{{- /* Generated from operator/pretrain_operator/api.py by `make generate`; edit that, not this. */ -}}\n"
        "{{- if .Values.crds.enabled }}\n" + body.replace(named, named + keep) + "{{- end }}\n"
    )


def structural(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], rules: Mapping[str, tuple[Rule, ...]]
) -> dict[str, Any]:
    """One JSON Schema of pydantic's as a structural schema of Kubernetes.

    `definitions` are what `$ref` points to, `rules` the constraints of each definition, by name. Raises ValueError for
    anything that has no equivalent, and for a string, list or map without a bound.
    """
    rest = dict(schema)
    made: dict[str, Any] = {}
    if "$ref" in rest:
        name = rest.pop("$ref").removeprefix("#/$defs/")
        made = structural(definitions[name], definitions, rules)
        if rules.get(name):
            made["x-kubernetes-validations"] = [_validation(rule) for rule in rules[name]]
    if "anyOf" in rest:  # an optional field: absent, never null
        some = [option for option in rest.pop("anyOf") if option != {"type": "null"}]
        if len(some) != 1 or rest.get("default", "") is not None:
            raise ValueError(f"a choice of types has no structural schema: {dict(schema)}")
        del rest["default"]
        made |= structural(some[0], definitions, rules)
    rest.pop("title", None)
    for key in list(rest):
        match key:
            case "type" | "enum" | "pattern" | "minLength" | "maxLength" | "minItems" | "maxItems" | "maxProperties":
                made[key] = rest.pop(key)
            case "minimum" | "maximum" | "format" | "description":
                made[key] = rest.pop(key)
            case "x-kubernetes-list-type" | "x-kubernetes-list-map-keys":
                made[key] = rest.pop(key)
            case "const":
                made["enum"] = [rest.pop(key)]
            case "exclusiveMinimum" | "exclusiveMaximum":
                made[key.removeprefix("exclusive").lower()] = rest.pop(key)
                made[key] = True
            case "items":
                made[key] = structural(rest.pop(key), definitions, rules)
            case "properties":
                made[key] = {name: _described(name, structural(p, definitions, rules)) for name, p in rest.pop(key).items()}
            case "required":
                made[key] = rest.pop(key)
            case "additionalProperties":
                values = rest.pop(key)
                if values is True:
                    raise ValueError(f"fields that are not described: {dict(schema)}")
                if values is not False:  # the API server refuses unknown fields of a described object without being told
                    made[key] = structural(values, definitions, rules)
    if "default" in rest:
        made["default"] = _shortest(rest.pop("default"), made)
    if rest:
        raise ValueError(f"no structural equivalent for {', '.join(rest)} in {dict(schema)}")
    return _bounded(_ordered(made))


def _resource() -> dict[str, Any]:
    """The schema of the whole object. Of its metadata only the name can be restricted, as names of children follow from it."""
    made = PretrainJob.model_json_schema()
    rules = {model.__name__: model.constraints for model in _sections(PretrainJob)}
    rules[PretrainJobSpec.__name__] += IN_CLUSTER
    fields = {
        name: _described(name, structural(field, made["$defs"], rules))
        for name, field in made["properties"].items()
        if name in ("spec", "status")
    }
    # A status that defaulted to {} would be written into every new object.
    del fields["status"]["default"]
    name = structural(made["$defs"]["Metadata"]["properties"]["name"], {}, {})
    return {
        "description": made["description"],
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": "Group and version of this definition.", "type": "string"},
            "kind": {"description": f"The kind of this object: {KIND}.", "type": "string"},
            "metadata": {"type": "object", "properties": {"name": name}},
            **fields,
        },
    }


def _sections(model: type[BaseModel]) -> Iterator[type[Section]]:
    """All sections below a model; a section that stands in two places comes twice."""
    for field in model.model_fields.values():
        for found in _models_in(field.annotation):
            if issubclass(found, Section):
                yield found
            yield from _sections(found)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside `Model`, `Model | None` or `list[Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def _validation(rule: Rule) -> dict[str, str]:
    """A rule as the API server takes it; one without `holds` is about a change."""
    reason = {} if rule.holds is not None else {"reason": "FieldValueForbidden"}
    return {"rule": rule.cel, "message": rule.message, **reason}


def _described(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if not schema.get("description"):
        raise ValueError(f"{name} has no description")
    return schema


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError unless a string, list or map says how long it may be, and a list how it is merged."""
    match schema.get("type"):
        case "string" if not ("maxLength" in schema or "enum" in schema):
            raise ValueError(f"a string without a bound: {schema}")
        case "array" if "maxItems" not in schema:
            raise ValueError(f"a list without a bound: {schema}")
        case "array":
            schema.setdefault("x-kubernetes-list-type", "atomic")
        case "object" if "additionalProperties" in schema and "maxProperties" not in schema:
            raise ValueError(f"a map without a bound: {schema}")
        case "integer":
            schema["format"] = "int64"
        case "number":
            schema["format"] = "double"
        case "string" | "object" | "boolean":
            pass
        case other:
            raise ValueError(f"type {other}: {schema}")
    return schema


def _shortest(default: Any, schema: Mapping[str, Any]) -> Any:
    """A default without what the defaults below it say anyway: each stands in the CRD once.

    With rules it is written out: the API server checks a default against them before it fills in the defaults below it.
    """
    if not isinstance(default, dict) or "properties" not in schema:
        return default
    if "x-kubernetes-validations" in schema:
        return {name: value for name, value in default.items() if value is not None}
    properties = schema["properties"]
    return {
        name: _shortest(value, properties[name])
        for name, value in default.items()
        if value is not None and not _follows(value, properties[name])
    }


def _follows(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether the API server would write this value by itself where nothing is given."""
    return "default" in schema and _shortest(value, schema) == schema["default"]


def _ordered(schema: dict[str, Any]) -> dict[str, Any]:
    """The keys in the order in which one reads them; a description is kept as it is."""
    first = ("description", "type", "format", "enum", "default")
    last = ("required", "properties", "additionalProperties", "items", "x-kubernetes-validations")
    keys = [key for key in first if key in schema]
    keys += [key for key in schema if key not in first + last]
    keys += [key for key in last if key in schema]
    return {key: schema[key] for key in keys}


def main() -> None:
    """Writes both files of this checkout."""
    for target, text in ((CHART_FILE, chart_template()), (PLAIN_FILE, plain())):
        if not target.parent.is_dir():
            sys.exit(f"{target.parent}: no such folder; call this in the root of a checkout")
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
