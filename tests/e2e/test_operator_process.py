"""The operator's process against a real API server: what it writes, and what happens when it, or the API server, fails.

The pods of these jobs do nothing (tests/e2e/images/instant.Dockerfile): what is tested is what happens between them.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from tests.e2e.api_proxy import ApiProxy, Asked
from tests.e2e.operator_process import IMAGE, PATIENCE_SECONDS, WAITING, Operator, Place, timeless, until

pytestmark = pytest.mark.e2e

JOB_SECONDS = 240.0
"""For a whole job of instant pods, on a machine that is busy with other things."""
AGENT = re.compile(r"pretrain-operator/[0-9.]+")


def test_a_job_and_the_same_with_the_operator_killed_after_every_write(place: Place) -> None:
    """One operator is left alone; the other is killed whenever the API server has taken a write, before it hears of that."""
    undisturbed = _left_alone(place)
    place.kubectl("delete", "pretrainjob/job", "--cascade=foreground")
    until(lambda: not place.kubectl.get("pods", "-l", "pretrain.dev/job=job")["items"], 60)

    proxy = place.proxy()
    operator = place.operator(proxy)
    killed: dict[str, str] = {}

    def kill(asked: Asked) -> None:
        if asked.write and asked.status < 300 and _content(asked) not in killed:
            killed[_content(asked)] = _kind(asked)
            assert operator.process is not None
            os.kill(operator.process.pid, signal.SIGKILL)

    proxy.before_answer = kill
    place.apply("job")

    def done() -> bool:
        if operator.process is not None and operator.process.poll() is not None:
            operator.start()
        return place.condition("job", "Succeeded").get("status") == "True"

    until(done, 3 * JOB_SECONDS, lambda: json.dumps(place.status("job"), indent=1))
    until(lambda: place.outcome("job") == undisturbed, 30, lambda: _difference(place.outcome("job"), undisturbed))
    kills = Counter(killed.values())
    print(f"killed {len(killed)} times, after {dict(kills)}")
    children = Counter({"configmaps": 1, "jobs": 7, "pytorchjobs": 1})
    assert kills & children == children
    assert kills["events"] >= len(undisturbed["events"]) - 1
    assert kills["status"] > 0
    assert _made_twice(proxy.writes()) == []


def test_two_operators_never_write_both(place: Place) -> None:
    """One is killed, one stopped for longer than its Lease lasts, one told to end: the other one takes over each time."""
    proxies = {name: place.proxy() for name in ("one", "two")}
    one = place.operator(proxies["one"], name="one").leading()
    two = place.operator(proxies["two"], name="two").ready()
    place.apply("first", WAITING)
    until(lambda: place.condition("first", "Accepted").get("status") == "True", PATIENCE_SECONDS)
    assert proxies["two"].writes() == [], "the standby writes"

    one.kill()
    killed = time.monotonic()
    place.apply("second", WAITING)
    until(lambda: bool(place.condition("second", "Accepted")), PATIENCE_SECONDS, two.log.read_text)
    print(f"\ntaken over {proxies['two'].writes()[0].at - killed:.1f} s after kill -9")
    assert 10 < proxies["two"].writes()[0].at - killed < 20

    one.start().ready()
    two.send(signal.SIGSTOP)
    stopped = time.monotonic()
    one.leading()
    place.apply("third", WAITING)
    until(lambda: bool(place.condition("third", "Accepted")), PATIENCE_SECONDS, one.log.read_text)
    before = len(proxies["two"].writes())
    place.apply("fourth", WAITING)
    two.send(signal.SIGCONT)
    assert two.wait(PATIENCE_SECONDS) == 1
    assert "is held by one now" in two.log.read_text()
    assert len(proxies["two"].writes()) == before, "it wrote after it had lost the Lease"
    assert max(asked.at for asked in proxies["two"].writes()) < stopped + 1

    two.start().ready()
    time.sleep(3)  # its watch of the Lease is open
    one.send(signal.SIGTERM)
    assert one.wait(15) == 0
    ended = time.monotonic()
    two.leading()
    print(f"taken over {time.monotonic() - ended:.1f} s after the end of the other")
    assert time.monotonic() - ended < 4


def test_told_to_end_it_ends_what_it_has_begun_and_gives_the_lease_up(place: Place) -> None:
    proxy = place.proxy()
    operator = place.operator(proxy).leading()
    proxy.delay_seconds = lambda asked: 2.0 if "/jobs/" in asked.path else 0.0
    place.apply("job", WAITING)
    until(lambda: any("/jobs/" in asked.path for asked in proxy.writes()), PATIENCE_SECONDS)
    operator.send(signal.SIGTERM)
    told = time.monotonic()
    assert operator.wait(15) == 0
    assert 1 < time.monotonic() - told < 10
    assert [line["message"] for line in operator.lines() if line["level"] in ("warning", "error")] == []
    assert place.status("job")["stages"], "the look at the job was cut off before its status"
    assert place.kubectl.get("lease/pretrain-operator")["spec"]["holderIdentity"] == ""
    assert proxy.asked[-1].path.endswith("/leases/pretrain-operator")


def test_api_server_away_and_watches_silent(place: Place) -> None:
    """Away for longer than the Lease lasts: the process stays, and goes on within seconds. Then watches that bring nothing."""
    proxy = place.proxy()
    operator = place.operator(proxy, "--resync-seconds", "100000").leading()
    place.apply("before", WAITING)
    until(lambda: bool(place.condition("before", "Accepted")), PATIENCE_SECONDS)

    proxy.cut()
    place.apply("meanwhile", WAITING)
    place.kubectl("delete", "pretrainjob/before")
    time.sleep(30)
    assert operator.process is not None
    assert operator.process.poll() is None
    assert operator.get("/livez")[0] == 200, "an API server that is away is no reason to start again"
    proxy.mend()
    took = until(lambda: bool(place.condition("meanwhile", "Accepted")), 20, operator.log.read_text)
    print(f"\ngone on {took:.1f} s after the API server was back")

    time.sleep(12)  # the list after the watches' own
    proxy.silence()
    place.apply("unheard", WAITING)
    took = until(lambda: bool(place.condition("unheard", "Accepted")), 120, operator.log.read_text)
    print(f"heard {took:.1f} s after the watches fell silent")
    assert operator.get("/livez")[0] == 200
    assert operator.process.poll() is None


def test_errors_and_lost_events(place: Place) -> None:
    """Every tenth request is answered 429, 500 or 409, and three of ten events are lost: the end is the same."""
    chance = random.Random(20)
    names = [f"job-{number}" for number in range(6)]
    calm = place.proxy()
    operator = place.operator(calm).leading()
    for name in names:
        place.apply(name, WAITING)
    for name in names:
        _waits_for_a_node(place, name)
    _quiet(calm)
    outcomes = [_essence(place, name) for name in names]
    calls = len(calm.writes())
    operator.send(signal.SIGTERM)
    assert operator.wait(15) == 0
    place.kubectl("delete", "pretrainjob", "--all", "--cascade=foreground")

    proxy = place.proxy()
    refused: list[Asked] = []

    def refuse(asked: Asked) -> tuple[int, dict[str, Any]] | None:
        if asked.watch or "/leases" in asked.path or chance.random() > 0.1:
            return None
        refused.append(asked)
        code = chance.choice((429, 500, 409))
        return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "made by the test"}

    proxy.fault = refuse
    proxy.drop = lambda event: event["object"]["kind"] != "Lease" and chance.random() < 0.3
    operator = place.operator(proxy, "--resync-seconds", "5")
    for name in names:
        place.apply(name, WAITING)
    assert [_outcome_within(place, name, outcome) for name, outcome in zip(names, outcomes, strict=True)] == [""] * len(
        names
    )
    made = len(proxy.writes())
    print(f"\n{calls} writes undisturbed, {made} with {len(refused)} refused")
    assert len(refused) > calls / 20
    assert made <= 1.5 * calls
    for name in names:
        place.kubectl("delete", f"pretrainjob/{name}", "--wait=false")
    place.apply("last", WAITING)
    until(lambda: bool(place.condition("last", "Accepted")), PATIENCE_SECONDS, operator.log.read_text)


def test_refusals_become_conditions_that_say_what_to_do(place: Place) -> None:
    proxy = place.proxy()
    operator = place.operator(proxy).leading()

    def says(name: str, reason: str, *words: str) -> None:
        until(
            lambda: place.condition(name, "Progressing").get("reason") == reason,
            PATIENCE_SECONDS,
            lambda: str(place.status(name)),
        )
        message = place.condition(name, "Progressing")["message"]
        assert all(word in message for word in words), message

    place.kubectl("apply", "-f", "-", stdin=_somebodys_job("taken-preflight"))
    time.sleep(1)
    place.apply("taken", WAITING)
    says("taken", "NameTaken", "Job", "taken-preflight", "delete it")
    place.kubectl("delete", "job/taken-preflight")
    until(lambda: place.condition("taken", "Progressing")["reason"] != "NameTaken", PATIENCE_SECONDS)

    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"count/jobs.batch": "1"}},
    }
    place.kubectl("apply", "-f", "-", stdin=quota)
    until(lambda: "used" in place.kubectl.get("resourcequota/none").get("status", {}), PATIENCE_SECONDS)
    place.apply("refused", WAITING)
    says("refused", "ApplyRefused", "Job", "exceeded quota", "raise the quota")
    time.sleep(4)
    before = len([asked for asked in proxy.writes() if asked.path.endswith("/refused/status")])
    place.kubectl("delete", "resourcequota/none")
    until(lambda: place.condition("refused", "Progressing")["reason"] != "ApplyRefused", PATIENCE_SECONDS)
    assert before == 1, "the same refusal was written again"
    assert {event["reason"] for event in place.events("refused")} >= {"ApplyRefused", "Accepted"}
    assert operator.process is not None
    assert operator.process.poll() is None


def test_fields_of_others_stay_theirs(place: Place) -> None:
    """One field manager; what another one added to a child or to the job is there afterwards."""
    proxy = place.proxy()
    place.operator(proxy).leading()
    place.apply("job", WAITING)
    until(lambda: bool(place.condition("job", "Accepted")), PATIENCE_SECONDS)
    until(lambda: place.kubectl.run("get", "job/job-preflight").returncode == 0, PATIENCE_SECONDS)
    place.kubectl("label", "job/job-preflight", "team=blue")
    place.kubectl("annotate", "pretrainjob/job", "team=blue")
    place.apply("job", WAITING | {"suspend": True})
    until(lambda: place.condition("job", "Suspended").get("status") == "True", PATIENCE_SECONDS)
    child = place.kubectl.get("job/job-preflight", "--show-managed-fields")
    parent = place.kubectl.get("pretrainjob/job", "--show-managed-fields")
    assert child["spec"]["suspend"] is True
    assert (child["metadata"]["labels"]["team"], parent["metadata"]["annotations"]["team"]) == ("blue", "blue")
    assert "finalizers" not in parent["metadata"]
    assert [note for note in parent["metadata"]["annotations"] if "kopf" in note] == []
    ours = {entry["manager"] for entry in child["metadata"]["managedFields"]} - {"kubectl-label", "kube-controller-manager"}
    assert ours == {"pretrain-operator"}
    mine = [entry for entry in parent["metadata"]["managedFields"] if entry["manager"] == "pretrain-operator"]
    assert [(entry["operation"], entry["subresource"]) for entry in mine] == [("Apply", "status")]


def test_missing_rights_are_said_at_the_start(place: Place) -> None:
    role = place.kubectl.get("roles")["items"][0]["metadata"]["name"]
    rules = json.dumps([{"op": "remove", "path": "/rules/3"}])
    place.kubectl("patch", f"role/{role}", "--type=json", "-p", rules)
    operator = place.operator(place.proxy())
    assert operator.wait(PATIENCE_SECONDS) == 1
    assert "refused to list pytorchjobs" in operator.log.read_text()
    assert "grant this to the operator's service account" in operator.log.read_text()


def _waits_for_a_node(place: Place, name: str) -> None:
    until(
        lambda: place.condition(name, "Progressing").get("reason") == "Unschedulable",
        PATIENCE_SECONDS,
        lambda: str(place.status(name)),
    )


def _essence(place: Place, name: str) -> dict[str, Any]:
    """Messages of the scheduler differ from time to time, and so may the number of times that a job waited."""
    outcome = place.outcome(name)
    conditions = {one["type"]: (one["status"], one["reason"]) for one in outcome["status"].get("conditions", [])}
    return {"children": outcome["children"], "conditions": conditions, "stages": outcome["status"].get("stages")}


def _outcome_within(place: Place, name: str, outcome: dict[str, Any]) -> str:
    try:
        until(lambda: _essence(place, name) == outcome, 60, lambda: _difference(_essence(place, name), outcome))
    except AssertionError as error:
        return f"{name}: {error}"
    return ""


def _somebodys_job(name: str) -> dict[str, Any]:
    safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "image": IMAGE, "securityContext": safe}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"pretrain.dev/job": "taken"}},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }


def _left_alone(place: Place) -> dict[str, Any]:
    proxy = place.proxy()
    operator = place.operator(proxy).leading()
    place.kubectl("get", "pods")  # the API server's caches are warm
    time.sleep(7)  # the list after the watches' own
    before = len(proxy.asked)
    place.apply("job")
    place.succeeds("job", JOB_SECONDS)
    _quiet(proxy)
    asked = proxy.asked[before:]
    writes = [one for one in asked if one.write]
    print(f"\n{len(writes)} writes for one job: {dict(Counter(_kind(one) for one in writes))}")
    assert [one.path for one in asked if one.read] == [], "it read what its watches bring"
    assert _made_twice(writes) == []
    assert [(one.path, one.status) for one in writes if 300 <= one.status < 500] == []
    assert all(AGENT.fullmatch(one.agent) for one in proxy.asked), {one.agent for one in proxy.asked}
    _assert_counted(operator, proxy)
    _assert_logged(operator)
    outcome = place.outcome("job")
    assert [event for event in outcome["events"] if event[2] != 1] == []
    operator.send(signal.SIGTERM)
    assert operator.wait(15) == 0
    return outcome


def _assert_logged(operator: Operator) -> None:
    """JSON on every line; what is about a job says which."""
    lines = operator.lines()
    applied = [line for line in lines if line["message"].startswith("applied ")]
    assert applied
    for line in applied:
        assert {"time", "level", "namespace", "name", "uid", "generation"} <= line.keys()
    assert [line for line in lines if line["level"] in ("warning", "error")] == []


def _assert_counted(operator: Operator, proxy: ApiProxy) -> None:
    """The metrics agree with what the proxy saw."""
    _, text = operator.get("/metrics", metrics=True)
    patches = sum(one.method == "PATCH" for one in proxy.asked)
    counted = re.findall(r'pretrain_operator_api_requests_total\{code="20[01]",verb="patch"\} ([0-9.]+)', text)
    assert sum(map(float, counted)) == patches


def _kind(asked: Asked) -> str:
    parts = asked.path.split("/")
    return "status" if parts[-1] == "status" else parts[parts.index("namespaces") + 2]


def _content(asked: Asked) -> str:
    return f"{asked.method} {asked.path} {json.dumps(timeless(json.loads(asked.body or b'{}')), sort_keys=True)}"


def _made_twice(writes: Iterable[Asked]) -> list[str]:
    made = Counter(asked.path for asked in writes if asked.status == 201)
    return [path for path, times in made.items() if times > 1]


def _difference(mine: dict[str, Any], other: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {mine[name]}\n  not {other[name]}" for name in mine if mine[name] != other[name])


def _quiet(proxy: ApiProxy, seconds: float = 4.0) -> None:
    """Waits until nothing but the Lease has been written for so long."""
    until(lambda: bool(proxy.asked) and all(one.at < time.monotonic() - seconds for one in proxy.writes()), 60)
