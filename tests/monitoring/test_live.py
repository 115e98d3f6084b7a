"""A real Prometheus, real training, real preprocessing and the operator's own metrics: every panel has data, every alert fires
by its own fault and resolves.

Faults of seconds are made for real: a process is stopped or killed, weights overflow, a checkpoint is damaged, the folder of
checkpoints is gone, a source is cut off. Faults of minutes or hours are told to the classes that serve the metrics (`driven`,
`operator_program`), which work them out as ever. The rules are those of the chart at a quicker pace.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from unittest.mock import ANY

import pytest
from pretrain_operator.monitoring.alerts import Pace, Thresholds, rules
from pretrain_operator.monitoring.catalogues import BY_NAME
from pretrain_operator.monitoring.dashboards import DASHBOARDS, text
from prometheus_client.parser import text_string_to_metric_families

from tests.monitoring.driven import Driven
from tests.monitoring.jobs import NAMESPACE, condition, kept, ledger, stage
from tests.monitoring.operator_program import TEACHER
from tests.monitoring.server import Prometheus, wait
from tests.monitoring.test_generated import panels
from tests.monitoring.tools import ROOT, needs_prometheus, promtool
from tests.preprocess.stages import spec as corpus
from tests.seaweedfs import free_ports
from tests.trainer.jobs import STARTED, Run, descendants, folder_storage, start, write_job
from tests.trainer.jobs import job as training_job

pytestmark = [needs_prometheus, pytest.mark.slow]

PACE = Pace(sure=1, window=10, patient=6, long=25, resolution=2)
THRESHOLDS = Thresholds(storage_errors_per_hour="0", goodput="0.05")
WITHIN = 180.0
"""Seconds that alerts may take to fire, and to resolve, all of them together."""

BY_ITS_FAULT = {
    ("PretrainTrainingStalled", "hangs"): "a step that does not end, on a quick clock",
    ("PretrainTrainingStalled", "silent"): "a first pod that has told nothing for a minute",
    ("PretrainTrainingNonFinite", "diverges"): "real training whose weights overflow",
    ("PretrainLossSpike", "spikes"): "the loss triples",
    ("PretrainCheckpointStale", "stale"): "steps, and no checkpoint",
    ("PretrainCheckpointCorrupt", "little"): "real training that finds its newest checkpoint damaged",
    ("PretrainTrainingUnseen", "little"): "real training that is stopped (SIGSTOP)",
    ("PretrainCheckpointFailing", "little"): "real training that cannot write its checkpoints",
    ("PretrainStorageErrors", "little"): "the same",
    ("PretrainPreprocessingFailing", "cut-off"): "real preprocessing of a file that ends too early",
    ("PretrainPreprocessingFailing", "fails"): "a task that has failed for good",
    ("PretrainJobFailed", "fails"): "the condition of a job",
    ("PretrainRestartLoop", "restarts"): "restarts in a status",
    ("PretrainGoodputLow", "down"): "a job whose group is down",
    ("PretrainBudgetNearlySpent", "costly"): "GPU time at its price",
    ("PretrainWatchStale", None): "watches that bring nothing",
    ("PretrainOperatorFaults", None): "a look at a job that ended in a fault",
    ("PretrainOperatorDown", None): "the operator's process is killed",
}
"""What each alert is set off by: the alert and the job, and what was done."""
ALL = set(BY_ITS_FAULT)
DOWN = ("PretrainOperatorDown", None)

Alert = tuple[str, str | None]


@dataclass
class Story:
    """What was seen."""

    answers: dict[str, list[Any]] = field(default_factory=dict)
    """Of each query of a panel, while all was well."""
    variables: dict[str, list[str]] = field(default_factory=dict)
    expositions: dict[str, str] = field(default_factory=dict)
    too_early: set[Alert] = field(default_factory=set)
    """Alerts that fired while all was well."""
    fired: dict[Alert, dict[str, str]] = field(default_factory=dict)
    """With their texts."""
    unresolved: set[Alert] = field(default_factory=set)
    """Those that still fired when all was mended."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Everything from start to end, told once for all tests."""
    folder, seen = tmp_path_factory.mktemp("live"), Story()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as ends:
        scene = Scene(folder, patch, ends)
        scene.begin()
        _look_while_all_is_well(scene, seen)
        with _noting(scene.prometheus, seen):
            scene.break_everything()
            _until(WITHIN, lambda: ALL - {DOWN} <= set(seen.fired))
            scene.stop_the_operator()
            _until(WITHIN, lambda: DOWN in seen.fired)
            scene.mend_everything()
            _until(WITHIN, lambda: scene.stays_well() and not ALL & set(_firing(scene.prometheus)))
        seen.unresolved = ALL & set(_firing(scene.prometheus))
        yield seen


class Scene:
    """The programs, and what is done to them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, ends: contextlib.ExitStack) -> None:
        self.folder, self.ends = folder, ends
        self.prometheus = Prometheus(_new(folder / "prometheus"), rules(PACE, THRESHOLDS))
        ends.callback(self.prometheus.stop)
        ends.callback(_kill_runs)
        self.driven = {name: Driven(name, NAMESPACE, patch) for name in ("hangs", "spikes", "stale")}
        for run in self.driven.values():
            ends.callback(run.close)
        self.control = folder / "control.json"
        self.operator_port, self.healthy_port, self.cut_off_port = free_ports(3)
        self.operator: subprocess.Popen[bytes] | None = None

    # well

    def begin(self) -> None:
        """All programs run, and are seen."""
        self.training = _train(_new(self.folder / "little"), "little")
        self.say(jobs=[kept("quiet")], training={}, heard_at=None, leading=True, faults=0)
        self.start_the_operator()
        self.prometheus.add(operator=self.operator_port, **{name: run.port for name, run in self.driven.items()})
        self.driven["spikes"].step(loss=3.0)
        self.seen_training()
        self.say(jobs=[self.little(), kept("quiet")])
        # Six tasks, so that it still runs when all is looked at.
        self.healthy = self.preprocess("healthy", self.healthy_port, "little", *6 * [_documents(16)])
        self.training.until("validation")
        wait(60, lambda: self.prometheus.query("pretrain_training_validation_loss"), "a validation is seen")
        wait(120, lambda: self.prometheus.query('pretrain_preprocess_tasks_total{result="done"}'), "a task is done")
        time.sleep(PACE.window)

    def seen_training(self) -> None:
        """Where training serves its metrics is known, to Prometheus and to the operator."""
        port = self.training.until("info", metrics_port=ANY)["metrics_port"]
        self.prometheus.add(little=port)
        self.say(training={f"{NAMESPACE}/little": port})

    # faults

    def break_everything(self) -> None:
        """Sets off every alert but that of an operator that is down."""
        self.healthy.kill()
        self.say(
            jobs=[
                self.little(),
                kept("silent", goodput=ledger("productive", since=70)),
                kept("down", goodput=ledger("down")),
                kept("restarts", restartsByReason={"Infrastructure": 0}),
                kept("costly", cost={"pricePerGPUHour": 100, "budget": 100}),
                kept(
                    "fails",
                    phase="Failed",
                    conditions=[condition("Failed", "True", "StageFailed")],
                    stages=[stage("clean", "Failed", 4, failed=1, succeeded=2)],
                ),
            ],
            heard_at=time.time() - 1000,
            faults=3,
        )
        self.driven["hangs"].account.computes(1)
        self.driven["stale"].account.took(0.5)
        self.driven["stale"].step(loss=3.0)
        self.driven["spikes"].step(loss=9.0)
        self.preprocess("cut-off", self.cut_off_port, "cut-off", *2 * [_documents(5)], cut_off=True)
        (port,) = free_ports(1)
        self.prometheus.add(diverges=port)
        _train(
            _new(self.folder / "diverges"),
            "diverges",
            port,
            globalBatchTokens=8192,  # steps of half a second: it is read before its weights overflow, which is why it stays to be read
            optimizer={"learningRate": 10, "gradientClipping": 0, "beta2": 0.0, "eps": 1e-30},
            schedule={"kind": "constant", "warmupSteps": 2000},
        )
        self.say(jobs=[kept("restarts", restartsByReason={"Infrastructure": 4})])
        self.damage_and_stop_training()
        self.take_the_checkpoints_away()

    def damage_and_stop_training(self) -> None:
        """Training is told to end, its newest checkpoint damaged, training started again, and stopped for a while."""
        assert self.training.stop() == 143
        storage = self.folder / "little" / "storage"
        newest = max((storage / "checkpoints").iterdir())
        next(newest.glob("*.pt")).write_bytes(b"damaged")
        self.training = start("launch", self.folder / "little" / "job.json")
        self.seen_training()
        wait(60, lambda: _fires(self.prometheus, "PretrainCheckpointCorrupt", "little"), "the damaged checkpoint is seen")
        processes = [self.training.process.pid, *descendants(self.training.process.pid)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        wait(60, lambda: _fires(self.prometheus, "PretrainTrainingUnseen", "little"), "training is missed")
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
        wait(60, lambda: not _fires(self.prometheus, "PretrainTrainingUnseen", "little"), "training is seen again")

    def take_the_checkpoints_away(self) -> None:
        """In place of the folder of checkpoints there is a file: nothing can be written below it."""
        checkpoints = self.folder / "little" / "storage" / "checkpoints"
        for number in range(100):
            checkpoints.rename(checkpoints.with_name(f"away-{number}"))
            with contextlib.suppress(FileExistsError, IsADirectoryError):
                checkpoints.touch(exist_ok=False)
                return
        raise AssertionError("training made the folder again and again")

    def stop_the_operator(self) -> None:
        assert self.operator is not None
        self.operator.kill()
        self.operator.wait()

    def mend_everything(self) -> None:
        """Takes all faults away."""
        self.say(
            jobs=[
                kept("little", phase="Finishing"),
                kept("costly", cost={"pricePerGPUHour": 100, "budget": 1000}),
                kept("fails"),
            ],
            training={},
            heard_at=None,
        )
        self.stays_well()
        self.start_the_operator()
        self.driven["hangs"].account.waits()
        self.driven["spikes"].step(loss=3.0)

    def stays_well(self) -> bool:
        """What has to happen again and again where all is well: checkpoints, and first pods that tell of themselves."""
        self.driven["stale"].checkpoint()
        self.say(jobs=[kept(name, goodput=ledger("productive")) for name in ("silent", "down")])
        return True

    # programs

    def say(self, **control: Any) -> None:
        """Changes what the operator knows. Jobs that are not named stay as they are."""
        before = json.loads(self.control.read_text()) if self.control.exists() else {"jobs": []}
        named = {job["metadata"]["name"]: job for job in [*before["jobs"], *control.pop("jobs", [])]}
        new = self.control.with_suffix(".new")
        new.write_text(json.dumps({**before, **control, "jobs": list(named.values())}))
        new.rename(self.control)

    def little(self) -> Any:
        """The job of the real training, whose budget will be enough."""
        return kept(
            "little",
            cost={"pricePerGPUHour": 2, "budget": 1000},
            goodput=ledger("initializing", pod=TEACHER),
            stages=[stage("clean", "Running", 2, active=1, succeeded=1), stage("train", "Running", 1, active=1)],
        )

    def start_the_operator(self) -> None:
        program = [sys.executable, "-m", "tests.monitoring.operator_program", str(self.control), str(self.operator_port)]
        self.operator = subprocess.Popen(program, cwd=ROOT)
        self.ends.callback(self.operator.wait)
        self.ends.callback(self.operator.kill)

    def preprocess(self, target: str, port: int, name: str, *parts: bytes, cut_off: bool = False) -> subprocess.Popen[bytes]:
        """Cleans these files of documents, each in a task of its own, one after another in one process."""
        folder = _new(self.folder / target)
        for part, documents in enumerate(parts):
            packed = gzip.compress(documents, 1)
            (folder / f"raw-{part}.jsonl.gz").write_bytes(packed[: len(packed) - 1000] if cut_off else packed)
        given = corpus(
            folder / "storage", {"uri": str(folder / "raw-*.jsonl.gz")}, clean=["normalize", "quality"], tasks=len(parts)
        )
        job = folder / "job.json"
        job.write_text(json.dumps({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": given}))
        program = [sys.executable, "-m", "pretrain_preprocess", "clean", "--job", str(job), "--stride", "1"]
        program += ["--metrics-port", str(port)]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(program, stdout=log, stderr=log)
        self.ends.callback(process.wait)
        self.ends.callback(process.kill)
        self.prometheus.add(**{target: port})
        return process


def _look_while_all_is_well(scene: Scene, seen: Story) -> None:
    """Asks every panel's queries, and whether any alert fires."""
    for name in DASHBOARDS:
        board = json.loads(text(name))
        for variable in board["templating"]["list"][1:]:
            asked = _filled(variable["query"]).removeprefix("label_values(").removesuffix(")")
            selector, _, label = asked.rpartition(", ")
            seen.variables[f"{name} {label}"] = scene.prometheus.label_values(selector, label)
        for panel in panels(board):
            for target in panel["targets"]:
                seen.answers[target["expr"]] = scene.prometheus.query(_filled(target["expr"]))
    for target, address in scene.prometheus.targets.items():
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            seen.expositions[target] = answer.read().decode()
    seen.too_early = set(_firing(scene.prometheus))


@contextlib.contextmanager
def _noting(prometheus: Prometheus, seen: Story) -> Iterator[None]:
    """Notes every alert that fires meanwhile."""
    over = threading.Event()

    def note() -> None:
        while not over.wait(0.3):
            seen.fired |= _firing(prometheus)

    watcher = threading.Thread(target=note)
    watcher.start()
    yield
    over.set()
    watcher.join()


def _until(seconds: float, condition: Callable[[], bool]) -> None:
    """Waits until something is so, or so long: what is missing then is each test's own to say."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.3)


def _firing(prometheus: Prometheus) -> dict[Alert, dict[str, str]]:
    return {
        (alert["labels"]["alertname"], alert["labels"].get("name")): alert["annotations"]
        for alert in prometheus.alerts()
        if alert["state"] == "firing"
    }


def _fires(prometheus: Prometheus, alert: str, name: str) -> bool:
    return (alert, name) in _firing(prometheus)


def _filled(query: str) -> str:
    """A query as Grafana sends it."""
    for name, value in {"$__rate_interval": "10s", "$namespace": NAMESPACE, "$name": "little"}.items():
        query = query.replace(name, value)
    return query


def _train(folder: Path, name: str, port: int = 0, **training: Any) -> Run:
    storage = folder_storage(folder)
    given = training_job(
        storage.uri,
        tokens=200_000 * 256,
        maxEpochs=10_000,
        peakTeraflops=0.1,
        checkpoints={"everySteps": 48, "keepLast": 3},
        **training,
    )
    given["metadata"] = {"name": name, "namespace": NAMESPACE}
    return start("launch", write_job(folder, given), PRETRAIN_METRICS_PORT=str(port))


def _documents(repeated: int) -> bytes:
    """Documents to clean; those that are too short are dropped."""
    texts = [*sorted(topics.values()), "Too short."] * repeated
    return "".join(json.dumps({"text": f"{number}. {text}"}) + "\n" for number, text in enumerate(texts)).encode()


def _kill_runs() -> None:
    while STARTED:
        STARTED.pop().kill()


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def queries() -> list[Any]:
    return [
        pytest.param(target["expr"], id=f"{name}: {panel['title']} {target['refId']}")
        for name in DASHBOARDS
        for panel in panels(json.loads(text(name)))
        for target in panel["targets"]
    ]


@pytest.mark.parametrize("query", queries())
def test_every_query_of_every_panel_has_data(story: Story, query: str) -> None:
    values = [value for _, value in story.answers[query]]
    assert values, f"no data: {_filled(query)}"
    assert any(value == value for value in values), f"not a number: {_filled(query)}"


def test_variables_offer_what_there_is(story: Story) -> None:
    assert {"little", "quiet"} <= set(story.variables["job name"])
    assert set(story.variables["fleet namespace"]) == {NAMESPACE}


def test_nothing_fires_while_all_is_well(story: Story) -> None:
    assert story.too_early == set()


def alerts() -> list[Any]:
    return [pytest.param(alert, id=f"{alert[0]}: {fault}") for alert, fault in BY_ITS_FAULT.items()]


def test_every_alert_has_its_fault() -> None:
    assert {alert for alert, _ in BY_ITS_FAULT} == {rule["alert"] for group in rules()["groups"] for rule in group["rules"]}


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_fires_by_its_own_fault(story: Story, alert: Alert) -> None:
    assert alert in story.fired


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_resolves_when_its_fault_is_mended(story: Story, alert: Alert) -> None:
    assert alert in story.fired
    assert alert not in story.unresolved


def test_texts_of_alerts_are_filled_in(story: Story) -> None:
    for (alert, name), texts in story.fired.items():
        assert texts["runbook_url"] == f"docs/runbooks/{alert}.md"
        for words in (texts["summary"], texts["description"]):
            assert words
            assert not {"{{", "}}", "%!", "<error", "<no value>"} & set(words.split())
            assert "{{" not in words
        assert name is None or f"{NAMESPACE}/{name}" in texts["summary"], alert


@pytest.mark.parametrize("target", ["operator", "little", "healthy"])
def test_promtool_finds_nothing_in_what_is_served(story: Story, target: str) -> None:
    done = promtool("check", "metrics", stdin=story.expositions[target])
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr


def test_what_is_served_is_what_the_catalogues_say(story: Story) -> None:
    """All of it, with those types, help texts and labels, and nothing else."""
    served: set[str] = set()
    for target in ("operator", "little", "healthy"):
        for family in text_string_to_metric_families(story.expositions[target]):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            metric = BY_NAME[name]
            served.add(name)
            assert (family.type, family.documentation) == (metric.kind, metric.help), name
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(metric.labels), sample
    assert served == set(BY_NAME)
