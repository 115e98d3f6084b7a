"""The images as pods get them: not root, a root file system that cannot be written to, and nothing left to compile."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.e2e.kubectl import Kubectl
from tests.operator.restricted import breaches

pytestmark = pytest.mark.e2e

# What each image is there for, and what would only make it larger.
OURS = ["pretrain_operator", "pretrain_preprocess", "pretrain_stage", "pretrain_trainer"]
USED = {
    "operator": ["kopf", "kubernetes.aio.client", "pretrain_operator.cluster.main", "prometheus_client", "torchx.specs"],
    "preprocess": [
        *("pretrain_preprocess.clean", "pretrain_preprocess.exact", "pretrain_preprocess.minhash"),
        *("pretrain_preprocess.tokenizer", "pretrain_preprocess.tokens", "pretrain_preprocess.preflight"),
        *("datatrove", "jieba", "obstore", "spacy", "tokenizers", "trafilatura", "pyarrow.parquet"),
    ],
    "trainer": [
        "pretrain_trainer.train",
        "pretrain_trainer.report",
        "deepspeed",
        "matplotlib.pyplot",
        "tensorboard",
        "torch",
    ],
}
ABSENT = {
    "operator": ["torch", "datatrove", "obstore", "numpy", "pip"],
    "preprocess": ["torch", "deepspeed", "kopf", "pip"],
    "trainer": ["datatrove", "spacy", "kopf", "pip"],
}
LOOK = """
import importlib, importlib.util, json, os, pathlib, struct, sys, sysconfig

used, absent = json.loads(sys.argv[1])
for name in used:
    importlib.import_module(name)

def stale(module):
    # Whether Python compiled it just now: its bytecode is not there, or is that of another source.
    spec = getattr(module, "__spec__", None)
    if spec is None or not spec.has_location or not spec.origin.endswith(".py"):
        return False
    source = spec.origin
    try:
        header = pathlib.Path(importlib.util.cache_from_source(source)).read_bytes()[:16]
    except OSError:
        return True
    flags, modified, size = struct.unpack("<III", header[4:])
    status = os.stat(source)
    return flags == 0 and (modified, size) != (int(status.st_mtime), status.st_size)

def writable(folder):
    try:
        (pathlib.Path(folder) / "probe").touch()
    except OSError:
        return False
    return True

print(json.dumps({
    "uid": os.getuid(),
    "writable": [folder for folder in ("/", "/opt/pretrain", "/tmp", "/scratch") if writable(folder)],
    "present": [name for name in absent if importlib.util.find_spec(name)],
    "stale": sorted(name for name, module in list(sys.modules.items()) if stale(module)),
    "script": os.access(sysconfig.get_path("scripts") + "/pretrain", os.X_OK),
}))
"""


@pytest.mark.parametrize("name", USED)
def test_an_image_has_what_it_is_for_and_needs_no_writable_root(kubectl: Kubectl, name: str) -> None:
    pod = _pod(name, ["python", "-c", LOOK, json.dumps([OURS + USED[name], ABSENT[name]])])
    assert not breaches(pod["spec"])
    try:
        kubectl("apply", "-f", "-", stdin=pod)
        ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated.reason}"
        kubectl("wait", ended, f"pod/{pod['metadata']['name']}", "--timeout=180s", timeout=190)
        found = json.loads(kubectl("logs", pod["metadata"]["name"]).splitlines()[-1])
    finally:
        kubectl.run("delete", "pod", pod["metadata"]["name"], "--wait=false")
    assert found == {"uid": 1000, "writable": ["/tmp", "/scratch"], "present": [], "stale": [], "script": True}


def _pod(name: str, command: list[str]) -> dict[str, Any]:
    """A pod with the image, as stages have it."""
    image = os.environ.get(f"PRETRAIN_E2E_{name.upper()}_IMAGE", f"localhost/pretrain-{name}:dev")
    container = {
        "name": "look",
        "image": image,
        "command": command,
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "TMPDIR", "value": "/scratch"}],
        "resources": {"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "scratch", "mountPath": "/scratch"}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "scratch", "emptyDir": {}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"image-{name}"}, "spec": spec}
