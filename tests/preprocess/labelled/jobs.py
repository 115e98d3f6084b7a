"""Tasks of fine-tuning in the tests: jobs as plain dicts, the stage examples-<name> run in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pretrain_preprocess.labelled.stage import examples_stage
from pretrain_preprocess.metrics import Metrics
from pretrain_preprocess.task import run_tasks
from pretrain_stage.finetune import Task

from tests.preprocess.stages import Event, Spec, events, load, spec

Record = dict[str, Any]


def job(folder: Path, task: Task = "classification", **examples: Any) -> Spec:
    """A job with one task of fine-tuning, whose examples are in folder/raw unless a uri is given."""
    wanted = {"name": "mine", "task": task, "examples": {"uri": str(folder / "raw"), **examples}}
    return {**spec(folder / "storage", {"uri": "nowhere"}), "finetune": [wanted]}


def write(path: Path, records: Iterable[Record | str]) -> Path:
    """One record a line; a string is a line as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in records]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape")
    return path


def make(folder: Path, job: Spec) -> list[Event]:
    """Runs the stage; errors are raised. Returns what it said."""
    loaded = load(folder, job)
    said = io.StringIO()
    with redirect_stdout(said):
        run_tasks(loaded, examples_stage(loaded.spec, "mine"), 0, None, Metrics(loaded.metadata))
    return events(said.getvalue().splitlines())


def left(folder: Path) -> dict[str, list[Record]]:
    """The examples that the stage left, by split."""
    files = sorted((folder / "storage" / "finetune" / "mine" / "examples").iterdir())
    return {path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in files}


def reviews(number: int) -> list[Record]:
    """Different texts of two classes by turns."""
    return [{"text": f"Review number {i}.", "label": ("good", "bad")[i % 2]} for i in range(number)]
