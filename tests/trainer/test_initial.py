"""Continual pretraining: what a model must be to go on from, and that its weights are taken whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_stage.config import read_job
from pretrain_stage.errors import CorruptError, UserError
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.export import framing, model_config, save_weights
from pretrain_trainer.initial import NOTE, bring_initial
from pretrain_trainer.model import build_model
from pretrain_trainer.plan import Plan, make_plan
from pretrain_trainer.weights import load_initial

from tests.trainer.conftest import Site
from tests.trainer.jobs import MODELS, Spec, write_job

FAMILIES = MODELS | {"llama": {"hiddenSize": 64, "layers": 1, "heads": 2, "kvHeads": 1, "tieEmbeddings": True}}


def spec_of(site: Site, objective: str, **training: Any) -> Spec:
    whole = site.job(objective="causal-lm" if objective == "llama" else objective, **training)
    whole["spec"]["model"] = dict(FAMILIES[objective])
    return whole


def plan_of(site: Site, spec: Spec) -> Plan:
    return make_plan(read_job(write_job(site.folder, spec), TrainerSpec), site.storage, 1)


def model_folder(site: Site, objective: str, folder: Path, seed: int = 7) -> dict[str, torch.Tensor]:
    """Leaves a model of that objective's family in the folder; returns its weights by our names."""
    made = plan_of(site, spec_of(site, objective))
    torch.manual_seed(seed)
    model = build_model(made.shape.family, made.shape, made.vocab_size)
    weights, config = model.exported()
    folder.mkdir()
    save_weights(weights, folder, 100_000)
    (folder / "config.json").write_text(json.dumps(model_config(made, config)))
    content = json.loads(site.path("tokenizer/tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(framing(made, content)))
    return model.state_dict()


@pytest.mark.parametrize("objective", FAMILIES)
def test_weights_are_taken_whole(site: Site, tmp_path: Path, objective: str) -> None:
    theirs = model_folder(site, objective, tmp_path / "model")
    made = plan_of(site, spec_of(site, objective, initFrom={"uri": str(tmp_path / "model")}))
    ours = load_initial(made, tmp_path).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("objective", "model", "training", "sentence"),
    [
        (
            "llama",
            {"hiddenSize": 128, "intermediateSize": 176},
            {},
            "spec.model.hiddenSize: 128, but the model at {uri} has 64; set it to 64",
        ),
        ("llama", {"kvHeads": 2}, {}, "spec.model.kvHeads: 2, but the model at {uri} has 1; set it to 1"),
        ("llama", {"vocabSize": 512}, {}, "spec.model.vocabSize: 512, but the model at {uri} has 448; set it to 448"),
        ("causal-lm", {"layers": 2}, {}, "spec.model.layers: 2, but the model at {uri} has 1; set it to 1"),
        (
            "masked-lm",
            {"intermediateSize": 300},
            {},
            "spec.model.intermediateSize: 300, but the model at {uri} has 256; set it to 256",
        ),
        (
            "masked-lm",
            {},
            {"sequenceLength": 16},
            "spec.training.sequenceLength: 16, but the model at {uri} has 32; set it to 32",
        ),
        (
            "span-corruption",
            {"encoderLayers": 3},
            {},
            "spec.model.encoderLayers: 3, but the model at {uri} has 1; set it to 1",
        ),
        (
            "causal-lm",
            {"tieEmbeddings": True, "heads": 4},
            {},
            "spec.model.tieEmbeddings: true, but the model at {uri} has false; set it to false; "
            "spec.model.heads: 4, but the model at {uri} has 2; set it to 2",
        ),
    ],
)
def test_a_model_of_another_shape_is_refused(
    site: Site, tmp_path: Path, objective: str, model: dict[str, Any], training: dict[str, Any], sentence: str
) -> None:
    model_folder(site, objective, tmp_path / "model")
    spec = spec_of(site, objective, initFrom={"uri": str(tmp_path / "model")}, **training)
    spec["spec"]["model"] |= model
    with pytest.raises(UserError) as caught:
        plan_of(site, spec)
    assert str(caught.value) == sentence.format(uri=tmp_path / "model")


def test_a_model_of_another_family_is_refused(site: Site, tmp_path: Path) -> None:
    model_folder(site, "llama", tmp_path / "model")
    with pytest.raises(UserError, match=r"^spec.model.family: gpt2, but the model at .* has llama; set it to llama$"):
        plan_of(site, spec_of(site, "causal-lm", initFrom={"uri": str(tmp_path / "model")}))


def test_a_model_with_another_tokenizer_is_refused(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model_folder(site, "llama", folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    spec = spec_of(site, "llama", initFrom={"uri": str(folder)})
    with pytest.raises(UserError, match=r"^spec.tokenizer: .*; set tokenizer.uri to .*/model/tokenizer.json$"):
        plan_of(site, spec)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer.json; put the tokenizer there"):
        plan_of(site, spec)


def test_what_is_no_model_in_safetensors_is_refused(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    spec = spec_of(site, "llama", initFrom={"uri": str(folder)})
    with pytest.raises(UserError, match=r"^spec.training.initFrom.uri: .*: no such folder; give"):
        plan_of(site, spec)
    folder.mkdir()
    with pytest.raises(UserError, match=r"has no config.json; give"):
        plan_of(site, spec)
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no weights \(\*.safetensors\)"):
        plan_of(site, spec)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"weights as a pickle \(pytorch_model.bin\), which may run any program"):
        plan_of(site, spec)


def test_a_head_that_the_objective_needs_must_be_there(site: Site, tmp_path: Path) -> None:
    """The other way round what is not needed is left out."""
    model_folder(site, "masked-lm", tmp_path / "masked")
    model_folder(site, "masked-lm+next-sentence", tmp_path / "pairs")
    made = plan_of(site, spec_of(site, "masked-lm+next-sentence", initFrom={"uri": str(tmp_path / "masked")}))
    with pytest.raises(UserError, match=r"lacks 4 weights that training.objective needs, the first is bert.pooler.dense"):
        load_initial(made, tmp_path)
    made = plan_of(site, spec_of(site, "masked-lm", initFrom={"uri": str(tmp_path / "pairs")}))
    load_initial(made, tmp_path)


def test_the_identity_follows_from_the_files(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    spec = spec_of(site, "llama", initFrom={"uri": str(folder)})
    model_folder(site, "llama", folder)
    first = plan_of(site, spec)
    assert first.initial is not None
    assert plan_of(site, spec).stage_identity == first.stage_identity
    assert plan_of(site, spec_of(site, "llama")).stage_identity != first.stage_identity
    kept = folder.rename(tmp_path / "kept")
    assert plan_of(site, spec).stage_identity == first.stage_identity, "what was noted stays known"
    model_folder(site, "llama", folder, seed=8)
    second = plan_of(site, spec)
    assert second.stage_identity != first.stage_identity
    assert second.checkpoint_identity != first.checkpoint_identity
    shutil.rmtree(folder)
    kept.rename(folder)
    with pytest.raises(CorruptError):
        bring_initial(second.initial, second.job.spec.storage, tmp_path / "brought")  # type: ignore[arg-type]
    assert site.path(NOTE).exists()
