"""Requests: what goes out, and what each kind of refusal comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration
from pretrain_operator.cluster import client as module
from pretrain_operator.cluster.access import close
from pretrain_operator.cluster.client import Client
from pretrain_operator.cluster.failures import Failure, Gone, NotLeading, Refused, Stale, Taken, Unavailable
from pretrain_operator.resources import JOBS, PODS, PRETRAIN_JOBS

from tests.cluster.server import Answer, Scripted, hangs_up, says, serving

CHILD = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "small-clean", "namespace": "team"},
    "spec": {"suspend": True},
}
STATUS = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
OWNED = {
    "message": 'Apply failed with 1 conflict: conflict with "kubectl" using batch/v1: .spec.parallelism',
    "details": {"causes": [{"reason": "FieldManagerConflict", "field": ".spec.parallelism"}]},
}
UNTYPED = {"message": "failed to create typed patch object (team/small-clean; batch/v1, Kind=Job): field not declared"}


def ask(answers: list[Answer], request: Callable[[Client], Awaitable[Any]], **options: Any) -> tuple[Any, Scripted]:
    """What a request comes to with these answers, and what the server was asked."""
    script = Scripted(answers)

    async def go() -> Any:
        async with serving(script) as url:
            configuration = Configuration()
            configuration.host = url
            configuration.api_key = {"BearerToken": "bearer secret"}
            api = ApiClient(configuration)
            try:
                return await request(Client(api, **options))
            finally:
                await close(api)

    return asyncio.run(go()), script


def apply(client: Client) -> Awaitable[Any]:
    return client.apply(CHILD)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (404, {"message": 'jobs.batch "small-clean" not found'}, Gone, "not found"),
        (409, {"message": "uid mismatch"}, Stale, "looked at again"),
        (409, OWNED, Taken, "let the other manager give these fields up"),
        (410, {"message": "the provided continue parameter is too old"}, Stale, "too old"),
        (400, {"message": "bad"}, Refused, "correct the field"),
        (403, {"message": "jobs.batch is forbidden"}, Refused, "service account"),
        (403, {"message": "exceeded quota: pods, requested: 1"}, Refused, "raise the quota"),
        (403, {"message": "unable to create: namespace team is being terminated"}, Refused, "another namespace"),
        (422, {"message": "spec.template: Invalid value: field is immutable"}, Refused, "field is immutable"),
        (500, UNTYPED, Refused, "field not declared"),
    ],
)
def test_refusals_name_the_object_the_cause_and_the_remedy(
    status: int, body: dict[str, Any], kind: type[Failure], said: str
) -> None:
    with pytest.raises(kind) as refusal:
        ask([says(status, STATUS | body)], apply)
    assert "apply Job team/small-clean" in str(refusal.value)
    assert said in str(refusal.value)


def test_what_will_not_change_is_not_asked_twice() -> None:
    async def count(client: Client) -> None:
        with pytest.raises(Refused):
            await apply(client)

    for answer in (says(422, STATUS | {"message": "no"}), says(500, STATUS | UNTYPED)):
        _, script = ask([answer], count)
        assert len(script.asked) == 1


@pytest.mark.parametrize(
    "first",
    [says(500, STATUS | {"message": "etcdserver: timeout"}), says(503, {}), says(429, {}), hangs_up],
    ids=("500", "503", "429", "cut off"),
)
def test_what_passes_is_asked_again_at_once(first: Answer) -> None:
    answer, script = ask([first, first, says(200, CHILD)], apply)
    assert answer == CHILD
    assert len(script.asked) == 3


@pytest.mark.parametrize(
    "always", [says(500, STATUS | {"message": "etcdserver: timeout"}), hangs_up], ids=("500", "cut off")
)
def test_an_outage_is_said_after_a_few_tries(always: Answer) -> None:
    async def request(client: Client) -> str:
        with pytest.raises(Unavailable) as outage:
            await client.apply(CHILD)
        return str(outage.value)

    said, script = ask([always], request)
    assert "apply Job team/small-clean" in said
    assert "it is tried again" in said
    assert len(script.asked) == module.TRIES


def test_a_server_that_asks_for_time_gets_it() -> None:
    """A short wait is waited for; a long one is left to the queue."""

    async def request(client: Client) -> float:
        begun = asyncio.get_running_loop().time()
        await client.apply(CHILD)
        return asyncio.get_running_loop().time() - begun

    waited, _ = ask([says(429, {}, Retry_After="1"), says(200, CHILD)], request)
    assert waited >= 1

    async def refused(client: Client) -> Unavailable:
        with pytest.raises(Unavailable) as outage:
            await client.apply(CHILD)
        return outage.value

    error, script = ask([says(429, {}, Retry_After="60"), says(200, CHILD)], refused)
    assert error.retry_after == 60
    assert len(script.asked) == 1


def test_silence_ends_at_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(module, "TRIES", 1)

    async def silent(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async def request(client: Client) -> None:
        with pytest.raises(Unavailable, match="within 0 s"):
            await client.apply(CHILD)

    ask([silent], request)


def test_nothing_is_written_without_the_lease() -> None:
    async def request(client: Client) -> None:
        with pytest.raises(NotLeading):
            await client.apply(CHILD)

    _, script = ask([says(200, CHILD)], request, write_seconds=lambda: 0.0)
    assert script.asked == []


def test_a_write_is_not_tried_again_once_the_lease_is_gone() -> None:
    left = iter((1.0, 0.0))

    async def request(client: Client) -> None:
        with pytest.raises(NotLeading):
            await client.apply(CHILD)

    _, script = ask([says(503, {})], request, write_seconds=lambda: next(left))
    assert len(script.asked) == 1


def test_requests_say_who_what_and_which() -> None:
    async def request(client: Client) -> None:
        await client.apply(CHILD)
        await client.apply(CHILD | {"status": {}}, "status", force=True)
        await client.patch(JOBS, "team", "small-clean", "u-1", {"spec": {"suspend": False}})
        await client.delete(PODS, "team", "p", "u-2", "Background", grace_seconds=0)

    _, script = ask([says(200, CHILD)], request)
    child, status, patch, delete = script.asked
    assert child.path == "/apis/batch/v1/namespaces/team/jobs/small-clean"
    assert child.query == {"fieldManager": "pretrain-operator", "force": "false"}
    assert child.headers["Content-Type"] == "application/apply-patch+yaml; charset=utf-8"
    assert child.headers["Authorization"] == "bearer secret"
    assert child.headers["User-Agent"].startswith("OpenAPI") is True  # the client of this test; `connect` names the operator
    assert status.path.endswith("/jobs/small-clean/status")
    assert status.query["force"] == "true"
    assert patch.headers["Content-Type"] == "application/merge-patch+json"
    assert delete.method == "DELETE"

    async def bodies() -> list[Any]:
        return [await sent.json() for sent in (patch, delete)]

    patched, deleted = asyncio.run(bodies())
    assert patched == {"spec": {"suspend": False}, "metadata": {"uid": "u-1"}}
    assert deleted["preconditions"] == {"uid": "u-2"}
    assert deleted["gracePeriodSeconds"] == 0


def test_lists_come_in_pages_and_only_of_what_is_ours() -> None:
    def page(names: list[str], going_on: str) -> Answer:
        items = [{"metadata": {"name": name, "namespace": "team"}} for name in names]
        return says(200, {"items": items, "metadata": {"resourceVersion": "7", "continue": going_on}})

    async def request(client: Client) -> list[dict[str, Any]]:
        return [body async for items, _ in client.pages(PODS, None) for body in items]

    found, script = ask([page(["a", "b"], "more"), page(["c"], "")], request)
    assert [body["metadata"]["name"] for body in found] == ["a", "b", "c"]
    assert {(body["apiVersion"], body["kind"]) for body in found} == {("v1", "Pod")}
    assert [asked.query.get("continue") for asked in script.asked] == [None, "more"]
    assert all(asked.query["labelSelector"] == "pretrain.dev/job" for asked in script.asked)
    assert script.asked[0].path == "/api/v1/pods"
    assert PRETRAIN_JOBS.path("team") == "/apis/pretrain.dev/v1alpha1/namespaces/team/pretrainjobs"
