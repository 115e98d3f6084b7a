"""The operator as a process of this machine, behind a proxy, with the rights that the chart gives it and no others.

Wanted besides a cluster: helm, and an image with a `python` that succeeds at once (PRETRAIN_E2E_INSTANT;
tests/e2e/images/instant.Dockerfile), so that a whole job takes a minute.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretrain_operator.crd import crd

from tests.chart.helm import HELM, NO_HELM, of_kind, render
from tests.e2e.api_proxy import ApiProxy
from tests.e2e.kubectl import Kubectl, new_namespace
from tests.operator.jobs import job
from tests.seaweedfs import free_ports

IMAGE = os.environ.get("PRETRAIN_E2E_INSTANT", "localhost/pretrain-instant:dev")
RELEASE = "operator"
PATIENCE_SECONDS = 60.0
"""For what takes a second or two, on a machine that is busy with other things."""
SMALL = {"cpu": "20m", "memory": "64Mi"}
INSTANT: dict[str, Any] = {
    "corpus.tasks": 2,
    "corpus.parallelism": 2,
    "corpus.deduplicate": {"method": "none"},
    "corpus.resources": SMALL,
    "training.nodes": 2,
    "training.resources": {"cpu": "20m", "memory": "1Gi"},
}
"""A job of which every stage does nothing."""
WAITING = INSTANT | {"scheduling": {"nodeSelector": {"pretrain.dev/e2e": "no-such-node"}}}
"""A job whose first pod fits on no node."""


@dataclass
class Operator:
    """One replica."""

    folder: Path
    namespace: str
    proxy: ApiProxy
    token: str
    name: str
    flags: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    ports: list[int] = field(default_factory=lambda: free_ports(2))

    def start(self) -> Operator:
        """Starts it, or starts it again."""
        config = self.folder / f"{self.name}.kubeconfig"
        config.write_text(json.dumps(_kubeconfig(self.proxy.url, self.token)))
        command = [
            *(sys.executable, "-m", "pretrain_operator.cluster", "--namespace", self.namespace),
            *("--preprocess-image", IMAGE, "--trainer-image", IMAGE, "--bind-address", "127.0.0.1"),
            *("--health-port", str(self.ports[0]), "--metrics-port", str(self.ports[1]), *self.flags),
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("POD_", "KUBERNETES_"))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment | {"KUBECONFIG": str(config), "POD_NAME": self.name}, stderr=log, stdout=log
            )
        return self

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def kill(self) -> None:
        """As a node that loses power does it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """The exit code."""
        assert self.process is not None
        return self.process.wait(seconds)

    def get(self, path: str, metrics: bool = False) -> tuple[int, str]:
        """What its HTTP endpoints answer; 0 if they do not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[int(metrics)]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def ready(self, seconds: float = PATIENCE_SECONDS) -> Operator:
        until(lambda: self.get("/readyz")[0] == 200, seconds, lambda: self.log.read_text())
        return self

    def leading(self, seconds: float = PATIENCE_SECONDS) -> Operator:
        until(lambda: "pretrain_operator_leading 1.0" in self.get("/metrics", metrics=True)[1], seconds, self.log.read_text)
        return self


@dataclass
class Place:
    """A namespace with the operator's rights in it, and what was started there."""

    kubectl: Kubectl
    folder: Path
    token: str
    open: contextlib.ExitStack

    def proxy(self) -> ApiProxy:
        """A proxy of one's own."""
        proxy = ApiProxy(*_server())
        self.open.callback(proxy.stop)
        return proxy

    def operator(self, proxy: ApiProxy, *flags: str, name: str = "operator-1") -> Operator:
        """An operator that is started, and ended when the test ends."""
        operator = Operator(self.folder, self.kubectl.namespace, proxy, self.token, name, flags)
        self.open.callback(operator.kill)
        return operator.start()

    def apply(self, name: str, spec: dict[str, Any] | None = None) -> None:
        """Creates a PretrainJob, or changes it."""
        storage = {"uri": f"s3://models/{self.kubectl.namespace}/{name}"}
        manifest = job(INSTANT | (spec or {}) | {"storage": storage})
        self.kubectl("apply", "-f", "-", stdin=manifest | {"metadata": {"name": name}})

    def status(self, name: str) -> dict[str, Any]:
        status = self.kubectl.get(f"pretrainjob/{name}").get("status") or {}
        assert isinstance(status, dict)
        return status

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """A condition; empty if there is none yet."""
        found = (one for one in self.status(name).get("conditions") or [] if one["type"] == kind)
        return dict(next(found, {}))

    def succeeds(self, name: str, seconds: float) -> None:
        def done() -> bool:
            assert self.condition(name, "Failed").get("status") != "True", self.status(name)
            assert self.condition(name, "Accepted").get("status") != "False", self.status(name)
            return self.condition(name, "Succeeded").get("status") == "True"

        until(done, seconds, lambda: json.dumps(self.status(name), indent=1))

    def outcome(self, name: str) -> dict[str, Any]:
        """What a job has come to, without what differs from run to run: uids, versions, times, node names."""
        uid = self.kubectl.get(f"pretrainjob/{name}")["metadata"]["uid"]
        children = []
        for kind in ("configmap", "job", "pytorchjob"):
            for body in self.kubectl.get(kind, "-l", f"pretrain.dev/job={name}")["items"]:
                owners = [owner["kind"] for owner in body["metadata"]["ownerReferences"]]
                notes = {k: v for k, v in body["metadata"].get("annotations", {}).items() if k.startswith("pretrain.dev/")}
                data = json.dumps(body.get("data")).replace(uid, "UID")
                # The job file holds the uid, and its ConfigMap's name a digest of it.
                children.append((kind, re.sub("-job-[0-9a-f]{10}$", "-job", body["metadata"]["name"]), owners, notes, data))
        pods = sorted(body["metadata"]["labels"]["pretrain.dev/stage"] for body in self._pods(name))
        events = sorted((event["reason"], event["message"], event["count"]) for event in self.events(name))
        return {"children": children, "pods": pods, "status": timeless(self.status(name)), "events": events}

    def events(self, name: str) -> list[dict[str, Any]]:
        """The Events on a PretrainJob."""
        uid = self.kubectl.get(f"pretrainjob/{name}")["metadata"]["uid"]
        return list(self.kubectl.get("events", "--field-selector", f"involvedObject.uid={uid}")["items"])

    def _pods(self, name: str) -> list[dict[str, Any]]:
        return list(self.kubectl.get("pods", "-l", f"pretrain.dev/job={name}")["items"])


@pytest.fixture(scope="session")
def known(kubectl: Kubectl) -> Iterator[None]:
    """The API server knows PretrainJobs; that is taken away again if it did not before."""
    name = "customresourcedefinition/pretrainjobs.pretrain.dev"
    existed = kubectl.run("get", name).returncode == 0
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=crd())
    kubectl("wait", "--for=condition=Established", name, "--timeout=30s")
    yield
    if not existed:
        kubectl.run("delete", name, "--wait=false")


@pytest.fixture
def place(tmp_path: Path, known: None) -> Iterator[Place]:
    """A namespace of the test's own with the rights that the chart grants in it."""
    if HELM is None:
        pytest.skip(NO_HELM)
    with new_namespace("operator") as kubectl, contextlib.ExitStack() as open_:
        rights = _rights(kubectl.namespace)
        kubectl("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": rights})
        account = of_kind(rights, "ServiceAccount")[0]["metadata"]["name"]
        token = kubectl("create", "token", account).strip()
        yield Place(kubectl, tmp_path, token, open_)
        # Without an operator a namespace with jobs in flight is not deleted by itself (the chart's page says why).
        kubectl.run("delete", "pretrainjob", "--all", "--cascade=foreground", "--timeout=60s", timeout=90)


def until(holds: Callable[[], bool], seconds: float, said: Callable[[], str] = str) -> float:
    """Waits until it holds; returns how long that took. Fails with `said` after so many seconds."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s: {said()}"
        time.sleep(0.2)
    return time.monotonic() - begun


def _rights(namespace: str) -> list[dict[str, Any]]:
    values = {"scope": "namespaced", "crds": {"enabled": False}}
    objects = render(values, release=RELEASE, namespace=namespace)
    return [found for kind in ("ServiceAccount", "Role", "RoleBinding") for found in of_kind(objects, kind)]


def _server() -> tuple[str, bytes]:
    """Address and certificate authority of the cluster that KUBECONFIG names."""
    shown = subprocess.run(
        ["kubectl", "config", "view", "--raw", "--minify", "--flatten"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    cluster = yaml.safe_load(shown.stdout)["clusters"][0]["cluster"]
    return cluster["server"], base64.b64decode(cluster["certificate-authority-data"])


def _kubeconfig(url: str, token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": url}}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "proxy", "user": "operator"}}],
        "current-context": "it",
    }


def timeless(body: Any) -> Any:
    """The same without times, and without the ledger of where they went."""
    if isinstance(body, dict):
        kept = {name: value for name, value in body.items() if not name.lower().endswith(("time", "timestamp", "goodput"))}
        return {name: timeless(value) for name, value in kept.items()}
    return [timeless(value) for value in body] if isinstance(body, list) else body
