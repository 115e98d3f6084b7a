"""The course of one job that nothing disturbs, from raw text to an exported model: what it leaves, says, asks for, and writes.

All of these look at one run (the fixture `undisturbed`); the last ones change it, in their order here, when no other test
needs it any more.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_operator.conditions import TYPES
from pretrain_operator.crd import crd
from pretrain_stage.manifest import Manifest, fetch, read_manifest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e import audit
from tests.e2e.jobs import STAGES, STEPS
from tests.e2e.kubectl import Kubectl
from tests.e2e.s3 import SECRET
from tests.e2e.undisturbed import NAME, OTHER_SECRET, Undisturbed
from tests.e2e.waiting import condition, eventually, stage

pytestmark = pytest.mark.e2e

CHILDREN = "jobs,pytorchjobs,configmaps,pods"
LISTED_KINDS = 5
STARTED_SECONDS = 10.0
"""An operator that starts lists everything, begins to watch, and lists once more; after that it is told by its watches."""
LEASE_LOGGER = "pretrain_operator.cluster.lease"
IDLE_SECONDS = 65.0
QUIET_STATUS_WRITES = 4
"""In a minute, of progress alone: at most one in 15 s."""


def test_every_output_is_what_its_manifest_says(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """The chain of manifests from raw text to the model, and every byte of what they name."""
    manifests: dict[str, Manifest] = {}
    for name in STAGES[1:]:  # preflight makes nothing
        manifest = read_manifest(undisturbed.storage, name)
        assert manifest is not None, name
        for source, digest in manifest.inputs.items():
            if source in manifests:
                assert digest == manifests[source].digest, f"{name} was made from another {source}"
        for file in manifest.outputs:
            fetch(undisturbed.storage, file, tmp_path / "output")
        manifests[name] = manifest
    assert manifests["train"].digest in manifests["export"].inputs.values()
    assert manifests["clean"].tasks == 2
    (weights,) = (file for file in manifests["export"].outputs if file.path == "export/model.safetensors")
    assert weights.sha256 == undisturbed.outcome.model


def test_the_exported_model_speaks(undisturbed: Undisturbed, tmp_path: Path) -> None:
    for entry in undisturbed.storage.entries("export"):
        undisturbed.storage.download(entry.path, tmp_path / Path(entry.path).name)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    tokens = tokenizer("中国", return_tensors="pt")
    with torch.no_grad():
        said = model.generate(**tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert said.shape[1] == tokens["input_ids"].shape[1] + 4


def test_the_status_of_a_finished_job(undisturbed: Undisturbed) -> None:
    job, generation = undisturbed.job, undisturbed.job["metadata"]["generation"]
    status = job["status"]
    assert status["observedGeneration"] == generation == 1
    assert [item["type"] for item in status["conditions"]] == list(TYPES)
    assert {item["observedGeneration"] for item in status["conditions"]} == {generation}
    assert {item["type"] for item in status["conditions"] if item["status"] == "True"} == {"Accepted", "Succeeded"}
    assert f"{job['spec']['storage']['uri']}/export/" in condition(job, "Succeeded")["message"]
    assert (status["phase"], status["restartCount"], status["restarts"]) == ("Succeeded", 0, [])

    assert [item["name"] for item in status["stages"]] == list(STAGES)
    for item in status["stages"]:
        assert (item["state"], item["succeeded"], item["active"], item["failed"]) == ("Succeeded", item["tasks"], 0, 0), item
        assert status["startTime"] <= item["startTime"] <= item["completionTime"] <= status["completionTime"], item
    assert (stage(job, "clean")["tasks"], stage(job, "train")["tasks"]) == (2, 2)
    training = status["training"]
    assert (training["attempt"], training["step"], training["steps"], training["checkpointStep"]) == (1, *3 * [STEPS])
    assert 0 < training["loss"] < 10


def test_the_table_is_narrow_and_tells_the_course(undisturbed: Undisturbed) -> None:
    lines = [line for table in undisturbed.tables for line in table.splitlines()]
    assert max(map(len, lines)) <= 120, max(lines, key=len)
    assert lines[0].split() == ["NAME", "PHASE", "STAGE", "PROGRESS", "LOSS", "TOKENS/S", "ETA", "AGE"]
    rows = [line.split() for line in lines if not line.startswith("NAME ")]
    phases = list(dict.fromkeys(row[1] for row in rows if len(row) > 2))
    # A status is written at most every 15 s, so the last stages may be over before they are told.
    assert [phase for phase in phases if phase != "Finishing"] == ["Preprocessing", "Training", "Succeeded"], "\n".join(
        lines
    )
    assert {row[2] for row in rows if row[1] == "Training"} == {"train"}
    assert rows[-1][:4] == [NAME, "Succeeded", "report", "1/1"]
    assert float(rows[-1][4]) == undisturbed.job["status"]["training"]["loss"]


def test_explain_answers_every_field(undisturbed: Undisturbed) -> None:
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path, fields in _sections("pretrainjob", schema):
        said = undisturbed.kubectl("explain", path)
        assert "<no description>" not in said.partition("FIELDS:")[2] or path == "pretrainjob", said
        for field in fields:
            assert f"\n  {field}\t" in said, f"{path}.{field}"


def test_events_at_changes_of_state_and_once(undisturbed: Undisturbed) -> None:
    events = _events(undisturbed.kubectl, undisturbed.job)
    said = Counter((event["reason"], event["message"]) for event in events)
    assert set(said.values()) == {1}, said
    assert {event["count"] for event in events} == {1}
    assert {event["type"] for event in events} == {"Normal"}, said
    assert Counter(event["reason"] for event in events) == {"Accepted": 1, "StageSucceeded": len(STAGES), "Succeeded": 1}
    order = [event["message"] for event in sorted(events, key=lambda event: event["metadata"]["creationTimestamp"])]
    assert order[0] == f"{len(STAGES)} stages, from {STAGES[0]}"


def test_every_pod_ran_once_restricted_and_without_a_token(undisturbed: Undisturbed) -> None:
    labels = undisturbed.kubectl.get("namespace", undisturbed.kubectl.namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = _children(undisturbed.kubectl, "pods")
    assert len(pods) == sum(item["tasks"] for item in undisturbed.job["status"]["stages"]), _names(pods)  # none was retried
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        (state,) = pod["status"]["containerStatuses"]
        assert (pod["status"]["phase"], state["restartCount"]) == ("Succeeded", 0), pod["metadata"]["name"]
        assert "initContainers" not in pod["spec"]
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not [volume for volume in pod["spec"]["volumes"] if "projected" in volume or "hostPath" in volume]
        assert not [mount for mount in container["volumeMounts"] if "serviceaccount" in mount["mountPath"]]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_every_child_belongs_to_the_job(undisturbed: Undisturbed) -> None:
    uid = undisturbed.job["metadata"]["uid"]
    children = {item["metadata"]["uid"]: item for item in _children(undisturbed.kubectl)}
    for item in children.values():
        (owner,) = item["metadata"]["ownerReferences"]
        assert owner["controller"] is True
        assert owner["uid"] == uid if item["kind"] != "Pod" else owner["uid"] in children


def test_writes_of_one_job(undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted by the API server: each child is written once, each Event once, the status at changes; nothing is read."""
    asked = audit.requests(user=undisturbed.operator.user)
    mine = [request for request in asked if request.resource != "leases"]
    started = asked[0].time + timedelta(seconds=STARTED_SECONDS)
    writes = Counter(request.resource for request in mine if request.writes)
    statuses = [request.time for request in mine if request.resource == "pretrainjobs/status"]
    reads = Counter(
        f"{request.verb} {request.resource}"
        for request in mine
        if not request.writes and request.verb != "watch" and request.time > started
    )
    with capsys.disabled():
        print(f"\nwrites of one job in {undisturbed.seconds:.0f} s: {dict(writes)}; reads: {dict(reads)}")
    assert {request.code for request in mine} <= {200, 201}, Counter(request.code for request in mine)
    assert writes["jobs"] == len(STAGES) - 1
    assert (writes["pytorchjobs"], writes["configmaps"]) == (1, 1)
    assert writes["events"] == len(STAGES) + 2
    assert set(writes) == {"jobs", "pytorchjobs", "configmaps", "events", "pretrainjobs/status"}
    busiest = max(
        sum(1 for other in statuses if timedelta(0) <= other - start < timedelta(seconds=60)) for start in statuses
    )
    urgent = 2  # accepted, succeeded
    assert busiest <= QUIET_STATUS_WRITES + urgent, f"{busiest} writes of one status within a minute"
    # Once more whenever an API server that did not answer for ten seconds is back.
    assert sum(reads.values()) <= LISTED_KINDS * _outages(undisturbed), reads


def test_the_operator_had_nothing_to_complain_of(undisturbed: Undisturbed) -> None:
    """But of an API server that answers too late, which is none of its faults."""
    log = _log(undisturbed)
    assert log
    complaints = [line for line in log if line["level"] != "info" and line["logger"] != LEASE_LOGGER]
    assert not complaints
    (pod,) = undisturbed.operator.pods()
    assert [state["restartCount"] for state in pod["status"]["containerStatuses"]] == [0]


def test_no_secret_shows_anywhere(undisturbed: Undisturbed) -> None:
    """Keys of the Secret that the job names, and a word from another one: only Secrets hold them."""
    kubectl, operator = undisturbed.kubectl, undisturbed.operator.kubectl
    secret = kubectl.get("secret", SECRET)["data"]
    other = kubectl.get("secret", OTHER_SECRET)["data"]
    words = [word for data in (secret, other) for value in data.values() for word in (value, b64decode(value).decode())]
    assert len(words) == 6

    kinds = set(kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split())
    kinds -= {"secrets", "endpoints"}  # the latter are deprecated, with a warning, and are endpointslices too
    objects = [item for where in (kubectl, operator) for item in where.get(",".join(sorted(kinds)))["items"]]
    shown = {f"{item['kind']} {item['metadata']['uid']}": json.dumps(item) for item in objects}
    shown |= {f"log of {name}": kubectl("logs", name) for name in _names(_children(kubectl, "pods"))}
    shown["log of the operator"] = undisturbed.operator.log()
    (pod,) = _names(undisturbed.operator.pods())
    shown["metrics"] = operator("get", "--raw", f"/api/v1/namespaces/{operator.namespace}/pods/{pod}:8080/proxy/metrics")
    shown["metrics of training"] = undisturbed.training_metrics
    for entry in undisturbed.storage.entries():
        shown[entry.path] = (undisturbed.storage.read(entry.path) or b"").decode(errors="replace")

    assert "pretrain" in shown["metrics"]
    assert "pretrain" in shown["metrics of training"]
    assert [name for name, text in shown.items() if any(word in text for word in words)] == []
    whole = json.dumps(kubectl.get("secrets"))
    assert all(word in whole for word in words[::2]), "looked for in a form that it does have"


def test_get_and_apply_again_changes_nothing(undisturbed: Undisturbed) -> None:
    kubectl = undisturbed.kubectl
    before = _versions(kubectl)
    kubectl("apply", "-f", "-", stdin=undisturbed.manifest)
    assert _versions(kubectl) == before, "applied as it was"
    kubectl("apply", "--server-side", "--field-manager=another", "-f", "-", stdin=_without_managers(undisturbed.job))
    again = kubectl.get("pretrainjob", NAME)
    assert (again["metadata"]["generation"], again["spec"]) == (1, undisturbed.job["spec"])
    assert again["status"] == undisturbed.job["status"]
    # No default of the schema was left out of what was stored, and none was changed by going through a client.
    kubectl("replace", "-f", "-", stdin=again)
    assert kubectl.get("pretrainjob", NAME)["spec"] == undisturbed.job["spec"]


@pytest.mark.afterwards
def test_an_idle_operator_writes_nothing_but_its_lease(undisturbed: Undisturbed) -> None:
    """Beside a job that is finished, and that was applied again since. After all other tests that takes no waiting."""
    quiet_since = _last_write(undisturbed)
    time.sleep(max(0.0, IDLE_SECONDS - (audit.now() - quiet_since).total_seconds()))
    asked = audit.requests(user=undisturbed.operator.user, since=audit.now() - timedelta(seconds=IDLE_SECONDS))
    lease = [request for request in asked if request.resource == "leases" and request.writes]
    assert len(lease) > IDLE_SECONDS / 15, "it is alive"
    assert _last_write(undisturbed) == quiet_since


@pytest.mark.afterwards
def test_a_deleted_job_leaves_its_model_and_nothing_else(undisturbed: Undisturbed) -> None:
    kubectl = undisturbed.kubectl
    assert _children(kubectl)
    kubectl("delete", "pretrainjob", NAME, "--timeout=30s")
    eventually(lambda: _children(kubectl), lambda left: not left)
    assert undisturbed.storage.sha256("export/model.safetensors") == undisturbed.outcome.model
    assert read_manifest(undisturbed.storage, "export") is not None


def _children(kubectl: Kubectl, kinds: str = CHILDREN) -> list[dict[str, Any]]:
    return list(kubectl.get(kinds, "--selector", f"pretrain.dev/job={NAME}")["items"])


def _versions(kubectl: Kubectl) -> dict[str, str]:
    """Of the job and of all its children: the version says whether anybody has written, and uids whether it is the same."""
    found = [kubectl.get("pretrainjob", NAME), *_children(kubectl)]
    return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in found}


def _log(undisturbed: Undisturbed) -> list[dict[str, Any]]:
    return [json.loads(line) for line in undisturbed.operator.log().splitlines() if line.startswith("{")]


def _outages(undisturbed: Undisturbed) -> int:
    """How often the operator could not renew its Lease for so long that it stopped writing."""
    return sum(1 for line in _log(undisturbed) if line["logger"] == LEASE_LOGGER and line["level"] == "error")


def _last_write(undisturbed: Undisturbed) -> datetime:
    """When the operator last wrote anything but its Lease."""
    asked = audit.requests(user=undisturbed.operator.user)
    return max(request.time for request in asked if request.writes and request.resource != "leases")


def _events(kubectl: Kubectl, job: dict[str, Any]) -> list[dict[str, Any]]:
    found = kubectl.get("events", "--field-selector", f"involvedObject.uid={job['metadata']['uid']}")["items"]
    return list(found)


def _names(items: list[dict[str, Any]]) -> list[str]:
    return [item["metadata"]["name"] for item in items]


def _without_managers(job: dict[str, Any]) -> dict[str, Any]:
    """The job as `kubectl get -o yaml` gives it and a person saves it: with defaults, status, uid and version."""
    metadata = {name: value for name, value in job["metadata"].items() if name not in ("managedFields", "resourceVersion")}
    return {**job, "metadata": metadata}


def _sections(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Every field that has fields, by its path for `kubectl explain`, and the names of its fields."""
    inner = schema.get("items", schema)
    fields = inner.get("properties", {})
    if fields:
        yield path, list(fields)
    for name, field in fields.items():
        if name != "metadata":
            yield from _sections(f"{path}.{name}", field)
