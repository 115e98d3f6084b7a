"""The section of the page about fine-tuned models: which belong to it, and what it says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pretrain_stage.manifest import File, Manifest, Part, close, leave_part, read_manifest
from pretrain_stage.storage import Storage, open_folder
from pretrain_trainer.lineage import lineage
from pretrain_trainer.report import _add_tuned, _tuned
from pretrain_trainer.tuned import Tuned, tuned_models

DONE: dict[str, Any] = {
    "trained_parameters": 75_008,
    "parameters": 1_385_856,
    "examples": {"train": 2000, "validation": 10, "test": 1701},
    "steps": 42,
    "best_step": 21,
    "metric": "macro-f1",
}
SCORES: dict[str, Any] = {
    "examples": 1701,
    "metrics": {"accuracy": 0.7325, "loss": 0.8},
    "intervals": {"accuracy": {"low": 0.7095, "high": 0.7537}},
}


def report(**fields: Any) -> dict[str, Any]:
    base = {"name": "s3://models/x", "digest": "d1", "fromScratch": False}
    return {
        "name": "reviews", "task": "classification", "method": "lora", "base": base, "finetuning": DONE, "scores": SCORES,
    } | fields  # fmt: skip


def test_a_metric_lies_where_its_value_is() -> None:
    (model,) = tuned_models([Tuned(report(), b"png")], None)
    (score,) = model["scores"]
    assert (score["name"], score["value"], score["interval"]) == ("accuracy", "73.2 %", "71.0 to 75.4")
    assert (score["at"], score["low"], score["wide"]) == pytest.approx((73.25, 70.95, 4.42))
    assert (model["examples"], model["picture"]) == ("1,701", "cG5n")


def test_bleu_is_of_a_hundred_already() -> None:
    scores = SCORES | {"metrics": {"bleu": 12.5}, "intervals": {"bleu": {"low": 10.0, "high": 15.0}}}
    (score,) = tuned_models([Tuned(report(scores=scores), None)], None)[0]["scores"]
    assert (score["value"], score["at"], score["interval"]) == ("12.5", 12.5, "10.0 to 15.0")


@pytest.mark.parametrize(
    ("own", "scratch", "said"),
    [("d1", False, "from this model"), ("d2", False, "from s3://models/x"), ("d1", True, "from scratch")],
)
def test_what_a_model_was_made_from(own: str, scratch: bool, said: str) -> None:
    base = {"name": "s3://models/x", "digest": "d1", "fromScratch": scratch}
    (model,) = tuned_models([Tuned(report(base=base), None)], own)
    assert model["about"] == (
        f"classification, lora, {said}, 75k of 1.39M parameters trained, 2,000 examples, best of 42 steps after 21 by macro-f1"
    )


def test_only_models_made_from_this_export_belong_to_the_page(tmp_path: Path) -> None:
    """One that was tuned before the model was exported anew, and one that was not evaluated, do not."""
    storage = open_folder(tmp_path)
    train = leave(storage, "train", {})
    export = leave(storage, "export", {"train": train.digest})
    for name, base in (("new", export.digest), ("old", "digest of another export")):
        tuned = leave(storage, f"finetune-{name}", {"export": base})
        leave(storage, f"evaluate-{name}", {"export": base, f"finetune-{name}": tuned.digest})
    chain = lineage(storage, export)
    found = [_add_tuned(chain, storage, name) for name in ("new", "old", "never")]
    assert found == [read_manifest(storage, "evaluate-new"), None, None]
    assert [manifest.stage for manifest in chain] == ["train", "export", "finetune-new", "evaluate-new"]


def test_a_picture_of_an_earlier_task_is_not_shown(tmp_path: Path) -> None:
    """The task of this name gave classes once, and left a confusion matrix; now it gives texts."""
    storage = open_folder(tmp_path)
    storage.write("reports/finetune-x.json", b"{}")
    storage.write("reports/finetune-x.png", b"png")
    texts = File(path="reports/finetune-x.json", size=2, sha256="")
    for outputs, picture in (((texts,), None), ((texts, File(path="reports/finetune-x.png", size=3, sha256="")), b"png")):
        evaluated = leave(storage, "evaluate-x", {}).model_copy(update={"outputs": outputs})
        assert _tuned(storage, evaluated) == Tuned({}, picture)


def leave(storage: Storage, stage: str, inputs: dict[str, str]) -> Manifest:
    """The manifest of a finished stage."""
    leave_part(storage, Part(stage=stage, index=0, identity=stage, outputs=(), facts={}))
    close(storage, stage, stage, {}, inputs, tasks=1)
    found = read_manifest(storage, stage)
    assert found is not None
    return found
