"""Requests to the API server: plain dicts go out, plain dicts come back, and what fails says what to do about it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient

from pretrain_operator import apply_patch
from pretrain_operator.cluster.access import TOKEN
from pretrain_operator.cluster.failures import NotLeading, Unavailable, failure, unreachable
from pretrain_operator.observed import Body
from pretrain_operator.resources import BY_KIND, Resource

FIELD_MANAGER = "pretrain-operator"
PAGE = 500
"""Objects of one answer to a list: bounds the memory of both sides."""
TIMEOUT_SECONDS = 10.0
TRIES = 4
"""Of each request, while the server is unavailable. All that is sent can be sent twice."""
PAUSE_SECONDS = 0.25
"""Before the second try; doubled before each further one."""
LONGEST_PAUSE_SECONDS = 5.0
"""A longer wait that the server asks for is left to the queue."""

MERGE, JSON = "application/merge-patch+json", "application/json"


class Client:
    """The API server, as this operator uses it. Every method raises Failure."""

    def __init__(self, api: ApiClient, write_seconds: Callable[[], float] = lambda: TIMEOUT_SECONDS) -> None:
        self.api = api
        self.write_seconds = write_seconds
        """How long this process may go on writing; 0 if it may not. A request that would take longer is given up."""

    async def pages(self, resource: Resource, namespace: str | None) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        """All objects of a kind that are ours, a page at a time, with the version of the whole list."""
        going_on = ""
        while True:
            query = [("limit", str(PAGE)), ("labelSelector", resource.label_selector), ("continue", going_on)]
            answer = await self._read(f"list {resource.plural}", resource.path(namespace), query)
            kind = {"apiVersion": resource.api_version, "kind": resource.kind}  # items of a list do not say it
            yield [kind | item for item in answer["items"]], str(answer["metadata"]["resourceVersion"])
            going_on = answer["metadata"].get("continue") or ""
            if not going_on:
                return

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        """One object."""
        return await self._read(f"get {resource.kind} {namespace}/{name}", resource.path(namespace, name))

    async def apply(self, body: Body, subresource: str | None = None, *, force: bool = False) -> dict[str, Any]:
        """Server-side-applies an object and returns what it has become. With force, fields of others are taken over."""
        resource, metadata = BY_KIND[body["kind"]], body["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        return await self._write(
            "PATCH",
            f"apply {subresource + ' of ' if subresource else ''}{resource.kind} {namespace}/{name}",
            resource.path(namespace, name, subresource),
            [("fieldManager", FIELD_MANAGER), ("force", str(force).lower())],
            apply_patch.as_yaml(body),
            apply_patch.CONTENT_TYPE,
        )

    async def patch(self, resource: Resource, namespace: str, name: str, uid: str, patch: Body) -> dict[str, Any]:
        """Merges a patch into the object with this uid. Stale if it is another one by now."""
        meant = {**patch, "metadata": {**(patch.get("metadata") or {}), "uid": uid}}
        doing, path = f"patch {resource.kind} {namespace}/{name}", resource.path(namespace, name)
        return await self._write("PATCH", doing, path, [("fieldManager", FIELD_MANAGER)], meant, MERGE)

    async def delete(
        self, resource: Resource, namespace: str, name: str, uid: str, propagation: str, *, grace_seconds: int | None = None
    ) -> dict[str, Any]:
        """Deletes the object with this uid. Stale if it is another one by now. Returns the object, or a Status."""
        options: dict[str, Any] = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
        options |= {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        doing, path = f"delete {resource.kind} {namespace}/{name}", resource.path(namespace, name)
        return await self._write("DELETE", doing, path, [], {"apiVersion": "v1", "kind": "DeleteOptions", **options})

    async def once(self, method: str, doing: str, path: str, body: Body, seconds: float) -> dict[str, Any]:
        """One request that is not tried again and needs no Lease: for those that keep the Lease."""
        return await self._call(method, doing, path, [], body, JSON, seconds)

    async def _read(self, doing: str, path: str, query: list[tuple[str, str]] | None = None) -> dict[str, Any]:
        given = [(name, value) for name, value in query or [] if value]
        return await self._tried(lambda: self._call("GET", doing, path, given, None, JSON, TIMEOUT_SECONDS * 3))

    async def _write(
        self, method: str, doing: str, path: str, query: list[tuple[str, str]], body: Body | str, content: str = JSON
    ) -> dict[str, Any]:
        async def once() -> dict[str, Any]:
            left = self.write_seconds()
            if left <= 0:
                raise NotLeading(f"did not {doing}: the operator's Lease could not be renewed")
            return await self._call(method, doing, path, query, body, content, min(left, TIMEOUT_SECONDS))

        return await self._tried(once)

    async def _tried(self, request: Callable[[], Any]) -> dict[str, Any]:
        """The request, tried again while the server is unavailable, as long as that does not take long."""
        for number in range(1, TRIES + 1):
            try:
                answer: dict[str, Any] = await request()
            except Unavailable as error:
                pause = PAUSE_SECONDS * 2 ** (number - 1) * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load
                pause = max(pause, error.retry_after or 0)
                if number == TRIES or pause > LONGEST_PAUSE_SECONDS:
                    raise
                await asyncio.sleep(pause)
            else:
                return answer
        raise AssertionError("the last try returns or raises")

    async def _call(
        self,
        method: str,
        doing: str,
        path: str,
        query: list[tuple[str, str]],
        body: Body | str | None,
        content: str,
        seconds: float,
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(seconds):
                request = await self.api.param_serialize(
                    method,
                    path,
                    query_params=query,
                    body=body,
                    header_params={"Accept": JSON, "Content-Type": content},
                    auth_settings=TOKEN,
                )
                response = await self.api.call_api(*request, _request_timeout=seconds)
                data = await response.read()  # type: ignore[no-untyped-call]
        except TimeoutError:
            raise Unavailable(f"the API server did not {doing} within {seconds:.0f} s; it is tried again") from None
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(doing, error) from error
        answer = _parsed(data)
        if not 200 <= response.status <= 299:
            raise failure(doing, response.status, answer or {}, response.headers.get("Retry-After"))
        if answer is None:
            raise Unavailable(f"the API server was asked to {doing} and answered what is not JSON; it is tried again")
        return answer


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(data)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
