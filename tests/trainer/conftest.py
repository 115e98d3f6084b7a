"""Token shards and a trained model, made once for all tests of the trainer."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from pretrain_stage.storage import Storage, open_folder
from pretrain_trainer import checkpoint

from tests.trainer.jobs import STARTED, Spec, folder_storage, job, start, write_job

PEAK_TERAFLOPS = 0.05
"""That a process of the tests is said to have: nobody knows a CPU's."""


@dataclass(frozen=True)
class Site:
    """A storage folder with tokens in it, and room beside it."""

    folder: Path
    storage: Storage

    def write(self, **training: Any) -> Path:
        """The file of the small job, with those fields of spec.training."""
        return write_job(self.folder, self.job(**training))

    def job(self, **training: Any) -> Spec:
        return job(self.storage.uri, **training)

    def path(self, name: str) -> Path:
        """A file or folder in the storage."""
        return Path(self.storage.uri) / name

    def record(self) -> list[dict[str, Any]]:
        """The lines of reports/training.jsonl."""
        return [json.loads(line) for line in self.path("reports/training.jsonl").read_text().splitlines()]


@dataclass(frozen=True)
class Trained:
    """The small job, trained without interruption. Only to be read or copied."""

    site: Site
    facts: dict[str, Any]
    metrics: str
    """What Prometheus would have read soon after the first validation."""
    events: list[dict[str, Any]]

    def copy(self, folder: Path, steps: int) -> Site:
        """The same as it was when the checkpoint of `steps` had been committed and nothing after it."""
        folder.mkdir()
        shutil.copytree(self.site.storage.uri, folder / "storage")
        site = Site(folder, open_folder(folder / "storage"))
        if steps < self.facts["steps"]:
            shutil.rmtree(site.path("stages/train"))
            site.path("stages/train.json").unlink()
        for place in checkpoint.folders(site.storage):
            if place.step > steps:
                shutil.rmtree(site.path(str(place)))
        shutil.copytree(self.site.folder / "samples", folder / "samples")
        for sample_file in (folder / "samples").iterdir():
            lines = sample_file.read_text().splitlines(keepends=True)
            sample_file.write_text("".join(line for line in lines if json.loads(line)["step"] <= steps))
        return site


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Kills what a test that failed left behind."""
    yield
    while STARTED:
        STARTED.pop().kill()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder with tokenizer and tokens. Only to be copied."""
    return Path(folder_storage(tmp_path_factory.mktemp("prepared")).uri)


@pytest.fixture
def new_site(prepared: Path, tmp_path: Path) -> Callable[[str], Site]:
    """Makes storage folders with tokens in them."""

    def make(name: str) -> Site:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copytree(prepared, folder / "storage")
        return Site(folder, open_folder(folder / "storage"))

    return make


@pytest.fixture
def site(new_site: Callable[[str], Site]) -> Site:
    """A storage folder with tokens in it."""
    return new_site("site")


@pytest.fixture(scope="session")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The small job, trained to its end by one process with ZeRO 2."""
    return _train(prepared, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def trained_by_two(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The small job, trained to its end by two processes with ZeRO 3, with TensorBoard; metrics were read on the way."""
    folder = tmp_path_factory.mktemp("trained-by-two")
    settings = {"processesPerNode": 2, "deepspeed": {"zeroStage": 3}, "tensorboard": True, "peakTeraflops": PEAK_TERAFLOPS}
    return _train(prepared, folder, **settings)


def _train(prepared: Path, folder: Path, **training: Any) -> Trained:
    shutil.copytree(prepared, folder / "storage")
    site = Site(folder, open_folder(folder / "storage"))
    run = start("launch", site.write(**training), "--record-samples", str(folder / "samples"))
    address = run.until("info", metrics_port=ANY)["message"].removeprefix("metrics at ")
    run.until("validation")
    with urllib.request.urlopen(address, timeout=30) as answer:
        metrics = answer.read().decode()
    return Trained(site, run.result, metrics, run.events)
