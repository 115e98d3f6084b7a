"""PretrainJobs for programs: `-o json`, `-o yaml` and `-o name` print the objects as the API server has them. Pure.

As with kubectl, managedFields are left out, and several objects come as one List. Nothing else is added or taken away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml

from pretrain_operator.api import GROUP, KIND, VERSION
from pretrain_operator.kubectl.plain import escaped

Format = Literal["json", "yaml", "name"]


def one(body: Mapping[str, Any], form: Format) -> str:
    """One object, with its line end."""
    return f"{_name(body)}\n" if form == "name" else _written(_shown(body), form)


def many(bodies: Sequence[Mapping[str, Any]], form: Format) -> str:
    """Objects as a List."""
    if form == "name":
        return "".join(f"{_name(body)}\n" for body in bodies)
    items = [_shown(body) for body in bodies]
    return _written({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}}, form)


def _name(body: Mapping[str, Any]) -> str:
    return f"{KIND.lower()}.{GROUP}/{body['metadata']['name']}"


def _shown(body: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    # Items of a list come without these two; a PretrainJob that was printed can be applied again.
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND} | dict(body) | {"metadata": metadata}


def _written(value: dict[str, Any], form: Format) -> str:
    """As text in UTF-8; where a string holds characters that could act on a terminal, all but ASCII is written as escapes."""
    if form == "json":
        text = json.dumps(value, indent=4, ensure_ascii=False)
        return (text if escaped(text, keep="\n") == text else json.dumps(value, indent=4)) + "\n"
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
    return text if escaped(text, keep="\n") == text else yaml.safe_dump(value, sort_keys=False, width=120)
