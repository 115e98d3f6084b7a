"""The cluster commands as a user types them, where there is no cluster, or one that misbehaves."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from pretrain_operator.cli import main
from pretrain_operator.kubectl.commands import parse_time
from pretrain_stage.errors import UserError

from tests.operator.jobs import job
from tests.seaweedfs import free_ports

COMMANDS = (
    "submit",
    "list",
    "status",
    "logs",
    "suspend",
    "resume",
    "trace",
    "checkpoints ls",
    "checkpoints verify",
    "checkpoints restore",
)


@dataclass
class Done:
    """What came of one call."""

    returncode: int
    stdout: str
    stderr: str


def pretrain(*arguments: object, **environment: str) -> Done:
    """One call of the program, in this process: most of its time goes into imports."""
    kept = {name: value for name, value in os.environ.items() if name not in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST")}
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, kept | {"COLUMNS": "120"} | environment, clear=True),
        mock.patch.object(sys, "argv", ["pretrain", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert isinstance(ended.value.code, int | None)
    return Done(ended.value.code or 0, out.getvalue(), err.getvalue())


def error(done: Done) -> str:
    """The one sentence that was said."""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def kubeconfig(folder: Path, server: str, **context: str) -> Path:
    path = folder / "kubeconfig"
    made = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"} | context}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
    }
    path.write_text(yaml.safe_dump(made))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_flags_exit_codes_and_an_example(command: str) -> None:
    said = pretrain(*command.split(), "--help").stdout
    for word in ("--namespace", "-n", "--context", "--kubeconfig", "Exit codes: 0 done; 65", f"pretrain {command} "):
        assert word in said


def test_help_loads_nothing_of_the_cluster() -> None:
    code = (
        "import sys; sys.argv = ['pretrain', 'status', '--help']\n"
        "from pretrain_operator.cli import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('kubernetes', 'torchx', 'obstore', 'urllib3') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


def test_a_missing_client_is_named() -> None:
    code = "import sys; sys.modules['kubernetes'] = None\nfrom pretrain_operator.cli import main\nmain()"
    said = subprocess.run([sys.executable, "-c", code, "list"], capture_output=True, text=True, check=False)
    assert said.stderr == "error: kubernetes is not installed; run: pip install 'pretrain-operator[cluster]'\n"


def test_it_is_a_plugin_of_kubectl(tmp_path: Path) -> None:
    """The installed programs have the names that kubectl looks for."""
    folder = Path(sys.executable).parent
    said = subprocess.run([folder / "kubectl-pretrain", "list", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: kubectl pretrain list" in said.stdout
    done = subprocess.run(
        [folder / "kubectl_complete-pretrain", "logs", "x", "--stage", "tok"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["tokenizer", "tokenize", ":4"]
    done = subprocess.run([folder / "kubectl_complete-pretrain", "submit", ""], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [":0"], "files are for the shell to offer"


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "-n", "../../kube-system"), ("list", "-n", "UPPER"), ("list", "-n", ""), ("list", "-n", "a" * 64),
        ("status", "a/b"), ("status", "../x"), ("status", "x?watch=true"), ("status", "-"), ("logs", "a.b"),
        ("logs", "x%2f"), ("suspend", "good", "x;y"), ("resume", "中文"), ("checkpoints", "ls", "x y"), ("status", "x", "-n", "\x1b[2J"),
        ("trace", "X y", "--step", "1"),
    ],
)  # fmt: skip
def test_what_can_be_no_name_is_refused_before_anything_is_asked(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """The address is one that nothing answers at: a request would end with 75."""
    config = kubeconfig(tmp_path, f"http://127.0.0.1:{free_ports(1)[0]}")
    done = pretrain(*arguments, "--kubeconfig", config)
    assert done.returncode == 65
    assert "can be no name" in error(done)
    assert done.stderr.strip().isprintable()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist; give --kubeconfig FILE, or set KUBECONFIG"),
        ("", "cannot be used"),
        ("a: [", "cannot be used"),
        ("[]", "cannot be used"),
        ("current-context: x\ncontexts: 5\n", "cannot be used"),
        (yaml.safe_dump({"current-context": "gone", "contexts": [], "clusters": [], "users": []}), "cannot be used"),
    ],
)
def test_no_usable_kubeconfig(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    for done in (pretrain("list", KUBECONFIG=str(path)), pretrain("list", "--kubeconfig", path)):
        assert done.returncode == 1
        assert sentence in error(done)
        assert str(path) in done.stderr


def test_an_unknown_context(tmp_path: Path) -> None:
    done = pretrain("list", "--kubeconfig", kubeconfig(tmp_path, "http://x"), "--context", "there")
    assert (done.returncode, "--context: there is not in" in error(done)) == (1, True)
    assert done.stderr.endswith("it has: here\n")


def test_a_context_whose_namespace_is_none(tmp_path: Path) -> None:
    done = pretrain("list", "--kubeconfig", kubeconfig(tmp_path, "http://x", namespace="a/../b"))
    assert done.returncode == 65
    assert "kubeconfig: namespace: 'a/../b' can be no name" in error(done)


@pytest.mark.parametrize(
    "arguments", [("list",), ("list", "-w"), ("status", "x", "-w"), ("logs", "x", "-f"), ("suspend", "x")]
)
def test_a_cluster_that_is_down(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    server = f"http://127.0.0.1:{free_ports(1)[0]}"
    done = pretrain(*arguments, "--kubeconfig", kubeconfig(tmp_path, server))
    assert done.returncode == 75
    assert error(done).startswith(
        f"no answer from the cluster at {server} ([Errno 111] Connection refused); check that it runs"
    )


@pytest.fixture
def strange_server() -> Iterator[tuple[str, dict[str, Any]]]:
    """A server of our own making, for answers that a real API server gives on bad days; its address, and the answer to give."""
    answer: dict[str, Any] = {"status": 200, "body": b"{}"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer["asked"] = (self.path, self.headers["Authorization"], self.headers["User-Agent"])
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(len(answer["body"])))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", answer
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "sentence", "code"),
    [
        (200, b"<html>log in</html>", "does not answer as a Kubernetes API server does", 1),
        (200, b'"text"', "does not answer as a Kubernetes API server does", 1),
        (503, b"<html>\x1b]0;owned\x07</html>", "the cluster answers 503", 75),
        (401, json.dumps({"kind": "Status", "message": "Unauthorized", "code": 401}).encode(), "log in again", 1),
        (403, json.dumps({"kind": "Status", "message": "User cannot", "code": 403}).encode(), "ask whoever", 1),
        (404, b"404 page not found\n", "does not know PretrainJobs", 1),
    ],
)
def test_strange_answers(
    tmp_path: Path, strange_server: tuple[str, dict[str, Any]], status: int, body: bytes, sentence: str, code: int
) -> None:
    address, answer = strange_server
    answer |= {"status": status, "body": body}
    done = pretrain("status", "x", "--kubeconfig", kubeconfig(tmp_path, address))
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in error(done)
    assert done.stderr.strip().isprintable()
    assert "secret-token" not in done.stderr
    path, token, agent = answer["asked"]
    assert path == "/apis/pretrain.dev/v1alpha1/namespaces/default/pretrainjobs/x"
    assert token == "Bearer secret-token"
    assert re.match(r"kubectl-pretrain/\d", agent)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("", "is empty"),
        ("a: [", "not YAML"),
        ("kind: Pod", "kind: 'Pod' is no PretrainJob; apply other objects with kubectl"),
        ("- 1", "kind: None is no PretrainJob"),
        (
            yaml.safe_dump(job() | {"apiVersion": "pretrain.dev/v2"}),
            "apiVersion: 'pretrain.dev/v2' is not pretrain.dev/v1alpha1",
        ),
        (yaml.safe_dump(job() | {"metadata": {}}), "metadata.name: missing"),
        (yaml.safe_dump(job() | {"metadata": {"name": "../x"}}), "metadata.name: '../x' can be no name"),
        (
            yaml.safe_dump(job() | {"metadata": {"name": "x", "namespace": "a b"}}),
            "metadata.namespace: 'a b' can be no name",
        ),
        (yaml.safe_dump(job() | {"metadata": {"name": "x", "namespace": "b"}}), "--namespace: a was asked for"),
        ("\x00", "not YAML"),
    ],
)
def test_files_that_are_not_sent(tmp_path: Path, content: str | None, sentence: str) -> None:
    config = kubeconfig(tmp_path, f"http://127.0.0.1:{free_ports(1)[0]}")
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_text(content)
    done = pretrain("submit", path, "-n", "a", "--kubeconfig", config)
    assert done.returncode == 65
    assert sentence in error(done)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", "a", "b", "-w"), "--watch"), (("status", "x", "--timeout", "3s"), "--timeout"),
        (("logs", "x", "-f", "-p"), "--previous"), (("list", "-o", "table"), "'table' is not one of"), (("status",), "NAME"),
    ],
)  # fmt: skip
def test_wrong_usage(arguments: tuple[str, ...], words: str) -> None:
    done = pretrain(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_stage_that_there_is_not() -> None:
    assert "--stage: 'trin' is no stage; the stages are preflight, clean" in error(pretrain("logs", "x", "--stage", "trin"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("90", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1d1s", 86_401), ("0", 0)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time("--timeout", text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1.5h", "1m1h", "soon", "9" * 40, "1h 30m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UserError, match=r"--since: .* is no time; write it like 90s, 30m or 1h30m"):
        parse_time("--since", text)


def test_completion_is_silent_without_a_cluster(tmp_path: Path) -> None:
    config = kubeconfig(tmp_path, f"http://127.0.0.1:{free_ports(1)[0]}")
    for words in (["status", ""], ["list", "-n", ""], ["status", "-n", "a/b", ""], ["list", "--context", "h"]):
        done = pretrain(
            KUBECONFIG=str(config),
            _PRETRAIN_COMPLETE="complete_bash",
            COMP_WORDS=shlex.join(["pretrain", *words[:-1]]) + " " + words[-1],
            COMP_CWORD=str(len(words)),
        )
        assert (done.stdout.split(), done.stderr) == (["here"] if words[-1] == "h" else [], "")
