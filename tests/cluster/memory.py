"""An API server in memory, as far as a reconcile sees it: versions rise, unchanged applies change nothing, faults on demand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from pretrain_operator.cluster.client import Client
from pretrain_operator.cluster.failures import Gone
from pretrain_operator.observed import Body
from pretrain_operator.resources import Resource


class Memory(Client):
    """Objects by kind and name, and what was asked."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: list[str] = []
        self.fault: Callable[[str], Exception | None] = lambda doing: None
        self._version = 100

    async def apply(self, body: Body, subresource: str | None = None, *, force: bool = False) -> dict[str, Any]:
        kind, name = body["kind"], body["metadata"]["name"]
        said = f"Event {body['reason']}" if kind == "Event" else f"{subresource or 'apply'} {kind} {name}"
        self._ask(said)
        known = self.objects.get((kind, name))
        if subresource is not None and known is None:
            raise Gone(f"{said}: not found")
        wanted = {"status": body["status"]} if subresource else {k: v for k, v in body.items() if k != "metadata"}
        made = copy.deepcopy({"metadata": {"uid": f"uid-{name}", "resourceVersion": "0"} | dict(body["metadata"])})
        made = copy.deepcopy(known) if known is not None else made
        changed = made | copy.deepcopy(wanted)
        if changed != known:
            self._version += 1
            changed["metadata"] = changed["metadata"] | {"resourceVersion": str(self._version)}
        self.objects[kind, name] = changed
        return copy.deepcopy(changed)

    async def patch(self, resource: Resource, namespace: str, name: str, uid: str, patch: Body) -> dict[str, Any]:
        self._ask(f"patch {resource.kind} {name}")
        known = self.objects[resource.kind, name]
        self._version += 1
        known["spec"] |= patch["spec"]
        known["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(known)

    async def delete(
        self, resource: Resource, namespace: str, name: str, uid: str, propagation: str, *, grace_seconds: int | None = None
    ) -> dict[str, Any]:
        self._ask(f"delete {resource.kind} {name}")
        if self.objects.pop((resource.kind, name), None) is None:
            raise Gone("not found")
        return {"kind": "Status", "status": "Success"}

    def _ask(self, doing: str) -> None:
        self.asked.append(doing)
        error = self.fault(doing)
        if error is not None:
            raise error
