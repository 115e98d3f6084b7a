"""What the chart grants, as a table that people read: where, on which resource, which verbs.

python -m tests.chart.permissions     writes the golden file again
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.chart.helm import NAMESPACED, Object, of_kind, render

GOLDEN = Path(__file__).parent / "golden" / "permissions.yaml"
EVERYWHERE = "all namespaces"

Grants = dict[str, dict[str, list[str]]]


def permissions() -> dict[str, Grants]:
    """Both scopes, and what users are given."""
    return {
        "operator, scope cluster": granted(render()),
        "operator, scope namespaced": granted(render(NAMESPACED)),
        "users": {
            role["metadata"]["name"]: _by_resource(role["rules"])
            for role in of_kind(render(), "ClusterRole")
            if "aggregate" in str(role["metadata"]["labels"])
        },
    }


def granted(objects: Sequence[Object]) -> Grants:
    """What the bindings among these objects give to the operator's service account, by namespace."""
    (account,) = of_kind(objects, "ServiceAccount")
    roles = {
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): item["rules"]
        for item in objects
        if "rules" in item
    }
    found: dict[str, list[Object]] = {}
    for binding in [*of_kind(objects, "ClusterRoleBinding"), *of_kind(objects, "RoleBinding")]:
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": account["metadata"]["namespace"]}
        ], binding
        namespace = binding["metadata"].get("namespace")
        role = binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"]
        found.setdefault(namespace or EVERYWHERE, []).extend(roles[role])
    return {place: _by_resource(rules) for place, rules in found.items()}


def _by_resource(rules: list[Any]) -> dict[str, list[str]]:
    """Verbs by resource, named as `kubectl auth can-i --list` does; a rule for objects by name stands apart."""
    made: dict[str, list[str]] = {}
    for rule in rules:
        assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}, rule
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                kind, _, part = resource.partition("/")
                name = f"{kind}.{group}".rstrip(".") + (f"/{part}" if part else "")
                for named in rule.get("resourceNames", [""]):
                    verbs = made.setdefault(f"{name} {named}".strip(), [])
                    verbs += [verb for verb in rule["verbs"] if verb not in verbs]
    return {name: sorted(verbs) for name, verbs in sorted(made.items())}


def main() -> None:
    text = "# What the chart grants. Written by `python -m tests.chart.permissions`; every change of it is to be read.\n"
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(
        text + yaml.safe_dump(permissions(), sort_keys=False, width=120, default_flow_style=None), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
