"""What the stage evaluate measures, on models with fresh weights: whatever they answer, the figures must be theirs."""

from __future__ import annotations

import math
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from pretrain_stage.config import read_job
from pretrain_stage.storage import open_folder
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.evaluate import before, beginnings, held_out_texts, measured
from pretrain_trainer.model import build_model
from pretrain_trainer.objectives import objective_of
from pretrain_trainer.objectives.special import SpecialTokens
from pretrain_trainer.plan import Plan, make_plan
from pretrain_trainer.text import Text
from pretrain_trainer.validate import held_out
from torch.nn import functional

from tests.trainer.conftest import Site
from tests.trainer.jobs import MODELS, SEQUENCE, job, prepare, write_job
from tests.trainer.test_initial import model_folder, plan_of, spec_of

DOCUMENTS = [topics[name] for name in sorted(topics)][:40]
SOURCES = {"news": DOCUMENTS[:20], "wiki": DOCUMENTS[20:], "short": DOCUMENTS[:9]}
"""Of `short` nothing is held out."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of three sources."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "scratch").mkdir()
    prepare(open_folder(folder / "storage"), folder / "scratch", SOURCES)
    return folder


def planned(folder: Path, objective: str) -> Plan:
    storage = open_folder(folder / "storage")
    spec = job(storage.uri, objective=objective)
    if objective != "causal-lm":
        spec["spec"]["model"] = MODELS[objective]
    return make_plan(read_job(write_job(folder, spec), TrainerSpec), storage, 1)


def evaluated(folder: Path, objective: str) -> tuple[dict[str, Any], Any, list[Text]]:
    """The figures of a model with fresh weights, the model, and the texts."""
    plan = planned(folder, objective)
    torch.manual_seed(0)
    model = build_model(plan.job.spec.model.family, plan.shape, plan.vocab_size)
    asked = objective_of(plan.job.spec.training, SpecialTokens(plan.inputs.tokenizer_facts))
    texts = held_out_texts(open_folder(folder / "storage"), plan, asked, folder / "scratch")
    return measured(model, held_out(asked, texts), plan, torch.device("cpu")), model, texts


def test_each_source_is_measured_as_if_it_were_alone(folder: Path) -> None:
    found, model, texts = evaluated(folder, "causal-lm")
    assert [text.name for text in texts] == list(found["sources"]) == ["news", "wiki"]
    whole = 0.0
    for text in texts:
        of_text = found["sources"][text.name]
        loss, right = by_hand(model, text)
        assert of_text["tokens"] == len(text) - 1, "each token but the first is asked for once"
        assert of_text["loss"] == pytest.approx(loss / (len(text) - 1), rel=1e-5)
        assert of_text["heads"]["tokens"]["accuracy"] == right / (len(text) - 1)
        size = sum(len(document.encode()) for document in SOURCES[text.name][9::10])
        assert of_text["bits_per_byte"] == pytest.approx(loss / math.log(2) / size, rel=1e-5)
        whole += loss
    assert found["tokens"] == sum(len(text) - 1 for text in texts)
    assert found["loss"] == pytest.approx(whole / found["tokens"], rel=1e-5)
    assert found["bytes"] == sum(of["bytes"] for of in found["sources"].values())


@torch.no_grad()
def by_hand(model: Any, text: Text) -> tuple[float, int]:
    """Sum of losses, and right answers, window by window."""
    loss, right = 0.0, 0
    tokens = torch.from_numpy(text.tokens.read(0, len(text)))
    for start in range(0, len(text) - 1, SEQUENCE):
        window = tokens[start : start + SEQUENCE + 1]
        logits = model(window[None, :-1])[0]
        loss += functional.cross_entropy(logits, window[1:], reduction="sum").item()
        right += int((logits.argmax(-1) == window[1:]).sum())
    return loss, right


@pytest.mark.parametrize("objective", ["masked-lm", "masked-lm+next-sentence", "span-corruption"])
def test_objectives_tell_of_their_heads(folder: Path, objective: str) -> None:
    found, _, _ = evaluated(folder, objective)
    heads = {"tokens", "next_sentence"} if objective.endswith("next-sentence") else {"tokens"}
    assert found["heads"].keys() == heads
    assert found["bits_per_byte"] is None
    assert found["loss"] == pytest.approx(sum(head["loss"] for head in found["heads"].values()))
    assert found["perplexity"] == pytest.approx(math.exp(found["heads"]["tokens"]["loss"]))
    assert found["heads"]["tokens"]["loss"] == pytest.approx(math.log(448), abs=0.5), "fresh weights know nothing"
    for of_source in found["sources"].values():
        assert 0 < of_source["tokens"] < found["tokens"]
    again, _, _ = evaluated(folder, objective)
    assert again == found, "the same tokens are asked for each time"


def test_prompts_are_of_all_sources(folder: Path) -> None:
    plan = planned(folder, "causal-lm")
    prompts = beginnings(open_folder(folder / "storage"), plan, folder / "scratch")
    end = plan.inputs.tokenizer_facts.end_of_text_id
    assert len(prompts) == 4, "two documents of each source are held out"
    assert all(len(prompt) == 24 and end not in prompt for prompt in prompts)


def test_the_model_that_training_went_on_from_is_measured_on_the_same_text(site: Site, tmp_path: Path) -> None:
    weights = model_folder(site, "masked-lm", tmp_path / "model")
    plan = plan_of(site, spec_of(site, "masked-lm", initFrom={"uri": str(tmp_path / "model")}))
    asked = objective_of(plan.job.spec.training, SpecialTokens(plan.inputs.tokenizer_facts))
    data = held_out(asked, held_out_texts(site.storage, plan, asked, tmp_path))
    found = before(data, plan, torch.device("cpu"), tmp_path)
    model = build_model(plan.shape.family, plan.shape, plan.vocab_size)
    of_other_weights = measured(model, data, plan, torch.device("cpu"))
    model.load_state_dict(weights)
    assert found == {"uri": str(tmp_path / "model"), **measured(model, data, plan, torch.device("cpu"))}
    assert found["loss"] != of_other_weights["loss"]
    afresh = plan_of(site, spec_of(site, "masked-lm"))
    assert before(data, afresh, torch.device("cpu"), tmp_path) is None
