"""`kubectl pretrain` against a real API server: what is submitted, listed, shown, logged, halted.

The operator is not part of most of this: statuses are written as it writes them, and small pods with its labels speak in the
place of stage programs. One test has all of it, with an operator and the real images.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.cut_proxy import CutProxy
from tests.e2e.jobs import CHECKPOINT_STEPS, STEPS, tiny_job
from tests.e2e.kubectl import Kubectl, Namespaces
from tests.e2e.s3 import S3_PORT, ClusterS3
from tests.e2e.served import Serving
from tests.kubectl.resources import TRAINING, conditions
from tests.operator.jobs import changed, job

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("crd")]

BUSYBOX = os.environ.get("PRETRAIN_E2E_BUSYBOX", "localhost/busybox:1")
PROGRAM = (sys.executable, "-m", "pretrain_operator.cli")
PATIENCE = 60.0


class Pretrain:
    """The program, in the namespace of the tests."""

    def __init__(self, kubectl: Kubectl, **environment: str) -> None:
        self.kubectl = kubectl
        self.environment = os.environ | {"COLUMNS": "120"} | environment

    def run(self, *arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *map(str, arguments), "-n", self.kubectl.namespace],
            input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False, env=self.environment,
        )  # fmt: skip

    def __call__(self, *arguments: object, stdin: str | None = None) -> str:
        """A call that has to succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def error(self, *arguments: object, code: int, stdin: str | None = None) -> str:
        """What is said by a call that has to fail with this exit code, in one sentence."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in done.stderr
        return line.removeprefix("error: ")

    @contextlib.contextmanager
    def started(self, *arguments: object) -> Iterator[Running]:
        """A call that goes on meanwhile."""
        command = [*PROGRAM, *map(str, arguments), "-n", self.kubectl.namespace]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment
        )
        try:
            yield Running(process)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


class Running:
    """A call whose lines are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):
            for line in self.process.stdout:
                self.lines.append(line.rstrip("\n"))

    def until(self, text: str) -> None:
        """Returns once a line with the text has come."""
        wait_until(lambda: any(text in line for line in list(self.lines)), lambda: f"no {text!r} in {self.lines}")

    def end(self) -> int:
        """Waits for the end; returns the exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


def wait_until(so: Any, said: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not so():
        assert time.monotonic() < deadline, said()
        time.sleep(0.1)


@pytest.fixture
def pretrain(kubectl: Kubectl) -> Pretrain:
    return Pretrain(kubectl)


@pytest.fixture
def name(request: pytest.FixtureRequest, kubectl: Kubectl) -> Iterator[str]:
    """A job's name that no other test has; the job and its pods are deleted afterwards."""
    made = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")[:40].strip("-")
    yield made
    kubectl.run("delete", "pretrainjob", made, "--ignore-not-found", "--wait=false")
    kubectl.run("delete", "pod", "-l", f"pretrain.dev/job={made}", "--wait=false", "--grace-period=1")


def manifest(name: str, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    return changed(job(), spec or {}) | {"metadata": {"name": name}}


def created(kubectl: Kubectl, name: str, status: dict[str, Any] | None = None) -> None:
    """A job in the cluster, with a status as the operator would write it."""
    kubectl("apply", "-f", "-", stdin=manifest(name))
    if status is not None:
        observed(kubectl, name, status)


def observed(kubectl: Kubectl, name: str, status: dict[str, Any]) -> None:
    kubectl(
        "patch", "pretrainjob", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )  # fmt: skip


SUCCEEDED = TRAINING | {
    "phase": "Succeeded",
    "conditions": conditions(
        Succeeded=("True", "Succeeded", "the model is there"), Progressing=("False", "Succeeded", "finished")
    ),
}
FAILED = TRAINING | {
    "phase": "Failed",
    "conditions": conditions(Failed=("True", "UserError", "corpus: no text"), Progressing=("False", "UserError", "x")),
}


def pod(kubectl: Kubectl, name: str, stage: str, index: int, script: str, attempt: int = 1, image: str = BUSYBOX) -> None:
    """A pod with the operator's labels that runs a script, within restricted Pod Security."""
    training = stage == "train"
    index_label = "training.kubeflow.org/replica-index" if training else "batch.kubernetes.io/job-completion-index"
    kubectl(
        "apply",
        "-f",
        "-",
        stdin={
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-{stage}-{index}-{attempt}",
                "labels": {"pretrain.dev/job": name, "pretrain.dev/stage": stage, index_label: str(index)}
                | ({"pretrain.dev/attempt": str(attempt)} if training else {}),
            },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [
                    {
                        "name": "pytorch" if training else "stage",
                        "image": image,
                        "imagePullPolicy": "Never",
                        "command": ["sh", "-c", script],
                        "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}},
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    }
                ],
            },
        },
    )


def ended(kubectl: Kubectl, name: str, count: int) -> None:
    """Waits until so many pods of the job have ended."""

    def phases() -> list[str]:
        pods = kubectl.get("pods", "-l", f"pretrain.dev/job={name}")["items"]
        return [item["status"]["phase"] for item in pods]

    wait_until(lambda: sum(phase in ("Succeeded", "Failed") for phase in phases()) >= count, phases)


def test_submit(kubectl: Kubectl, pretrain: Pretrain, name: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(manifest(name) | {"metadata": {"name": name, "labels": {"team": "nlp"}}}))
    assert pretrain("submit", path, "--dry-run") == f"pretrainjob.pretrain.dev/{name} created (server dry run)\n"
    assert kubectl.run("get", "pretrainjob", name).returncode != 0
    assert pretrain("submit", path) == f"pretrainjob.pretrain.dev/{name} created\n"
    assert pretrain("submit", path) == f"pretrainjob.pretrain.dev/{name} unchanged\n"
    stored = kubectl.get("pretrainjob", name, "--show-managed-fields")
    assert [owner["manager"] for owner in stored["metadata"]["managedFields"]] == ["kubectl-pretrain"]
    assert stored["metadata"]["labels"] == {"team": "nlp"}

    shown = pretrain("status", name, "-o", "yaml")
    assert pretrain("submit", "-", stdin=shown) == f"pretrainjob.pretrain.dev/{name} unchanged\n", (
        "what was printed goes back"
    )
    more = yaml.safe_dump(manifest(name, {"training.maxRestarts": 7}))
    assert pretrain("submit", "-", stdin=more) == f"pretrainjob.pretrain.dev/{name} configured\n"
    listed = json.loads(pretrain("submit", "-", "-o", "json", stdin=more))
    assert (listed["metadata"]["name"], listed["spec"]["training"]["maxRestarts"]) == (name, 7)
    immutable = yaml.safe_dump(manifest(name, {"training.sequenceLength": 1024}))
    assert pretrain.error("submit", "-", stdin=immutable, code=65) == (
        "standard input: spec: training.sequenceLength is immutable; create another PretrainJob"
    )


def test_submit_takes_any_text(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    """Characters beyond U+FFFF too, which Python's JSON escapes as YAML does not allow."""
    prompts = ["\U0001f3d6\ufe0f 你好", "caf\u00e9\x85\u2028"]
    file = yaml.safe_dump(manifest(name, {"evaluation.prompts": prompts}))
    assert pretrain("submit", "-", stdin=file) == f"pretrainjob.pretrain.dev/{name} created\n"
    assert kubectl.get("pretrainjob", name)["spec"]["evaluation"]["prompts"] == prompts


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"training.nodez": 2, "corpus.task": 1},
         "spec.corpus.task: unknown field; did you mean tasks?; spec.training.nodez: unknown field; did you mean nodes?"),
        ({"training.nodes": "two"}, "spec.training.nodes: "),
        ({"corpus.tasks": 2, "corpus.parallelism": 3},
         "spec.corpus: parallelism must not exceed tasks; lower parallelism or raise tasks (parallelism: 3, tasks: 2)"),
        ({"model": {"preset": "llama2-7"}}, "spec.model.preset: 'llama2-7' is not one of"),
        ({"storage": {"uri": "/data"}}, "storage.uri must be an s3:// uri in a cluster; pods share no folder"),
        ({"training": [1]}, "spec.training: "),
    ],
)  # fmt: skip
def test_what_the_cluster_refuses_is_said_by_field(
    kubectl: Kubectl, pretrain: Pretrain, name: str, spec: dict[str, Any], sentence: str
) -> None:
    said = pretrain.error("submit", "-", stdin=yaml.safe_dump(manifest(name, spec)), code=65)
    assert said.startswith("standard input: spec")
    assert sentence in said
    assert kubectl.run("get", "pretrainjob", name).returncode != 0


def test_nothing_is_applied_if_one_of_several_is_refused(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    both = yaml.safe_dump_all([manifest(name), manifest(f"{name}-2", {"corpus.tasks": 0})])
    assert "spec.corpus.tasks" in pretrain.error("submit", "-", stdin=both, code=65)
    assert kubectl.run("get", "pretrainjob", name).returncode != 0


def test_fields_of_another_program_are_not_taken_without_a_word(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    theirs = {"apiVersion": "pretrain.dev/v1alpha1", "kind": "PretrainJob", "metadata": {"name": name}}
    kubectl("apply", "--server-side", "--field-manager=ci", "-f", "-", stdin=theirs | {"spec": manifest(name)["spec"]})
    mine = yaml.safe_dump(manifest(name, {"training.tokens": 2_000_000}))
    said = pretrain.error("submit", "-", stdin=mine, code=1)
    assert "spec.training.tokens (ci)" in said
    assert "--force-conflicts" in said
    assert pretrain("submit", "-", "--force-conflicts", stdin=mine).endswith("configured\n")


def test_a_namespace_that_there_is_not(pretrain: Pretrain, name: str) -> None:
    elsewhere = Pretrain(Kubectl("no-such-namespace"))
    said = elsewhere.error("submit", "-", stdin=yaml.safe_dump(manifest(name)), code=1)
    assert said == "--namespace: there is no namespace no-such-namespace; create it, or correct -n"


def test_the_list_is_that_of_kubectl(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    created(kubectl, name, TRAINING)
    created(kubectl, f"{name}-young")
    kubectl("label", "pretrainjob", name, f"only={name}")

    def without_age(table: str) -> list[list[str]]:
        return [re.split(r" {3,}", line)[:-1] for line in table.splitlines()]

    ours, theirs = pretrain("list", "-l", f"only={name}"), kubectl("get", "pretrainjobs", "-l", f"only={name}")
    assert without_age(ours) == without_age(theirs)
    assert f"{name}   Training   train   30%" in ours
    assert without_age(pretrain("list", "-l", f"only={name}", "--no-headers")) == without_age(ours)[1:]

    listed = json.loads(pretrain("list", "-l", f"only={name}", "-o", "json"))
    assert listed == json.loads(kubectl("get", "pretrainjobs", "-l", f"only={name}", "-o", "json"))
    assert yaml.safe_load(pretrain("list", "-l", f"only={name}", "-o", "yaml")) == listed
    assert pretrain("list", "-l", f"only={name}", "-o", "name") == f"pretrainjob.pretrain.dev/{name}\n"
    everywhere = subprocess.run(
        [*PROGRAM, "list", "-A"], capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
    assert re.search(rf"^{kubectl.namespace} +{name} +Training", everywhere, re.MULTILINE)
    assert json.loads(pretrain("list", "-l", "only=nobody", "-o", "json"))["items"] == []
    assert "unable to parse requirement" in pretrain.error("list", "-l", "bad selector!", code=65)
    kubectl.run("delete", "pretrainjob", f"{name}-young")


def test_a_list_goes_on_with_changes(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    created(kubectl, name)
    kubectl("label", "pretrainjob", name, f"only={name}")
    with pretrain.started("list", "-w", "-l", f"only={name}") as watching:
        watching.until(name)
        observed(kubectl, name, TRAINING)
        watching.until("Training")
        assert [line.split()[0] for line in watching.lines] == ["NAME", name, name]
        watching.process.send_signal(signal.SIGINT)
        assert watching.end() == 130
    assert "Traceback" not in "\n".join(watching.lines)


def test_status(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    created(kubectl, name, TRAINING)
    shown = pretrain("status", name)
    assert shown.startswith(f"{kubectl.namespace}/{name}  Training  age ")
    assert "train       Running      0/2  ━━━━━━━━━━━━ 30 %, 2 active" in shown
    assert "attempt 1 ended, Infrastructure: rank 1: killed (checkpoint known then: 50)" in shown
    assert json.loads(pretrain("status", name, "-o", "json")) == kubectl.get("pretrainjob", name)
    assert pretrain.error("status", f"{name}-gone", code=1) == (
        f"there is no pretrainjob {name}-gone in namespace {kubectl.namespace}; `kubectl pretrain list -A` shows all jobs"
    )


@pytest.mark.parametrize(
    ("goal", "status", "code"),
    [("succeeded", SUCCEEDED, 0), ("finished", SUCCEEDED, 0), ("succeeded", FAILED, 65), ("finished", FAILED, 0)],
    ids=["succeeded", "finished", "failed", "finished-failed"],
)
def test_waiting(kubectl: Kubectl, pretrain: Pretrain, name: str, goal: str, status: dict[str, Any], code: int) -> None:
    created(kubectl, name, TRAINING)
    assert f"{name} has not finished in 1 s" in pretrain.error(
        "status", name, f"--wait-for={goal}", "--timeout=1s", code=124
    )
    with pretrain.started("status", name, f"--wait-for={goal}", "--timeout=1h") as waiting:
        time.sleep(2)
        assert waiting.process.poll() is None
        observed(kubectl, name, status)
        assert waiting.end() == code
    expected = [f"error: {name} failed (UserError): corpus: no text"] if status is FAILED else []
    assert waiting.lines == expected


def test_a_live_status_without_a_terminal_is_lines(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    with pretrain.started("submit", "-w", "/dev/null") as nothing:
        assert nothing.end() == 65
    created(kubectl, name, TRAINING)
    with pretrain.started("status", name, "-w") as watching:
        watching.until("train: step 120 of 400")
        observed(kubectl, name, SUCCEEDED)
        assert watching.end() == 0
    assert watching.lines[-1] == f"{name}: the model is there"


def test_a_job_that_is_deleted_while_it_is_watched(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    created(kubectl, name, TRAINING)
    with pretrain.started("status", name, "-w") as watching, pretrain.started("logs", name, "-f") as following:
        watching.until(f"{name}: Training")
        time.sleep(3)
        kubectl("delete", "pretrainjob", name)
        assert watching.end() == 1
        assert following.end() == 0
    assert watching.lines[-1].endswith("was deleted while it was watched")
    assert following.lines[-1] == f"note: {name} was deleted"


def on_a_terminal(pretrain: Pretrain, arguments: list[str], enough: str) -> bytes:
    """What a terminal of 80 columns is sent until the text has come; then it is interrupted, as Ctrl-C does it."""
    main, other = pty.openpty()
    environment = pretrain.environment | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [*PROGRAM, *arguments, "-n", pretrain.kubectl.namespace], stdin=other, stdout=other, stderr=other, env=environment
    )
    os.close(other)
    sent = b""
    deadline = time.monotonic() + PATIENCE
    while enough.encode() not in sent and time.monotonic() < deadline:
        if select.select([main], [], [], 0.5)[0]:
            with contextlib.suppress(OSError):  # it has ended
                sent += os.read(main, 65_536)
        elif process.poll() is not None:
            break
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE)
    os.close(main)
    assert enough.encode() in sent, sent
    return sent


def test_nothing_of_others_acts_on_the_terminal(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x1b[1;1H"
    hostile = {
        "phase": "Training",
        "stage": "train",
        "progress": f"{evil}9%",
        "conditions": conditions(Progressing=("False", "Unschedulable", f"{evil}no room")),
        "restarts": [{"attempt": 1, "time": "2026-03-01T00:00:00Z", "reason": "Disruption", "message": f"{evil}drained"}],
    }
    created(kubectl, name, TRAINING | hostile)
    pod(kubectl, name, "train", 0, "printf '\\033]0;owned\\007\\033[2Jsaid\\n'; sleep 1")
    ended(kubectl, name, 1)
    for arguments, text in (
        (["status", name], "no room"), (["status", name, "-w"], "no room"), (["list"], "9%"), (["list", "-w"], "9%"),
        (["logs", name], "said"), (["logs", name, "--raw"], "said"), (["status", name, "-o", "yaml"], "no room"),
    ):  # fmt: skip
        sent = on_a_terminal(pretrain, arguments, text)
        assert b"\x1b]0;" not in sent, arguments
        assert b"\x1b[2J" not in sent, arguments
        assert b"\x1b[1;1H" not in sent, arguments


def test_logs_of_all_pods(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    created(kubectl, name, TRAINING)
    event = json.dumps({"event": "result", "message": "clean is finished", "stage": "clean"})
    for index in range(2):
        pod(kubectl, name, "clean", index, f"echo first {index}; sleep {index}; echo '{event}'")
    pod(kubectl, name, "train", 0, "echo of the first attempt; exit 1", attempt=1)
    ended(kubectl, name, 3)
    pod(kubectl, name, "train", 0, "echo of the second", attempt=2)
    pod(kubectl, name, "train", 1, "echo never", attempt=2, image="localhost/no-such-image:1")
    ended(kubectl, name, 4)

    done = pretrain.run("logs", name)
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()[:4]) == [
        "[clean/0] clean is finished", "[clean/0] first 0", "[clean/1] clean is finished", "[clean/1] first 1",
    ]  # fmt: skip
    assert done.stdout.splitlines()[4:] == ["[train/0] of the second"]
    assert "note: [train/1] has not started: ErrImageNeverPull: " in done.stderr

    assert pretrain("logs", name, "--stage", "clean", "--rank", 1, "--tail", 1, "--raw") == f"{event}\n"
    assert pretrain("logs", name, "--previous") == "[train/0] of the first attempt\n"
    assert re.fullmatch(
        r"\[train/0\] 20\d\d-\S+Z of the second\n", pretrain("logs", name, "--stage", "train", "--timestamps")
    )
    time.sleep(2)
    assert pretrain("logs", name, "--stage", "train", "--since", "1s") == ""
    assert "has no pod with index 9" in pretrain.run("logs", name, "--index", 9).stderr
    one_at_a_time = pretrain("logs", name, "--stage", "clean", "--max-log-requests", 1).splitlines()
    assert [line.split("]")[0] for line in one_at_a_time] == ["[clean/0", "[clean/0", "[clean/1", "[clean/1"]


def test_logs_are_followed_to_the_end_of_the_job(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    """Pods that had ended are passed over, pods that start later are taken up, also where few logs are read at a time."""
    created(kubectl, name, TRAINING)
    pod(kubectl, name, "clean", 0, "echo old news")
    ended(kubectl, name, 1)
    pod(kubectl, name, "train", 0, "i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo line $i; sleep 1; done")
    with pretrain.started("logs", name, "-f", "--max-log-requests", 1) as following:
        following.until("[train/0] line 1")
        pod(kubectl, name, "train", 1, "echo late; sleep 1; echo bye")
        following.until("[train/1] bye")
        observed(kubectl, name, SUCCEEDED)
        assert following.end() == 0
    assert following.lines[-1] == f"note: {name}: Succeeded: the model is there"
    said = [line for line in following.lines if not line.startswith("note: ")]
    assert said == [*(f"[train/0] line {number}" for number in range(1, 31)), "[train/1] late", "[train/1] bye"]
    assert any("1 logs are read at a time" in line for line in following.lines)

    again = pretrain.run("logs", name, "-f", "--stage", "train")
    assert sorted(again.stdout.splitlines()) == sorted(said), "a finished job: all of it"


def test_logs_survive_a_broken_connection(kubectl: Kubectl, name: str, tmp_path: Path) -> None:
    """Every line once, in order, though all connections are cut again and again; the live status goes on as well."""
    created(kubectl, name, TRAINING)
    pod(kubectl, name, "train", 0, "i=0; while [ $i -lt 120 ]; do i=$((i+1)); echo line $i; sleep 0.2; done")
    view = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    server = urlsplit(view["clusters"][0]["cluster"]["server"])
    with CutProxy(f"{server.hostname}:{server.port or 443}") as proxy:
        view["clusters"][0]["cluster"] |= {
            "server": f"https://127.0.0.1:{proxy.port}", "tls-server-name": server.hostname,
        }  # fmt: skip
        (tmp_path / "config").write_text(json.dumps(view))
        there = Pretrain(kubectl, KUBECONFIG=str(tmp_path / "config"))
        with there.started("logs", name, "-f", "--tail", 1000) as following, there.started("status", name, "-w") as watching:
            following.until("line 5")
            watching.until("train: Running")
            for _ in range(4):
                proxy.cut()
                time.sleep(2.5)
            following.until("line 120")
            observed(kubectl, name, SUCCEEDED)
            assert (following.end(), watching.end()) == (0, 0)
            assert proxy.connections >= 3 * 4, "three streams, each made again"
    lines = [line for line in following.lines if not line.startswith("note: ")]
    assert lines == [f"[train/0] line {number}" for number in range(1, 121)]
    assert "note: no answer from the cluster at https://127.0.0.1" in "\n".join(watching.lines)


def test_suspend_and_resume(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    created(kubectl, name)
    assert pretrain("suspend", name) == f"pretrainjob.pretrain.dev/{name} suspended\n"
    assert kubectl.get("pretrainjob", name)["spec"]["suspend"] is True
    assert pretrain("suspend", name) == f"pretrainjob.pretrain.dev/{name} already suspended\n"
    assert pretrain("resume", name) == f"pretrainjob.pretrain.dev/{name} resumed\n"
    assert kubectl.get("pretrainjob", name)["spec"]["suspend"] is False
    assert pretrain("resume", name) == f"pretrainjob.pretrain.dev/{name} not suspended\n"
    observed(kubectl, name, FAILED)
    assert f"{name} has failed and stays so" in pretrain.error("suspend", name, code=65)
    assert "there is no pretrainjob gone" in pretrain.error("resume", "gone", code=1)


def test_who_may_only_look_is_told_so(kubectl: Kubectl, name: str, tmp_path: Path) -> None:
    created(kubectl, name, TRAINING)
    kubectl("create", "serviceaccount", "viewer")
    kubectl("create", "role", "viewer", "--verb=get,list", "--resource=pretrainjobs.pretrain.dev")
    kubectl("create", "rolebinding", "viewer", "--role=viewer", f"--serviceaccount={kubectl.namespace}:viewer")
    view = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    view["users"][0]["user"] = {"token": kubectl("create", "token", "viewer").strip()}
    (tmp_path / "config").write_text(json.dumps(view))
    viewer = Pretrain(kubectl, KUBECONFIG=str(tmp_path / "config"))
    assert "Training" in viewer("status", name)
    for arguments in (["suspend", name], ["logs", name], ["logs", name, "-f"], ["list", "-w"]):
        said = viewer.error(*arguments, code=1)
        assert "cannot" in said
        assert said.endswith("ask whoever runs the cluster for that right")
    assert "cannot" in viewer.error("submit", "-", stdin=yaml.safe_dump(manifest(name)), code=1)
    (tmp_path / "config").write_text((tmp_path / "config").read_text().replace('"token": "', '"token": "x'))
    assert "does not accept the credentials" in viewer.error("status", name, code=1)


def test_completion(kubectl: Kubectl, pretrain: Pretrain, name: str) -> None:
    created(kubectl, name)

    def proposed(*words: str) -> list[str]:
        program = Path(sys.executable).parent / "kubectl_complete-pretrain"
        done = subprocess.run([program, *words], capture_output=True, text=True, check=True, timeout=PATIENCE)
        assert done.stderr == ""
        return done.stdout.split()

    assert name in proposed("status", "-n", kubectl.namespace, "")
    assert proposed("status", "-n", kubectl.namespace, name[:-1]) == [name, ":4"]
    assert kubectl.namespace in proposed("list", "-n", "pretrain-e2e")
    assert proposed("status", "-n", "no-such-namespace", "") == [":0"]
    # kubectl itself finds both programs where they are in PATH.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = subprocess.run(
        ["kubectl", "__complete", "pretrain", "status", "-n", kubectl.namespace, name],
        capture_output=True, text=True, check=True, env=os.environ | {"PATH": path}, timeout=PATIENCE,
    )  # fmt: skip
    assert found.stdout.splitlines() == [name, ":4"]
    plugin = subprocess.run(
        ["kubectl", "pretrain", "list", "-n", kubectl.namespace, "-o", "name"],
        capture_output=True, text=True, check=True, env=os.environ | {"PATH": path}, timeout=PATIENCE,
    )  # fmt: skip
    assert f"pretrainjob.pretrain.dev/{name}" in plugin.stdout.split()


@pytest.mark.slow
def test_a_whole_job(s3: ClusterS3, namespaces: Namespaces, serving: Serving, tmp_path: Path) -> None:
    """From submit to checkpoints, with an operator and the real images."""
    kubectl = namespaces("cli")
    serving(kubectl)
    pretrain = Pretrain(kubectl, **s3.writer.environment())
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_job(s3, kubectl.namespace)))
    pretrain("submit", path)
    with pretrain.started("logs", "tiny", "-f") as following, pretrain.started("status", "tiny", "-w") as watching:
        done = subprocess.run(
            [*PROGRAM, "status", "tiny", "-n", kubectl.namespace, "--wait-for=succeeded", "--timeout=15m"], check=False
        )
        assert done.returncode == 0, "\n".join(following.lines[-20:])
        assert (following.end(), watching.end()) == (0, 0)
    for stage in ("preflight/0", "clean/0", "clean/1", "tokenize/1", "train/0", "report/0"):
        assert any(line.startswith(f"[{stage}] ") for line in following.lines), stage
    assert any(f"step {STEPS} of {STEPS}" in line for line in following.lines)
    assert not any(line.startswith(('{"', "[train/0] {")) for line in following.lines), "events are read"
    assert [line for line in watching.lines if line.startswith("train: ")][:1] == ["train: Running"]
    assert watching.lines[0].startswith("tiny: ")

    said = pretrain.error("checkpoints", "ls", "tiny", code=75)
    assert f"kubectl -n {s3.kubectl.namespace} port-forward service/s3 {S3_PORT}:{S3_PORT}" in said
    endpoint = ("--endpoint", s3.forward.url(S3_PORT))
    table = pretrain("checkpoints", "ls", "tiny", *endpoint).splitlines()
    assert [line.split()[0] for line in table] == ["STEP", str(STEPS), str(STEPS - CHECKPOINT_STEPS)]
    assert all(line.endswith("as committed") for line in pretrain("checkpoints", "verify", "tiny", *endpoint).splitlines())
    assert "nothing to suspend" in pretrain.error("suspend", "tiny", code=65)
