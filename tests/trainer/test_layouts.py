"""Going on from a checkpoint with other processes, and under another ZeRO stage: the same samples, and the same loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import Trained
from tests.trainer.jobs import SAMPLES, STEPS, samples_taken, start

pytestmark = pytest.mark.slow

LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ZeRO 2 of one process, ZeRO 1 of one": ("trained", {"deepspeed": {"zeroStage": 1}}),
    "ZeRO 2 of one process, ZeRO 1 of two": ("trained", {"deepspeed": {"zeroStage": 1}, "processesPerNode": 2}),
    "ZeRO 3 of two processes, of four": (
        "trained_by_two",
        {"deepspeed": {"zeroStage": 3}, "processesPerNode": 4, "microBatchSize": SAMPLES // 4},
    ),
}
"""Where the run began, and what it goes on with after step 32. Others are in test_training.py."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_goes_on(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    begun, settings = LAYOUTS[name]
    trained: Trained = request.getfixturevalue(begun)
    site = trained.copy(tmp_path / "site", steps=32)
    run = start("launch", site.write(**settings), "--record-samples", str(site.folder / "samples"))
    for loss in ("final_loss", "validation_loss"):
        assert run.result[loss] == pytest.approx(trained.facts[loss], rel=1e-6)
    began = next(said for said in run.of("info") if "first_step" in said)
    assert (began["first_step"], began["first_sample"]) == (33, 32 * SAMPLES)
    assert samples_taken(site.folder / "samples") == list(range(STEPS * SAMPLES))
