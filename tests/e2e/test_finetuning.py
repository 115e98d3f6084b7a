"""One job for the whole course: a model from raw text, fine-tuned twice for real reviews, measured, exported and asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pretrain_stage.manifest import read_manifest
from pretrain_stage.storage import Storage
from transformers import AutoModelForSequenceClassification

from tests.e2e.jobs import STAGES, tiny_job
from tests.e2e.kubectl import Kubectl, new_namespace
from tests.e2e.s3 import BUCKET, ClusterS3
from tests.e2e.served import served
from tests.e2e.waiting import Job, succeeded, until
from tests.operator.jobs import changed
from tests.run.whole import ROOT

pytestmark = pytest.mark.e2e

NAME = "course"
LABELLED = ROOT / "build" / "course" / "labelled"
EXAMPLES, ASKED = 240, 30
"""Reviews to learn from, half of each class; and reviews that are asked about."""


@dataclass(frozen=True)
class Course:
    """The job, once it has succeeded."""

    kubectl: Kubectl
    job: Job
    storage: Storage
    asked: Sequence[Mapping[str, Any]]
    deleted: str
    """Uid of the pod that was deleted while it fine-tuned."""


def tasks_of(folder: str) -> dict[str, Any]:
    """The sections `finetune` and `predict` of a job whose reviews lie in that folder, or below that URI."""
    mood = {
        "task": "classification",
        "examples": {"uri": f"{folder}/reviews.jsonl", "validationFraction": 0.2, "testFraction": 0.2},
        "sequenceLength": 64,
        "batchSize": 16,
        "epochs": 2,
        "learningRate": 1e-3,
        "precision": "fp32",
        "zeroStage": 1,
    }
    return {
        "finetune": [
            {"name": "full", "method": "full", "processes": 2, **mood},
            {"name": "lora", "method": "lora", "lora": {"rank": 4}, **mood},
        ],
        "predict": [{"name": "mood", "task": "lora", "uri": f"{folder}/asked.jsonl", "tasks": 2, "parallelism": 2}],
    }


def lay_out_reviews(folder: Path) -> list[dict[str, Any]]:
    """Writes reviews.jsonl and asked.jsonl, of different reviews. Returns what is asked."""
    subprocess.run([sys.executable, ROOT / "examples" / "course" / "labelled.py", LABELLED], check=True)
    kinds: dict[str, dict[str, None]] = {}
    with (LABELLED / "reviews.jsonl").open(encoding="utf-8") as lines:
        for review in map(json.loads, lines):
            kinds.setdefault(review["label"], {})[review["text"]] = None  # each text once
    share = (EXAMPLES + ASKED) // len(kinds)
    taken = {label: list(texts)[:share] for label, texts in kinds.items()}
    reviews = [
        {"text": text, "label": label}
        for texts in zip(*taken.values(), strict=True)
        for label, text in zip(taken, texts, strict=True)
    ]
    asked = [{"text": review["text"]} for review in reviews[EXAMPLES:]]
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("reviews", reviews[:EXAMPLES]), ("asked", asked)):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return asked


@pytest.fixture(scope="module")
def course(s3: ClusterS3, crd: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    """The job's run; while it is fine-tuned, its pod is deleted once."""
    folder = tmp_path_factory.mktemp("reviews")
    asked = lay_out_reviews(folder)
    with new_namespace("course") as kubectl:
        kubectl("apply", "-f", "-", stdin=s3.secret())
        reviews = s3.storage(f"{kubectl.namespace}/reviews")
        for path in folder.iterdir():
            reviews.upload(path, path.name)
        tasks = tasks_of(f"s3://{BUCKET}/{kubectl.namespace}/reviews")
        kubectl("apply", "-f", "-", stdin=tiny_job(s3, kubectl.namespace, NAME, tasks))
        with served(kubectl, tmp_path_factory.mktemp("course")):
            until(kubectl, NAME, lambda job: bool(_running(kubectl)))  # its status may be told when it is over
            (pod,) = _running(kubectl)
            kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
            job = until(kubectl, NAME, succeeded)
            storage = s3.storage(f"{kubectl.namespace}/{NAME}")
            yield Course(kubectl, job, storage, asked, deleted=pod["metadata"]["uid"])


def test_every_stage_of_the_course_is_run_in_its_order(course: Course) -> None:
    of_tasks = [f"{what}-{name}" for name in ("full", "lora") for what in ("finetune", "evaluate", "export")]
    expected = ["preflight", "examples-full", "examples-lora", *STAGES[1:-1], *of_tasks, "predict-mood", "report"]
    assert [item["name"] for item in course.job["status"]["stages"]] == expected
    for item in course.job["status"]["stages"]:
        assert (item["state"], item["succeeded"], item["failed"]) == ("Succeeded", item["tasks"], 0), item
    assert course.job["status"]["restartCount"] == 0, "restarts are of training from text"
    for name in expected[1:]:
        assert read_manifest(course.storage, name) is not None, name


def test_a_pod_that_is_deleted_while_it_fine_tunes_uses_up_no_retry(course: Course) -> None:
    (made,) = course.kubectl.get("jobs", "-l", "pretrain.dev/stage=finetune-full")["items"]
    (pod,) = _pods(course.kubectl, "finetune-full")
    assert pod["metadata"]["uid"] != course.deleted
    assert made["status"]["succeeded"] == 1
    assert made["status"].get("failed", 0) == 0
    assert made["spec"]["backoffLimitPerIndex"] == 3


def test_the_figures_of_each_task_are_reported(course: Course) -> None:
    for name in ("full", "lora"):
        report = json.loads(course.storage.read(f"reports/finetune-{name}.json") or b"")
        metrics = report["scores"]["metrics"]
        assert (report["method"], report["base"]["fromScratch"]) == (name, False)
        assert 0 <= metrics["macro-f1"] <= 1
        assert 0.2 < metrics["accuracy"] <= 1, "two classes of the same size"
        assert report["base"]["digest"] == read_manifest(course.storage, "export").digest  # type: ignore[union-attr]


def test_what_is_exported_is_a_model_of_transformers(course: Course, tmp_path: Path) -> None:
    for name in ("full", "lora"):  # whose updates are merged
        for entry in course.storage.entries(f"finetune/{name}/export"):
            course.storage.download(entry.path, tmp_path / name / Path(entry.path).name)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / name, use_safetensors=True)
        assert set(model.config.label2id) == {"negative", "positive"}


def test_every_record_is_answered_in_its_place(course: Course) -> None:
    shards = [course.storage.read(f"predict/mood/{index:05}.jsonl") or b"" for index in range(2)]
    answers = [json.loads(line) for shard in shards for line in shard.decode().splitlines()]
    assert all(shards)
    assert len(answers) == len(course.asked) == ASKED
    assert {answer["label"] for answer in answers} <= {"negative", "positive"}


def test_a_task_that_is_added_later_costs_that_task_alone(course: Course, s3: ClusterS3, tmp_path: Path) -> None:
    """A finished job stays as it is, so another PretrainJob over the same storage does it: it finds the rest finished."""
    kept = {item["name"]: read_manifest(course.storage, item["name"]) for item in course.job["status"]["stages"][1:]}
    kubectl = course.kubectl
    manifest = {name: course.job[name] for name in ("apiVersion", "kind", "spec")}
    added = manifest["spec"]["finetune"][1] | {"name": "frozen", "method": "freeze"}
    more = {"finetune": [*manifest["spec"]["finetune"], added], "predict": []}
    kubectl(
        "apply", "-f", "-", stdin=changed(manifest, more) | {"metadata": {"name": "more", "namespace": kubectl.namespace}}
    )
    with served(kubectl, tmp_path):
        until(kubectl, "more", succeeded)
    for name, before in kept.items():
        if name not in ("report", "predict-mood"):
            assert read_manifest(course.storage, name) == before, f"{name} was made again"
    assert json.loads(course.storage.read("reports/finetune-frozen.json") or b"")["method"] == "freeze"


def _running(kubectl: Kubectl) -> list[dict[str, Any]]:
    return [pod for pod in _pods(kubectl, "finetune-full") if pod["status"].get("phase") == "Running"]


def _pods(kubectl: Kubectl, stage_name: str) -> list[dict[str, Any]]:
    return list(kubectl.get("pods", "-l", f"pretrain.dev/stage={stage_name}")["items"])
