"""Killed after a checkpoint and resumed, by one process or by two: the same examples, and the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_stage.storage import file_sha256
from safetensors.torch import load_file

from tests.trainer.finetune.runs import OUTCOME, Fine, run_all
from tests.trainer.finetune.sites import FinetuneSite, new_site, questions, reviews
from tests.trainer.jobs import samples_taken

pytestmark = pytest.mark.slow

KILLED_AT = 4
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("bert", {"method": "full"}),
    "lora": ("llama", {"method": "lora", "lora": {"rank": 4, "dropout": 0.1}}),
}
EXACT = "full"
"""Of the others, sums of two processes may round in another order."""
MODEL = "finetune/reviews/model/weights.safetensors"


def sites(folder: Path) -> dict[str, FinetuneSite]:
    made = {}
    for name, (family, section) in RUNS.items():
        generates = section.get("task") == "generation"
        examples = questions() if generates else reviews()
        made[name] = new_site(folder / name, family, examples, [] if generates else ["neg", "pos"])
    return made


def test_killed_and_resumed(tmp_path: Path) -> None:
    whole, alone, together = (sites(tmp_path / folder) for folder in ("whole", "alone", "together"))
    sections = {name: section for name, (_, section) in RUNS.items()}
    run_all(
        [
            *(Fine(site.write(**sections[name])) for name, site in whole.items()),
            *(Fine(site.write(**sections[name]), KILLED_AT) for name, site in alone.items()),
            *(Fine(site.write(**sections[name])) for name, site in alone.items()),
            *(Fine(site.write(**sections[name]), KILLED_AT) for name, site in together.items()),
        ],
        tmp_path,
    )
    run_all([Fine(site.write(**sections[name], processes=2)) for name, site in together.items()], tmp_path, processes=2)
    for name in RUNS:
        ours, resumed, by_two = (finished(made[name]) for made in (whole, alone, together))
        for other in (resumed, by_two):
            assert f"going on from step {KILLED_AT}" in " ".join(event["message"] for event in other), name
            for what in ("best_step", "steps"):
                assert other[-1][what] == ours[-1][what], (name, what)
        taken = [samples_taken(made[name].folder / "samples") for made in (whole, alone, together)]
        assert taken[0] == list(range(ours[-1]["steps"] * 8)), name
        # The next step has begun when a checkpoint is told of, and is done again.
        assert taken[0] == sorted(set(taken[1])) == sorted(set(taken[2])), name
        assert file_sha256(whole[name].path(MODEL)) == file_sha256(alone[name].path(MODEL)), name
        for what in ("final_loss", "validation_loss", "best"):
            assert resumed[-1][what] == ours[-1][what], (name, what)
            assert by_two[-1][what] == pytest.approx(ours[-1][what], rel=0 if name == EXACT else 1e-5), (name, what)
        one, two = (load_file(made[name].path(MODEL)) for made in (whole, together))
        for parameter, values in one.items():
            close = torch.allclose(values, two[parameter], rtol=0, atol=0 if name == EXACT else 1e-4)
            assert close, (name, parameter)


def finished(site: FinetuneSite) -> list[dict[str, Any]]:
    """The events of the last run there, which has not failed."""
    outcome = json.loads((site.folder / OUTCOME).read_text())
    assert "error" not in outcome, outcome["traceback"]
    events: list[dict[str, Any]] = outcome["events"]
    assert events[-1]["event"] == "result"
    return events
