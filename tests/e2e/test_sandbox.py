"""What a user of a namespace can write into a PretrainJob, and what of it reaches a pod: nothing that the allow-list does not name.

The API server is asked first, as it validates by default and with validation switched off; what it stores is then rendered as the
operator does it, and the API server is asked whether it would take the result under restricted Pod Security.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pretrain_operator.api import parse_job
from pretrain_operator.children import children
from pretrain_operator.config_map import KEY
from pretrain_operator.crd import crd
from pretrain_operator.stages import Images
from pretrain_stage.errors import UserError

from tests.e2e.kubectl import Kubectl, Namespaces
from tests.e2e.paced import Paced, said
from tests.e2e.served import Serving
from tests.e2e.waiting import eventually
from tests.operator.jobs import changed, job
from tests.operator.restricted import breaches

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("crd")]

Object = dict[str, Any]
IMAGES = Images("localhost/preprocess:1", "localhost/trainer:1")
CONTAINER = {"name": "escape", "image": "localhost/escape:1", "securityContext": {"privileged": True}}
HOST = [{"name": "host", "hostPath": {"path": "/"}}]

IN_SPEC: dict[str, Any] = {
    # A pod template, or parts of one, wherever one might be looked for.
    "template": {"spec": {"hostNetwork": True, "containers": [CONTAINER]}},
    "podTemplate": {"spec": {"hostPID": True}},
    "podSpec": {"hostIPC": True},
    "containers": [CONTAINER],
    "initContainers": [CONTAINER],
    "sidecars": [CONTAINER],
    "volumes": HOST,
    "volumeMounts": [{"name": "host", "mountPath": "/host"}],
    "hostNetwork": True,
    "hostPID": True,
    "hostUsers": True,
    "securityContext": {"runAsUser": 0, "privileged": True},
    "serviceAccountName": "pretrain-operator",
    "automountServiceAccountToken": True,
    "image": "localhost/escape:1",
    "images": {"preprocess": "localhost/escape:1", "trainer": "localhost/escape:1"},
    "imagePullSecrets": [{"name": "registry"}],
    "imagePullPolicy": "Always",
    "command": ["/bin/sh", "-c", "id"],
    "env": [{"name": "LD_PRELOAD", "value": "/tmp/escape.so"}],
    "envFrom": [{"secretRef": {"name": "other"}}],
    "nodeName": "node-1",
    "affinity": {"nodeAffinity": {}},
    "schedulerName": "mine",
    "runtimeClassName": "unconfined",
    "shareProcessNamespace": True,
    "dnsConfig": {"nameservers": ["192.0.2.1"]},
    "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["s3"]}],
    "ownerReferences": [{"kind": "Namespace", "name": "kube-system"}],
    "namespace": "kube-system",
    # The same inside of the sections.
    "scheduling.nodeName": "node-1",
    "scheduling.affinity": {"podAffinity": {}},
    "scheduling.serviceAccountName": "default",
    "scheduling.schedulerName": "mine",
    "scheduling.runtimeClassName": "unconfined",
    "training.image": "localhost/escape:1",
    "training.command": ["/bin/sh"],
    "training.env": {"LD_PRELOAD": "/tmp/escape.so"},
    "training.launcherArguments": ["--module", "os"],
    "training.template": {"spec": {"hostNetwork": True}},
    "training.restartPolicy": "Always",
    "training.resources.limits": {"nvidia.com/gpu": 8},
    "training.deepspeed.config": {"aio": {"block_size": 1}},
    "corpus.image": "localhost/escape:1",
    "corpus.resources.ephemeral-storage": "1Ti",
    "storage.hostPath": "/",
    "storage.persistentVolumeClaim": {"claimName": "other"},
    "storage.credentialsSecretRef": {"name": "s3", "namespace": "kube-system"},
    "storage.credentialsSecretRef.key": "password",
    # Fields that exist, with values that would lead out.
    "storage": {"uri": "file:///var/run/secrets"},
    "storage.uri": "/var/lib/kubelet",
    "storage.endpointURL": "file:///etc/shadow",
    "storage.credentialsSecretRef.name": "kube-system/admin",
    "corpus.sources": [{"name": "host", "uri": "/etc"}],
    "tokenizer": {"uri": "/var/run/secrets/kubernetes.io/serviceaccount/token"},
    "scheduling.priorityClassName": "../system-node-critical",
    "scheduling.queueName": "queue,pretrain.dev/job=other",
    "scheduling.topologyKey": "kubernetes.io/hostname,zone",
    "training.resources.memory": "-1Gi",
    "training.resources.cpu": "0x10",
    "training.nodes": 1_000_000,
    "training.gpusPerNode": 1_000,
    "corpus.tasks": 10_000_000,
    "training.backend": "Pod",
}
IN_METADATA: dict[str, Object] = {
    "labels that are the operator's": {"labels": {"pretrain.dev/job": "other", "app.kubernetes.io/managed-by": "another"}},
    "a label that injects containers": {"labels": {"sidecar.istio.io/inject": "true"}},
    "annotations that loosen a pod": {
        "annotations": {
            "container.apparmor.security.beta.kubernetes.io/stage": "unconfined",
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
            "k8s.v1.cni.cncf.io/networks": "host",
        }
    },
    "annotations that are the operator's": {
        "annotations": {"pretrain.dev/spec-digest": "x", "pretrain.dev/generation": "9"}
    },
    "a name that is a path": {"name": "../../kube-system/escape"},
    "a name that is a host": {"name": "escape.kube-system.svc"},
    "an owner elsewhere": {
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "0b8c7a5e-6f1d-4b7e-9a53-2f6f6d9c1e11"}
        ]
    },
}
PAYLOADS = (
    "$(touch /tmp/pwned)",
    "`id`",
    "; rm -rf / #",
    "' || true; echo '",
    '"; import os; os.abort() #',
    "$(JOB_COMPLETION_INDEX)",
    "$(PET_NODE_RANK)",
    "${HOME} $HOME %HOME%",
    "{{ .Values.image }} {% raw %} {0} %(x)s",
    "--help",
    "-c import os",
    "!!python/object/apply:os.system [id]",
    "a: b\n- c: &x [*x]\n---\nkind: Pod",
    "line\r\nfeed\ttab\x00nul\x1b[31mred\x7f",
    "../../../../etc/passwd",
    "\u202etxt.exe\u200b 中国 \U0001f600 é e\u0301 \ufeff",
    "<script>alert(1)</script>",
    '\\"\\u0041\\',
)


def test_no_field_leads_out_of_the_sandbox(kubectl: Kubectl) -> None:
    """Each attempt is refused with a sentence that names the field; without validation it is refused, or the field is dropped."""
    attempts = {f"a{number}": path for number, path in enumerate(IN_SPEC)}
    assert len(attempts) + len(IN_METADATA) >= 40
    manifests = [changed(job(), {path: IN_SPEC[path]}) | {"metadata": {"name": name}} for name, path in attempts.items()]
    accepted, said = _created(kubectl, manifests)
    assert [attempts[name] for name in accepted] == []
    for name, path in attempts.items():
        invalid = re.search(rf'"{name}" is invalid: .*{re.escape(path.split(".")[-1])}', said)
        assert invalid or f'unknown field "spec.{path}' in said, f"{path} is not named in {said}"

    accepted, said = _created(kubectl, manifests, "--validate=false")
    assert len(accepted) + said.count("is invalid:") == len(attempts), said
    plain = _made(kubectl, _stored(kubectl, job()))
    for name, stored in accepted.items():
        assert _made(kubectl, stored | {"metadata": job()["metadata"]}) == plain, attempts[name]


@pytest.mark.parametrize("name", IN_METADATA)
def test_no_metadata_reaches_a_child(kubectl: Kubectl, name: str) -> None:
    attempt = job()
    attempt["metadata"] |= IN_METADATA[name]
    if "name" in IN_METADATA[name]:
        assert "name" in kubectl.refused(attempt)
        return
    assert _made(kubectl, _stored(kubectl, attempt)) == _made(kubectl, _stored(kubectl, job()))


def test_a_status_from_a_user_is_dropped(kubectl: Kubectl) -> None:
    assert "status" not in _stored(kubectl, job() | {"status": {"phase": "Succeeded", "restartCount": 7}})


def test_every_free_text_is_refused_or_arrives_byte_for_byte(kubectl: Kubectl) -> None:
    """Each payload in each string of the spec, all put before the API server at once."""
    attempts = {
        f"p{number}": (path, payload)
        for number, (path, payload) in enumerate((path, payload) for path in _strings() for payload in PAYLOADS)
        if path != "managedBy"  # a job with that is left alone
    }
    manifests = [_with_payload(name, *attempt) for name, attempt in attempts.items()]
    accepted, said = _created(kubectl, manifests)
    assert len(accepted) + said.count("is invalid:") == len(attempts), said[-2000:]
    assert accepted, "nothing was accepted"
    assert len(accepted) < len(attempts), "nothing was refused"
    metadata = job()["metadata"] | {"namespace": kubectl.namespace}
    plain = _rendered(_stored(kubectl, job()) | {"metadata": metadata})
    for name, item in accepted.items():
        path, payload = attempts[name]
        try:
            made = _rendered(item | {"metadata": metadata})
        except UserError:
            continue  # the operator says so in a condition
        assert _at(json.loads(made[0]["data"][KEY])["spec"], path) == payload
        assert [_bare(one) for one in made[1:]] == [_bare(one) for one in plain[1:]], path


def test_a_pod_reads_what_was_written(paced: Paced, namespaces: Namespaces, serving: Serving) -> None:
    """All payloads in one job that really runs: as they were written in the mounted job file, and nowhere in the arguments."""
    kubectl = namespaces("payloads")
    prompts = list(PAYLOADS)
    paced.apply(kubectl, "payloads", {"evaluation.prompts": prompts})
    serving(kubectl)
    said(kubectl, "payloads", 1, "first_step")
    read = "import json, pathlib; print(json.dumps([pathlib.Path(p).read_text() for p in ('/etc/pretrain/job.json', '/proc/1/cmdline')]))"
    shown = kubectl("exec", "payloads-train-worker-0", "--container=pytorch", "--", "python", "-c", read)
    job_file, arguments = json.loads(shown)
    assert json.loads(job_file)["spec"]["evaluation"]["prompts"] == prompts
    assert arguments.split("\0") == ["python", "-m", "pretrain_trainer", "launch", "--job", "/etc/pretrain/job.json", ""]
    kubectl("delete", "pretrainjob", "payloads")
    eventually(
        lambda: kubectl.get("pytorchjobs,configmaps,pods", "-l", "pretrain.dev/job=payloads")["items"], lambda left: not left
    )


def _strings() -> Iterator[str]:
    """The path of every string of the spec that is no choice among words; `0` for an entry of a list, `key` of a map."""

    def below(schema: Object, path: tuple[str, ...]) -> Iterator[str]:
        if schema.get("type") == "string" and "enum" not in schema:
            yield ".".join(path)
        for name, inner in (schema.get("properties") or {}).items():
            yield from below(inner, (*path, name))
        if "items" in schema:
            yield from below(schema["items"], (*path, "0"))
        if isinstance(schema.get("additionalProperties"), dict):
            yield from below(schema["additionalProperties"], (*path, "key"))

    version = crd()["spec"]["versions"][0]
    yield from below(version["schema"]["openAPIV3Schema"]["properties"]["spec"], ())


def _with_payload(name: str, path: str, payload: str) -> Object:
    """A right job but for the payload in one place."""
    manifest = job({"storage.region": "us-east-1"}) | {"metadata": {"name": name}}
    if path == "tokenizer.uri" or path == "tokenizer.endOfText":
        manifest["spec"]["tokenizer"] = {"uri": "s3://t/tokenizer.json"}
    if path.startswith("scheduling.tolerations"):
        manifest["spec"]["scheduling"] = {"tolerations": [{"key": "a"}]}
    if path.startswith("corpus.augment.synonyms"):
        manifest["spec"]["corpus"]["augment"] = {"synonyms": [["quick", "fast"]]}
    *parents, last = path.split(".")
    place: Any = manifest["spec"]
    for step, following in zip(parents, path.split(".")[1:], strict=True):
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, [{}] if following == "0" else {})
    if isinstance(place, list):
        place[:1] = [payload]
    else:
        place[last] = payload
    return manifest


def _at(spec: Any, path: str) -> Any:
    for step in path.split("."):
        spec = spec[int(step)] if isinstance(spec, list) else spec[step]
    return spec


def _stored(kubectl: Kubectl, manifest: Object) -> Object:
    """The job as the API server would store it."""
    stored = json.loads(kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=manifest))
    assert isinstance(stored, dict)
    return stored


def _created(kubectl: Kubectl, manifests: list[Object], *flags: str) -> tuple[dict[str, Object], str]:
    """What the API server would store of many manifests, by name, and what it says of those that it refuses.

    Created, not applied: then no annotation has to hold each a second time. Not as a List, which kubectl would validate itself.
    """
    documents = "\n".join(map(json.dumps, manifests))
    done = kubectl.run("create", "--dry-run=server", *flags, "-o", "json", "-f", "-", stdin=documents, timeout=240)
    stored, rest, decoder = {}, done.stdout.strip(), json.JSONDecoder()
    while rest:
        item, end = decoder.raw_decode(rest)
        stored[item["metadata"]["name"]] = item
        rest = rest[end:].lstrip()
    return stored, done.stderr


def _rendered(stored: Object) -> list[Object]:
    return children(parse_job({name: stored[name] for name in ("apiVersion", "kind", "metadata", "spec")}, "job"), IMAGES)


def _made(kubectl: Kubectl, stored: Object) -> list[Object]:
    """What the operator would make of a stored job, which is within restricted Pod Security."""
    metadata = stored["metadata"] | {"namespace": kubectl.namespace, "uid": "0b8c7a5e-6f1d-4b7e-9a53-2f6f6d9c1e11"}
    made = _rendered(stored | {"metadata": metadata})
    for one in made[1:]:
        assert breaches(_pod(one)) == []
        assert one["metadata"]["namespace"] == kubectl.namespace
    return made


def _bare(made: Object) -> Object:
    """A workload without what follows from the content of the job file: digests, and the name of the ConfigMap."""
    copy: Object = json.loads(json.dumps(made))
    del copy["metadata"]["annotations"]
    for volume in _pod(copy)["volumes"]:
        if "configMap" in volume:
            del volume["configMap"]["name"]
    return copy


def _pod(made: Object) -> Object:
    spec = made["spec"]
    template: Object = (
        spec["pytorchReplicaSpecs"]["Worker"]["template"] if "pytorchReplicaSpecs" in spec else spec["template"]
    )
    return dict(template["spec"])
