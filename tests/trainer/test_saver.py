"""Checkpoints that are made while training goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_stage.storage import open_folder

from tests.trainer.conftest import Site
from tests.trainer.jobs import SAMPLES, SEQUENCE, write_job
from tests.trainer.saver_probe import SAVED, STEPS

ZERO_0, ZERO_3 = {"deepspeed": {"zeroStage": 0}}, {"deepspeed": {"zeroStage": 3}}
BF16 = {"precision": "bf16"}
CASES: dict[str, dict[str, Any]] = {
    "fp32": ZERO_0,
    "bf16": ZERO_0 | BF16,
    "fp32 ZeRO 1": {"deepspeed": {"zeroStage": 1}},
    "bf16 ZeRO 2": BF16,
    "fp32 ZeRO 3": ZERO_3,
    "bf16 ZeRO 3": ZERO_3 | BF16,
    "muon": ZERO_0 | {"optimizer": {"name": "muon", "learningRate": 3e-3}},
}
"""Fields of spec.training: each is another way of DeepSpeed's to keep its state."""


@pytest.fixture(scope="module")
def probed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """What the probe says of each case, on two processes; and the folder with the cases' folders."""
    folder = tmp_path_factory.mktemp("saver")
    files = []
    for number, (name, training) in enumerate(CASES.items()):
        own = folder / f"case-{number}"
        own.mkdir()
        shutil.copytree(prepared, own / "storage")
        job = Site(own, open_folder(own / "storage")).job(**{"tokens": STEPS * SAMPLES * SEQUENCE, **training})
        files.append(write_job(own, job).rename(own / f"{name}.json"))
    (folder / "scratch").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("saver_probe.py")), *map(str, files)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "scratch")},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    lines = [line.removeprefix("SAID ") for line in done.stdout.splitlines() if line.startswith("SAID ")]
    return folder, {line[: line.index(" {")]: json.loads(line[line.index("{") :]) for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_state_of_its_step_is_saved_while_the_next_is_computed(
    probed: tuple[Path, dict[str, dict[str, Any]]], name: str
) -> None:
    """File by file what DeepSpeed saves itself; and a run that goes on from it computes the same, to the last bit."""
    folder, said = probed[0] / f"case-{list(CASES).index(name)}", probed[1][name]
    theirs = sorted((folder / f"{name}-deepspeed" / "files").glob("*.pt"))
    (ours,) = (folder / "storage" / "checkpoints").glob(f"step-{SAVED:08d}-*")
    assert theirs
    for file in theirs:
        left, right = (torch.load(path, weights_only=False) for path in (ours / file.name, file))
        assert differences(left, right) == []
        assert abs((ours / file.name).stat().st_size - file.stat().st_size) < 20_000, "no storage is written twice"
    assert said["resumed"] == said["losses"][SAVED:]
    assert said["held"], "the update of the next step had come before the copy was made"


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Where two nested states differ. Tensors must agree in every bit, and in their type."""
    if type(left) is not type(right):
        return [f"{where}: {type(left)}, {type(right)}"]
    if isinstance(left, torch.Tensor):
        same = (left.dtype, left.shape, left.requires_grad) == (right.dtype, right.shape, right.requires_grad)
        return [] if same and torch.equal(left, right) else [where]
    if isinstance(left, dict):
        if list(left) != list(right):
            return [f"{where}: {list(left)}, {list(right)}"]
        return [found for key in left for found in differences(left[key], right[key], f"{where}.{key}")]
    if isinstance(left, (list, tuple)):
        if len(left) != len(right):
            return [f"{where}: {len(left)}, {len(right)}"]
        pairs = enumerate(zip(left, right, strict=True))
        return [found for number, (ours, theirs) in pairs for found in differences(ours, theirs, f"{where}[{number}]")]
    if hasattr(left, "__dict__") and not isinstance(left, type):
        return differences(vars(left), vars(right), where)
    return [] if left == right else [where]
