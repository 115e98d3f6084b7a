"""From fine-tuning to an export that transformers or peft load: the same answers before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from pretrain_stage.config import read_job
from pretrain_stage.manifest import read_manifest
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.finetune.material import Material, bring_material
from pretrain_trainer.finetune.methods import with_bottlenecks
from pretrain_trainer.finetune.plan import make_finetune_plan

from tests.trainer.finetune.runs import Fine, run_all
from tests.trainer.finetune.sites import NAME, FinetuneSite, entities, new_site, questions, reviews

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LORA: dict[str, Any] = {"rank": 4, "initialRank": 6}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("bert", {"method": "full"}),
    "merged": ("bert", {"method": "lora", "lora": LORA}),
    "apart": ("llama", {"method": "lora", "lora": LORA, "merge": False, "task": "token-classification"}),
    "adapter": ("bert", {"method": "adapter", "adapterWidth": 8}),
    "generation": ("marian", {"method": "freeze", "task": "generation", "maxNewTokens": 4}),
    "scratch": ("gpt2", {"method": "full", "fromScratch": True, "precision": "bf16", "patience": 1, "learningRate": 0.5}),
}
WHOLE = ("full", "merged", "generation", "scratch")
AUTO = {
    "classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "generation": transformers.AutoModelForSeq2SeqLM,
}


@dataclass(frozen=True)
class Finished:
    site: FinetuneSite
    outcome: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        manifest = read_manifest(self.site.storage, f"finetune-{NAME}")
        assert manifest is not None
        return dict(manifest.facts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Finished]:
    folder = tmp_path_factory.mktemp("stages")
    sites = {}
    for name, (family, section) in RUNS.items():
        task = section.get("task", "classification")
        examples = {"classification": reviews, "token-classification": entities, "generation": questions}[task]()
        labels = {"classification": ["neg", "pos"], "token-classification": ["O", "B-PER", "B-LOC"], "generation": []}[task]
        sites[name] = new_site(folder / name, family, examples, labels)
    fines = [Fine(sites[name].write(**section), stages=("evaluate", "export")) for name, (_, section) in RUNS.items()]
    outcomes = run_all(fines, folder)
    for name, outcome in zip(RUNS, outcomes, strict=True):
        assert "error" not in outcome, (name, outcome["traceback"])
    return {name: Finished(sites[name], outcome) for name, outcome in zip(RUNS, outcomes, strict=True)}


@pytest.mark.parametrize("name", RUNS)
def test_the_export_answers_as_the_model_did(finished: Mapping[str, Finished], name: str, tmp_path: Path) -> None:
    site = finished[name].site
    section = RUNS[name][1]
    job = read_job(site.folder / "job.json", TrainerSpec)
    plan = make_finetune_plan(job, NAME, site.storage, 1)
    bring_material(plan, site.storage, tmp_path, ("test",))
    material = Material(plan, tmp_path, ("test",))
    manifest = read_manifest(site.storage, plan.stage)
    assert manifest is not None
    before = material.trained(site.storage, manifest)
    after = loaded(site.path(f"finetune/{NAME}/export"), site.path("export"), section).eval()
    for one in material.splits["test"].encoded[:5]:
        inputs = {argument: torch.from_numpy(row)[None] for argument, row in one.inputs.items()}
        with torch.no_grad():
            ours, theirs = before(**inputs)[material.task.head], after(**inputs).logits
        assert torch.allclose(ours, theirs, atol=1e-5), (ours - theirs).abs().max()
    if section.get("task", "classification") != "generation":
        assert list(after.config.id2label.values()) == plan.labels
    tokenizer = transformers.AutoTokenizer.from_pretrained(site.path(f"finetune/{NAME}/export"))
    example, encoded = material.splits["test"].examples[0], material.splits["test"].encoded[0]
    if "text" in example:
        theirs = tokenizer(example["text"], truncation=True, max_length=plan.section.sequence_length)["input_ids"]
        assert theirs == encoded.inputs["input_ids"].tolist(), "the exported tokenizer encodes as training did"


def loaded(export: Path, base: Path, section: Mapping[str, Any]) -> Any:
    """The export, as its users load it."""
    auto = AUTO[section.get("task", "classification")]
    if (export / "model.safetensors").exists():
        model, report = auto.from_pretrained(export, output_loading_info=True, dtype=torch.float32)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        return model
    told = json.loads((export / "base.json").read_text())
    assert told["own"]
    on_base = auto.from_pretrained(base, config=transformers.AutoConfig.from_pretrained(export), dtype=torch.float32)
    return (
        peft.PeftModel.from_pretrained(on_base, export)
        if section["method"] != "adapter"
        else with_bottlenecks(on_base, export)
    )


def test_only_what_was_trained_is_kept(finished: Mapping[str, Finished]) -> None:
    for name, one in finished.items():
        facts = one.facts
        size = one.site.path(f"finetune/{NAME}/model/weights.safetensors").stat().st_size
        assert 4 * facts["trained_parameters"] <= size < 4 * facts["trained_parameters"] + 8_000, name
        assert {path.name for path in one.site.path(f"finetune/{NAME}/checkpoints").iterdir()} == {"log"}, name
        whole = one.site.path(f"finetune/{NAME}/export/model.safetensors").exists()
        assert whole == (name in WHOLE), name
    assert finished["full"].facts["trained_parameters"] == finished["full"].facts["parameters"]
    assert finished["apart"].facts["trained_parameters"] < finished["apart"].facts["parameters"] / 3


def test_the_best_model_is_kept_and_nothing_better_ends_it(finished: Mapping[str, Finished]) -> None:
    facts = finished["scratch"].facts
    said = [event for event in finished["scratch"].outcome["events"] if "; best macro-f1" in event["message"]]
    values = [event["macro-f1"] for event in said]
    assert facts["best"] == max(values)
    assert facts["best_step"] == 4 * (1 + values.index(max(values)))
    assert facts["steps"] < facts["planned_steps"], "a learning rate of 0.5 makes nothing better"
    assert len(values) == 2, "patience is 1"


def test_the_report(finished: Mapping[str, Finished]) -> None:
    site = finished["full"].site
    report = json.loads(site.path(f"reports/finetune-{NAME}.json").read_text())
    metrics, intervals = report["scores"]["metrics"], report["scores"]["intervals"]
    assert report["scores"]["examples"] == 17
    assert intervals["accuracy"]["low"] <= metrics["accuracy"] <= intervals["accuracy"]["high"]
    assert sum(map(sum, report["scores"]["details"]["confusion"])) == 17
    right = round(17 * metrics["accuracy"])
    assert len(report["wrong"]) == 17 - right
    assert all(one["asked"] != one["said"] and one["text"] for one in report["wrong"])
    assert site.path(f"reports/finetune-{NAME}.png").read_bytes().startswith(b"\x89PNG")
    answers = json.loads(finished["generation"].site.path(f"reports/finetune-{NAME}.json").read_text())
    assert "exact-match" in answers["scores"]["metrics"]


def test_nothing_is_done_twice(finished: Mapping[str, Finished]) -> None:
    site = finished["full"].site
    (outcome,) = run_all([Fine(site.folder / "job.json", stages=("evaluate", "export"), trains=False)], site.folder)
    results = [event for event in outcome["events"] if event["event"] == "result"]
    assert [event.get("unchanged") for event in results[-2:]] == [True, True]
