"""The program `pretrain` as a user types it."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretrain_operator.api import parse_job
from pretrain_operator.commands import STAGE_NAMES
from pretrain_operator.local.lock import claimed
from pretrain_operator.local.run import make_log_dir, up_to
from pretrain_operator.stages import Site, stages
from pretrain_stage.config import Storage
from pretrain_stage.errors import UserError
from pretrain_stage.storage import open_folder, open_storage

from tests.operator.jobs import job
from tests.seaweedfs import SeaweedFS

ROOT = Path(__file__).parents[2]


def pretrain(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pretrain_operator.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "100"} | environment,
    )


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log files go there, not among the user's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    return written(tmp_path, {})


def written(folder: Path, spec: dict[str, Any]) -> Path:
    path = folder / "job.yaml"
    source = {"sources": [{"name": "web", "uri": str(folder / "raw/*.jsonl")}]}
    path.write_text(yaml.safe_dump(job({"storage": {"uri": str(folder / "storage")}, "corpus": source} | spec)))
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["run", "check", "render", "version"]),
        (["--help"], ["run", "check", "render", "version", "Exit codes", "65", "75", "130"]),
        (["run", "-h"], ["pretrain run job.yaml --until tokenize", "--plain", "--log-dir", "Exit codes"]),
        (["render", "-h"], ["pretrain render job.yaml --job-file > job.json", "table", "yaml", "json", "Exit codes"]),
        (["check", "-h"], ["pretrain check job.yaml -o json", "--gpu-memory", "--offline", "--cluster", "Exit codes"]),
    ],
)
def test_help(arguments: list[str], words: list[str]) -> None:
    said = pretrain(*arguments)
    assert said.returncode == (0 if arguments else 2)
    assert [word for word in words if word not in said.stdout + said.stderr] == []


def test_help_is_quick() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert pretrain("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0  # 0.3 s on an idle machine


@pytest.mark.parametrize("command", ["--help", "version"])
def test_nothing_heavy_is_loaded_to_say_little(command: str) -> None:
    code = (
        "import sys; sys.argv = ['pretrain', sys.argv[1]]\n"
        "from pretrain_operator.cli import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('torch', 'torchx', 'datatrove', 'obstore', 'kopf') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


def test_render_prints_stages_objects_and_job_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job()))
    table = pretrain("render", path)
    assert table.returncode == 0, table.stderr
    first_words = [line.split()[0] for line in table.stdout.splitlines()]
    assert first_words == ["STAGE", *(stage.name for stage in stages(parse_job(job(), "job"), Site("")))]

    as_yaml = list(yaml.safe_load_all(pretrain("render", path, "-o", "yaml", "--trainer-image", "mine:1").stdout))
    as_json = json.loads(pretrain("render", path, "-o", "json", "--trainer-image", "mine:1").stdout)
    assert as_json["items"] == as_yaml
    assert {item["kind"] for item in as_yaml} == {"ConfigMap", "Job", "PyTorchJob"}
    assert "mine:1" in json.dumps(as_yaml)

    resolved = json.loads(pretrain("render", path, "--job-file").stdout)
    assert resolved["spec"]["training"]["optimizer"]["beta2"] == 0.95, "defaults are written out"
    (tmp_path / "job.json").write_text(json.dumps(resolved))
    assert json.loads(pretrain("render", tmp_path / "job.json", "--job-file").stdout) == resolved


def test_a_job_that_no_cluster_can_run_is_not_rendered(job_file: Path) -> None:
    assert pretrain("render", job_file).returncode == 0, "its stages can be shown"
    said = pretrain("render", job_file, "-o", "yaml")
    assert (said.returncode, said.stdout) == (65, "")
    assert "storage.uri must be an s3:// uri in a cluster" in said.stderr


def test_version() -> None:
    said = pretrain("version")
    assert (said.returncode, said.stdout) == (0, "pretrain 0.1.0\n")


@pytest.mark.parametrize("missing", ["typer", "rich", "torchx", "obstore"])
def test_a_missing_extra_is_named(missing: str, job_file: Path) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom pretrain_operator.cli import main\nmain()"
    said = subprocess.run([sys.executable, "-c", code, "run", str(job_file)], capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert said.stderr.splitlines() == [f"error: {missing} is not installed; run: pip install 'pretrain-operator[local]'"]


def test_a_module_that_is_missing_by_our_fault_is_no_missing_extra() -> None:
    code = "import sys; sys.modules['pretrain_operator.check'] = None\nfrom pretrain_operator.cli import main\nmain()"
    said = subprocess.run([sys.executable, "-c", code, "check", "x"], capture_output=True, text=True, check=False)
    assert "Traceback" in said.stderr


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("a: [", "not YAML"),
        (yaml.safe_dump(job({"corpus.task": 4})), "spec.corpus.task: unknown field; did you mean tasks?"),
        (yaml.safe_dump(job({"model": {"preset": "llama2-7"}})), "did you mean llama2-7b?"),
    ],
)
def test_a_wrong_job_is_one_sentence(tmp_path: Path, command: str, content: str | None, sentence: str) -> None:
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_text(content)
    said = pretrain(command, path)
    assert said.returncode == 65
    assert said.stderr.startswith(f"error: {path}: ")
    assert sentence in said.stderr
    assert len(said.stderr.splitlines()) == 1


def test_every_fault_that_run_finds_before_it_starts(tmp_path: Path) -> None:
    path = written(tmp_path, {"training.schedule": {"warmupSteps": 1000}, "training.gpusPerNode": 1, "training.nodes": 8})
    said = pretrain("run", path, CUDA_VISIBLE_DEVICES="-1")
    assert said.returncode == 65
    assert [line.split(": ")[:2] for line in said.stderr.splitlines()] == [
        ["error", "spec.training.schedule.warmupSteps"],
        ["error", "spec.training.gpusPerNode"],
    ]
    assert not (tmp_path / "storage").exists(), "nothing was begun"


def test_a_second_run_of_the_same_storage_is_refused(tmp_path: Path, job_file: Path) -> None:
    with claimed(open_folder(tmp_path / "storage"), None):
        said = pretrain("run", job_file, "--log-dir", tmp_path / "logs")
    assert said.returncode == 65
    assert f"is in use by another `pretrain run` on this machine (process {os.getpid()})" in said.stderr
    assert not (tmp_path / "storage" / "job.json").exists(), "nothing was touched"


def test_check_says_everything_and_ends_with_65_if_something_is_wrong(tmp_path: Path, job_file: Path) -> None:
    right = pretrain("check", job_file, "--offline")
    assert right.returncode == 0, right.stdout
    assert "✓ model         3,164,416 parameters\n" in right.stdout
    assert "    8 samples x 512 tokens = 4,096 tokens\n" in right.stdout
    assert "✗" not in right.stdout

    wrong = pretrain("check", written(tmp_path, {"training.schedule": {"warmupSteps": 1000}}), "--offline")
    assert wrong.returncode == 65
    assert "✗ schedule      spec.training.schedule.warmupSteps: 1,000 is more than the 245 steps" in wrong.stdout
    assert "✓ model" in wrong.stdout


def test_check_as_json(job_file: Path) -> None:
    said = pretrain("check", job_file, "--offline", "-o", "json")
    found = json.loads(said.stdout)
    assert (found["job"], found["ok"], said.returncode) == ("right", True, 0)
    assert [check["name"] for check in found["checks"]] == [
        "model", "batch", "schedule", "checkpoints", "tokens", "disk", "memory", "preprocessing", "training",
    ]  # fmt: skip
    assert all(set(check) == {"name", "ok", "message", "details"} for check in found["checks"])


def test_check_for_a_cluster(tmp_path: Path, job_file: Path) -> None:
    said = pretrain("check", job_file, "--offline", "--cluster", "-o", "json")
    checks = {check["name"]: check for check in json.loads(said.stdout)["checks"]}
    assert said.returncode == 65
    assert "storage.uri must be an s3:// uri in a cluster" in checks["cluster"]["message"]
    assert "preprocessing" not in checks, "this machine does not count"


def test_check_for_another_gpu(tmp_path: Path) -> None:
    path = written(tmp_path, {"model": {"preset": "llama3-8b"}, "training.gpusPerNode": 1})
    for memory, code in (("24GiB", 65), ("400GiB", 0)):
        said = pretrain("check", path, "--offline", "--cluster", "--gpu-memory", memory, "-o", "json")
        checks = {check["name"]: check["ok"] for check in json.loads(said.stdout)["checks"]}
        assert checks["memory"] is (code == 0)
    said = pretrain("check", path, "--gpu-memory", "much")
    assert (said.returncode, said.stderr) == (65, "error: --gpu-memory: much is no size; write it like 80GiB\n")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Real English: the topics of Python's own documentation."""
    folder = tmp_path / "raw"
    folder.mkdir()
    lines = [json.dumps({"text": topic}) for topic in pydoc_data.topics.topics.values()]
    (folder / "topics.jsonl").write_text("\n".join(lines))
    return folder


def test_check_looks_at_sources_and_storage(tmp_path: Path, text: Path) -> None:
    path = written(tmp_path, {"training.maxEpochs": 1000})
    said = pretrain("check", path, "--log-dir", tmp_path / "logs")
    assert said.returncode == 0, said.stdout
    assert "✓ preflight     storage, sources and tokenizer are there: 1 files" in said.stdout
    assert list((tmp_path / "storage").iterdir()) == [], "it leaves nothing behind"

    for file in text.iterdir():
        file.unlink()
    said = pretrain("check", path, "--log-dir", tmp_path / "logs", "-o", "json")
    found = json.loads(said.stdout)
    assert (said.returncode, found["ok"]) == (65, False)
    assert [check["name"] for check in found["checks"] if check["ok"] is False] == ["preflight"]
    preflight = found["checks"][-1]
    assert preflight["message"].startswith("corpus.sources[0].uri: ")
    assert Path(preflight["details"][0].removeprefix("log: ")).exists()


def test_run_up_to_preflight(tmp_path: Path, text: Path) -> None:
    path = written(tmp_path, {"training.maxEpochs": 1000})
    said = pretrain("run", path, "--until", "preflight", "--log-dir", tmp_path / "logs")
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0].startswith("right: 3,164,416 parameters, 245 steps of 4,096 tokens, ")
    assert " GiB a process of " in lines[0]
    assert "note: checkpoints: only one, at the end: everySteps is 500; a killed training begins again at step 0" in lines
    assert "preflight: running" in lines
    assert f"files: {tmp_path}/storage" in lines
    assert lines[-1] == f"logs: {tmp_path}/logs"
    resolved = json.loads(pretrain("render", path, "--job-file").stdout)
    for copy in (tmp_path / "storage" / "job.json", tmp_path / "logs" / "job.json"):
        assert json.loads(copy.read_text()) == resolved

    (text / "topics.jsonl").unlink()
    said = pretrain("run", path, "--log-dir", tmp_path / "logs")
    assert said.returncode == 65
    error, log = said.stderr.splitlines()
    assert error.startswith("error: corpus.sources[0].uri: ")
    assert Path(log.removeprefix("log: ")).exists()
    assert "clean" not in said.stdout


def test_run_on_s3(tmp_path: Path, text: Path, seaweedfs: SeaweedFS, s3_uri: str) -> None:
    storage = {"uri": s3_uri, "endpointURL": seaweedfs.endpoint}
    path = written(tmp_path, {"storage": storage, "training.maxEpochs": 1000})
    said = pretrain("run", path, "--until", "preflight", "--log-dir", tmp_path / "logs")
    assert said.returncode == 0, said.stderr
    stored = open_storage(Storage(uri=s3_uri, endpointURL=seaweedfs.endpoint)).read("job.json")
    assert json.loads(stored or b"") == json.loads((tmp_path / "logs" / "job.json").read_text())

    said = pretrain("run", path, "--until", "preflight", AWS_SECRET_ACCESS_KEY="wrong")
    assert said.returncode == 65
    assert said.stderr.startswith(f"error: storage: not allowed to write {s3_uri}/job.json")
    assert "check the credentials" in said.stderr


@pytest.mark.parametrize(
    ("until", "last"), [(None, "report"), ("preflight", "preflight"), ("tokenize", "tokenize"), ("train", "train")]
)
def test_up_to_a_stage(until: str | None, last: str) -> None:
    planned = stages(parse_job(job(), "job"), Site(""))
    found = up_to(planned, until)
    assert [stage.name for stage in found] == [stage.name for stage in planned[: len(found)]]
    assert found[-1].name == last


def test_a_stage_that_there_is_not() -> None:
    planned = stages(parse_job(job(), "job"), Site(""))
    with pytest.raises(
        UserError, match=r"--until: tokenise is no stage of this job; did you mean tokenize\? Its stages: pre"
    ):
        up_to(planned, "tokenise")


def test_where_log_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    right = parse_job(job(), "job")
    assert make_log_dir(right, None).parent == tmp_path / "state" / "pretrain" / "right"
    monkeypatch.chdir(tmp_path)
    assert make_log_dir(right, Path("logs")) == tmp_path / "logs"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--log-dir: .*file/logs cannot be made"):
        make_log_dir(right, tmp_path / "file" / "logs")


def test_completion_knows_every_stage(job_file: Path) -> None:
    said = pretrain(_PRETRAIN_COMPLETE="complete_bash", COMP_WORDS=f"pretrain run {job_file} --until t", COMP_CWORD="4")
    assert said.stdout.split() == ["tokenizer", "tokenize", "train"]
    planned = [
        [stage.name for stage in stages(parse_job(job({"corpus.deduplicate": {"method": method}}), "job"), Site(""))]
        for method in ("none", "exact", "minhash")
    ]
    assert set().union(*planned) == set(STAGE_NAMES)
    for names in planned:
        assert [name for name in STAGE_NAMES if name in names] == names
