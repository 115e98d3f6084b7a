"""SeaweedFS as S3 in the cluster, with real text in it, and a way to look into it from here.

    s3          the server in a namespace of its own; its bucket holds `raw/`: Chinese articles and English news
    namespaces  a function that makes a namespace for jobs, with the credentials in a Secret

Pods use the Service; this process goes through `kubectl port-forward`, because pods cannot be reached from everywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store
from pretrain_stage.storage import Storage

from tests.e2e.kubectl import Kubectl, Namespaces, new_namespace
from tests.run.whole import lay_out_text
from tests.seaweedfs import Credentials, free_ports

IMAGE = os.environ.get("PRETRAIN_E2E_SEAWEEDFS", "localhost/pretrain-seaweedfs:dev")
CUT_NODE = os.environ.get("PRETRAIN_E2E_CUT_NODE")
"""The node that a test takes the network from (test_nodes.py); the server stays off it."""
SECRET = "s3-credentials"
NAME, BUCKET = "s3", "pretrain"
S3_PORT, FILER_PORT = 8333, 8888
READY_SECONDS = 120.0


@dataclass
class Forward:
    """`kubectl port-forward` to one pod or Service, started again when it has ended: it does when its target restarts."""

    kubectl: Kubectl
    target: str
    ports: tuple[int, ...]
    process: subprocess.Popen[bytes] | None = None

    @cached_property
    def local(self) -> dict[int, int]:
        return dict(zip(self.ports, free_ports(len(self.ports)), strict=True))

    def url(self, port: int) -> str:
        """Where the target's port answers on this machine."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        return f"http://127.0.0.1:{self.local[port]}"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _start(self) -> None:
        pairs = [f"{local}:{port}" for port, local in self.local.items()]
        command = ["kubectl", "--namespace", self.kubectl.namespace, "port-forward", self.target, *pairs]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_SECONDS
        while not all(_answers(port) for port in self.local.values()):
            assert self.process.poll() is None, f"{' '.join(command)}: ended with {self.process.returncode}"
            assert time.monotonic() < deadline, f"{' '.join(command)}: no answer in {READY_SECONDS:.0f} s"
            time.sleep(0.1)


@dataclass(frozen=True)
class ClusterS3:
    """The server: its address for pods, its keys, and its content as seen from here."""

    kubectl: Kubectl
    forward: Forward
    writer: Credentials

    @property
    def endpoint(self) -> str:
        """For pods."""
        return f"http://{NAME}.{self.kubectl.namespace}.svc:{S3_PORT}"

    @property
    def node(self) -> str:
        """The node that it runs on; without that one nothing can be stored."""
        return str(self.kubectl.get(f"pod/{NAME}")["spec"]["nodeName"])

    def section(self, prefix: str) -> dict[str, Any]:
        """`spec.storage` of a job that keeps everything below `prefix`."""
        uri = f"s3://{BUCKET}/{prefix}"
        return {"uri": uri, "endpointURL": self.endpoint, "credentialsSecretRef": {"name": SECRET}}

    def storage(self, prefix: str) -> Storage:
        """What lies below `prefix`, read and written from here."""
        store = S3Store(
            BUCKET,
            prefix=prefix,
            endpoint=self.forward.url(S3_PORT),
            region="us-east-1",
            access_key_id=self.writer.access_key,
            secret_access_key=self.writer.secret_key,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        return Storage(f"s3://{BUCKET}/{prefix}", store)

    def secret(self) -> dict[str, Any]:
        """The Secret that jobs name."""
        keys = self.writer.environment()
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys}


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterS3]:
    """A server with text in it; it is gone, with everything in it, when the session ends."""
    with running(tmp_path_factory.mktemp("text") / "raw") as server:
        yield server


@pytest.fixture
def namespaces(s3: ClusterS3) -> Iterator[Namespaces]:
    """Makes namespaces, each with the Secret that jobs name; they are gone after the test."""
    with contextlib.ExitStack() as made:

        def make(name: str = "job") -> Kubectl:
            kubectl = made.enter_context(new_namespace(name))
            kubectl("apply", "-f", "-", stdin=s3.secret())
            return kubectl

        yield make


@contextlib.contextmanager
def running(folder: Path) -> Iterator[ClusterS3]:
    """A server with the text that is laid out in `folder`."""
    with new_namespace("s3") as kubectl:
        forward = Forward(kubectl, f"pod/{NAME}", (S3_PORT, FILER_PORT))
        server = ClusterS3(kubectl, forward, Credentials())
        kubectl("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": _objects(server)})
        kubectl(
            "wait", "--for=condition=Ready", f"pod/{NAME}", f"--timeout={READY_SECONDS:.0f}s", timeout=READY_SECONDS + 10
        )
        try:
            _make_bucket(server)
            _upload_text(server, folder)
            yield server
        finally:
            forward.stop()


def _objects(server: ClusterS3) -> list[dict[str, Any]]:
    """One pod that fits restricted Pod Security, its keys, and the Service before it."""
    keys = {"accessKey": server.writer.access_key, "secretKey": server.writer.secret_key}
    # No other bucket: SeaweedFS makes one for whoever may, where AWS says that there is none.
    actions = [f"{right}:{BUCKET}" for right in ("Read", "Write", "List", "Tagging")]
    identities = {"identities": [{"name": "writer", "credentials": [keys], "actions": actions}]}
    labels = {"app": NAME}
    options = {
        "dir": "/data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 256,
        "volume.max": 32,
        "filer": "true",
        "filer.port": FILER_PORT,
        "s3": "true",
        "s3.port": S3_PORT,
        "s3.ip.bind": "0.0.0.0",
        "s3.config": "/identities/s3.json",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    container = {
        "name": "weed",
        "image": IMAGE,
        "args": ["server", *(f"-{name}={value}" for name, value in options.items())],
        "ports": [{"containerPort": S3_PORT}],
        "readinessProbe": {"tcpSocket": {"port": S3_PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "identities", "mountPath": "/identities", "readOnly": True},
        ],
    }
    pod = {
        **({"affinity": _off(CUT_NODE)} if CUT_NODE else {}),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "identities", "secret": {"secretName": "identities"}},
        ],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "identities"},
            "stringData": {"s3.json": json.dumps(identities)},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {"selector": labels, "ports": [{"port": S3_PORT}]},
        },
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME, "labels": labels}, "spec": pod},
    ]


def _off(node: str) -> dict[str, Any]:
    """Affinity to any other node."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [node]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def _make_bucket(server: ClusterS3) -> None:
    """A bucket is a folder of the filer. Waits until an object can be put into it."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            request = urllib.request.Request(f"{server.forward.url(FILER_PORT)}/buckets/{BUCKET}/", method="POST")
            urllib.request.urlopen(request, timeout=5).close()
            server.storage("raw").write("ready", secrets.token_bytes(1))
            server.storage("raw").delete(["ready"])
            return
        except (OSError, ValueError):
            assert time.monotonic() < deadline, server.kubectl.run("logs", NAME, "--tail=20").stdout
            time.sleep(0.5)


def _upload_text(server: ClusterS3, folder: Path) -> None:
    lay_out_text(folder)
    raw = server.storage("raw")
    for path in sorted(folder.iterdir()):
        raw.upload(path, path.name)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
