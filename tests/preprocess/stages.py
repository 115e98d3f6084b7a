"""Running stages in the tests: jobs as plain dicts, all tasks of a stage one after another, what they said as events."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pretrain_preprocess.config import PreprocessSpec
from pretrain_preprocess.documents import read_shard
from pretrain_preprocess.metrics import Metrics
from pretrain_preprocess.stages import STAGES
from pretrain_preprocess.task import run_tasks
from pretrain_stage.config import Job, read_job
from pretrain_stage.events import read_event
from pretrain_stage.manifest import Manifest, read_manifest
from pretrain_stage.storage import open_storage

Spec = dict[str, Any]
Event = dict[str, Any]


def spec(storage: Path | str, *sources: Spec, **corpus: Any) -> Spec:
    """A job's spec: no cleaning and no deduplication unless the test asks for it."""
    named = [{"name": f"source-{number}", **source} for number, source in enumerate(sources)]
    return {
        "storage": {"uri": str(storage)},
        "corpus": {"sources": named, "clean": [], "deduplicate": {"method": "none"}, **corpus},
        "tokenizer": {"train": {"vocabSize": 400}},
    }


def write_job(folder: Path, spec: Spec, name: str = "job.json") -> Path:
    """The job file of a spec."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({"metadata": {"name": "test"}, "spec": spec}, ensure_ascii=False))
    return path


def load(folder: Path, spec: Spec) -> Job[PreprocessSpec]:
    return read_job(write_job(folder, spec), PreprocessSpec)


def run(folder: Path, spec: Spec, *stages: str, order: Sequence[int] | None = None) -> list[Event]:
    """Runs all tasks of the stages, in this process, and returns what they said. Errors are raised, not said."""
    job = load(folder, spec)
    said = io.StringIO()
    with redirect_stdout(said):
        for name in stages:
            tasks = range(STAGES[name].tasks(job.spec))
            for index in order or tasks:
                run_tasks(job, STAGES[name], index, None, Metrics(job.metadata))
    return events(said.getvalue().splitlines())


def program(job: Path, stage: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One process of the stage program, as the engines start it."""
    import os

    return subprocess.run(
        [sys.executable, "-m", "pretrain_preprocess", stage, "--job", str(job), *options],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def events(lines: Iterable[str]) -> list[Event]:
    return [event for line in lines if (event := read_event(line)) is not None]


def manifest(spec: Spec, stage: str) -> Manifest:
    """The manifest that a finished stage left."""
    from pretrain_stage.config import Storage

    found = read_manifest(open_storage(Storage.model_validate(spec["storage"])), stage)
    assert found is not None, f"{stage} left no manifest"
    return found


def documents(spec: Spec, stage: str) -> list[tuple[str, str]]:
    """Id and text of the documents that a stage kept, in a folder."""
    shards = sorted((Path(spec["storage"]["uri"]) / "corpus" / stage).glob("*.zst"))
    return [(document.id, document.text) for shard in shards for document in read_shard(shard)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but manifests: those tell seconds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "stages" not in path.relative_to(folder).parts
    }


def write_jsonl(path: Path, texts: Iterable[str]) -> Path:
    """One document a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path
