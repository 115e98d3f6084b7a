"""The whole path on real text, as a user runs it: `pretrain run` in a process of its own."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEMO_CORPUS = ROOT / "build" / "demo" / "raw"
STAGES = (
    "preflight",
    "clean",
    "minhash-signatures",
    "minhash-buckets",
    "minhash-cluster",
    "minhash-filter",
    "tokenizer",
    "tokenize",
    "vocabulary",
    "train",
    "evaluate",
    "export",
    "report",
)


def lay_out_text(folder: Path) -> None:
    """A slice of the demo's corpus: Chinese articles in two compressed files, English news in one."""
    subprocess.run([sys.executable, ROOT / "examples" / "demo" / "corpus.py", DEMO_CORPUS], check=True)
    folder.mkdir(parents=True)
    with gzip.open(DEMO_CORPUS / "peoples-daily.jsonl.gz", "rt", encoding="utf-8") as articles:
        for name in ("zh-0.jsonl.gz", "zh-1.jsonl.gz"):
            with gzip.open(folder / name, "wt", encoding="utf-8") as part:
                part.writelines(islice(articles, 150))
    news = (DEMO_CORPUS / "news.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "en.txt").write_text("".join(news[:100]), encoding="utf-8")


def job(folder: Path, text: Path) -> Path:
    """A job small enough to be run many times, with all stages, two tasks and two training processes."""
    manifest: dict[str, Any] = {
        "apiVersion": "pretrain.dev/v1alpha1",
        "kind": "PretrainJob",
        "metadata": {"name": "whole"},
        "spec": {
            "storage": {"uri": str(folder / "storage")},
            "corpus": {
                "sources": [
                    {"name": "zh", "uri": str(text / "zh-*.jsonl.gz"), "idField": "id"},
                    {"name": "en", "uri": str(text / "en.txt"), "format": "text", "documents": "line"},
                ],
                "deduplicate": {"method": "minhash", "minhash": {"buckets": 4, "hashesPerBucket": 8}},
                "heldOutFraction": 0.05,
                "tasks": 2,
                "parallelism": 2,
            },
            "tokenizer": {"train": {"algorithm": "bpe", "vocabSize": 1000}},
            "model": {"hiddenSize": 64, "layers": 2, "heads": 4, "kvHeads": 2, "tieEmbeddings": True},
            "training": {
                "tokens": 72 * 1024,
                "sequenceLength": 64,
                "globalBatchTokens": 1024,
                "optimizer": {"learningRate": 3e-3},
                "schedule": {"kind": "cosine", "warmupSteps": 2},
                "precision": "fp32",
                "processesPerNode": 2,
                "deepspeed": {"zeroStage": 1},
                "checkpoints": {"everySteps": 4, "keepLast": 2},
                "validation": {"everySteps": 8, "maxSequences": 8},
            },
            "evaluation": {"prompts": ["中国"], "maxNewTokens": 8},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(manifest, allow_unicode=True), encoding="utf-8")
    return path


def copy_tokens(storage: Path, target: Path) -> None:
    """A storage folder in which everything up to training is finished, from one in which everything is."""
    shutil.copytree(storage, target)
    for folder in ("checkpoints", "export", "reports"):
        shutil.rmtree(target / folder)
    for stage in STAGES[STAGES.index("train") :]:
        (target / "stages" / f"{stage}.json").unlink()
        shutil.rmtree(target / "stages" / stage)


@dataclass(frozen=True)
class Result:
    """What a finished run left, without times."""

    lineage: dict[str, str]
    """The identity of each stage that leaves a manifest; it follows from the bytes that all stages before it made."""
    model: str
    """SHA-256 of the exported weights."""
    losses: dict[str, Any]
    """Facts of the stage train."""


def result(storage: Path) -> Result:
    """Reads what the run left under its storage folder."""
    manifests = {path.stem: json.loads(path.read_text()) for path in sorted((storage / "stages").glob("*.json"))}
    return Result(
        lineage={stage: manifest["identity"] for stage, manifest in manifests.items()},
        model=hashlib.sha256((storage / "export" / "model.safetensors").read_bytes()).hexdigest(),
        losses={
            name: fact for name, fact in manifests["train"]["facts"].items() if name != "checkpoint"
        },  # names its attempt
    )
