"""Killed after a checkpoint and resumed by two processes: the same examples, and the same model to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pretrain_stage.storage import file_sha256

from tests.trainer.finetune.runs import Fine, run_all
from tests.trainer.finetune.sites import FinetuneSite, entities, new_site, questions, reviews
from tests.trainer.jobs import samples_taken

pytestmark = pytest.mark.slow

KILLED_AT = 4
GENERATION: dict[str, Any] = {"task": "generation", "metric": "token-f1", "maxNewTokens": 4}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("bert", {"method": "full"}),
    "lora": ("llama", {"method": "lora", "lora": {"rank": 4, "dropout": 0.1}}),
    "adalora": ("bert", {"method": "adalora", "lora": {"rank": 2, "initialRank": 4}, "epochs": 4}),
    "prefix": ("gpt2", {"method": "prefix", "prefixTokens": 4, "zeroStage": 0}),
    "adapter": ("bert", {"method": "adapter", "zeroStage": 1, "task": "token-classification"}),
    "freeze": ("marian", {"method": "freeze", **GENERATION}),
    "sliced": ("llama", {"method": "full", "zeroStage": 3, **GENERATION}),
}


def site(folder: Path, name: str) -> tuple[FinetuneSite, dict[str, Any]]:
    family, section = RUNS[name]
    task = section.get("task", "classification")
    examples = {"classification": reviews, "token-classification": entities, "generation": questions}[task]()
    labels = {"classification": ["neg", "pos"], "token-classification": ["O", "B-PER", "B-LOC"], "generation": []}[task]
    return new_site(folder / name, family, examples, labels), section


def test_killed_and_resumed_by_two_processes(tmp_path: Path) -> None:
    whole = {name: site(tmp_path / "whole", name) for name in RUNS}
    cut = {name: site(tmp_path / "cut", name) for name in RUNS}
    outcomes = run_all(
        [Fine(made.write(**section)) for made, section in whole.values()]
        + [Fine(made.write(**section), KILLED_AT) for made, section in cut.values()],
        tmp_path,
    )
    assert [outcome.get("error") for outcome in outcomes] == [None] * 2 * len(RUNS)
    assert all(outcome["killed"] for outcome in outcomes[len(RUNS) :])
    resumed = run_all([Fine(made.write(**section, processes=2)) for made, section in cut.values()], tmp_path, processes=2)
    for name, before, after in zip(RUNS, outcomes, resumed, strict=False):
        assert "error" not in after, (name, after["traceback"])
        said = " ".join(event["message"] for event in after["events"])
        assert f"going on from step {KILLED_AT}" in said, name
        ours, theirs = after["events"][-1], before["events"][-1]
        for measure in ("final_loss", "validation_loss", "best", "best_step", "steps"):
            assert ours[measure] == theirs[measure], (name, measure)
        taken = [samples_taken(made[name][0].folder / "samples") for made in (whole, cut)]
        assert taken[0] == taken[1] == list(range(theirs["steps"] * 8)), name
        models = [made[name][0].path("finetune/reviews/model/weights.safetensors") for made in (whole, cut)]
        assert file_sha256(models[0]) == file_sha256(models[1]), name
