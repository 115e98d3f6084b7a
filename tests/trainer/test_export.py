"""The exported folder, made without training: untied embeddings, several weight files, tokenizers with and without padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_stage.config import read_job
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.export import framing, generation_config, model_config, save_weights, tokenizer_config
from pretrain_trainer.model import build_model
from pretrain_trainer.plan import Plan, make_plan
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
)

from tests.trainer.conftest import Site
from tests.trainer.jobs import MODELS, write_job

AUTO = {
    ("llama", False): AutoModelForCausalLM,
    ("gpt2", False): AutoModelForCausalLM,
    ("bert", False): AutoModelForMaskedLM,
    ("bert", True): AutoModelForPreTraining,
    ("marian", False): AutoModelForSeq2SeqLM,
}


def plan(site: Site, **spec: dict[str, Any]) -> Plan:
    whole = site.job()
    for section, fields in spec.items():
        whole["spec"][section] |= fields
    return make_plan(read_job(write_job(site.folder, whole), TrainerSpec), site.storage, 1)


def change_facts(site: Site, **facts: Any) -> None:
    path = site.path("stages/tokenizer.json")
    manifest = json.loads(path.read_text())
    manifest["facts"] |= facts
    path.write_text(json.dumps(manifest))


def exported(made: Plan, folder: Path, shard_bytes: int = 10**9) -> tuple[Any, Any]:
    """A model with fresh weights, and what transformers makes of its export."""
    torch.manual_seed(3)
    model = build_model(made.shape.family, made.shape, made.vocab_size).eval()
    weights, config = model.exported()
    folder.mkdir()
    save_weights(weights, folder, shard_bytes)
    (folder / "config.json").write_text(json.dumps(model_config(made, config)))
    if made.shape.family != "bert":
        (folder / "generation_config.json").write_text(json.dumps(generation_config(made)))
    theirs, report = AUTO[made.shape.family, made.shape.next_sentence].from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    return model, theirs.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_bytes", [10**9, 300_000])
def test_transformers_gives_the_same_logits(site: Site, tmp_path: Path, tied: bool, shard_bytes: int) -> None:
    made = plan(site, model={"tieEmbeddings": tied, "ropeTheta": 500_000.0})
    ours, theirs = exported(made, tmp_path / "export", shard_bytes)
    files = list((tmp_path / "export").glob("*.safetensors"))
    assert (len(files) == 1) is (shard_bytes == 10**9)
    assert all(path.stat().st_size < shard_bytes + 600_000 for path in files), "but for a matrix that is larger by itself"
    with torch.no_grad():
        tokens = torch.randint(0, made.vocab_size, (2, 64))
        assert torch.equal(ours(tokens), theirs(tokens).logits)


def test_weights_of_several_files_are_all_in_the_index(site: Site, tmp_path: Path) -> None:
    ours, _ = exported(plan(site), tmp_path / "export", 300_000)
    index = json.loads((tmp_path / "export/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(ours.state_dict()) - {"lm_head.weight"}
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "export" / file, "pt") as opened:
            assert name in opened.keys()  # noqa: SIM118 - it is no mapping
    total = sum(parameter.nbytes for parameter in ours.parameters())
    assert index["metadata"]["total_size"] == total


def test_sampling_is_exported_as_the_job_says(site: Site, tmp_path: Path) -> None:
    exported(plan(site, evaluation={"temperature": 0.5, "topP": 0.9, "maxNewTokens": 7}), tmp_path / "warm", 10**9)
    config = GenerationConfig.from_pretrained(tmp_path / "warm")
    assert (config.do_sample, config.temperature, config.top_p, config.max_new_tokens) == (True, 0.5, 0.9, 7)
    exported(plan(site, evaluation={"temperature": 0}), tmp_path / "cold", 10**9)
    GenerationConfig.from_pretrained(tmp_path / "cold").save_pretrained(tmp_path / "saved")  # it refuses what it finds odd


@pytest.mark.parametrize("padding", [True, False])
def test_the_tokenizer_knows_its_special_tokens(site: Site, tmp_path: Path, padding: bool) -> None:
    if not padding:
        change_facts(site, pad_id=None)
    made = plan(site)
    content = site.path("tokenizer/tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(content)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(made, json.loads(content))))
    (tmp_path / "config.json").write_text(
        json.dumps(model_config(made, build_model("llama", made.shape, made.vocab_size).exported()[1]))
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token == ("<|pad|>" if padding else "<|endoftext|>")
    special = {token["content"] for token in json.loads(content)["added_tokens"]}
    assert set(tokenizer.all_special_tokens) == special >= {"<|endoftext|>", "<|pad|>", "<|mask|>"}
    assert tokenizer.model_max_length == 32
    text = "Assignment statements 赋值 are used to (re)bind names"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert model_config(made, {})["pad_token_id"] == tokenizer.pad_token_id
    batch = tokenizer([text, "a"], padding=True)
    assert batch["attention_mask"][1][0] == 0, "padded on the left, as generation needs"


def other(site: Site, objective: str, **model: Any) -> Plan:
    """The plan of a job of another family, the one for that objective."""
    whole = site.job(objective=objective)
    whole["spec"]["model"] = MODELS[objective] | model
    return make_plan(read_job(write_job(site.folder, whole), TrainerSpec), site.storage, 1)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("objective", MODELS)
def test_transformers_gives_the_same_logits_for_all_families(site: Site, tmp_path: Path, objective: str, tied: bool) -> None:
    made = other(site, objective, tieEmbeddings=tied)
    ours, theirs = exported(made, tmp_path / "export")
    tokens, mask = torch.randint(0, made.vocab_size, (2, 32)), torch.ones(2, 32, dtype=torch.int64)
    mask[0, 20:] = 0
    with torch.no_grad():
        if made.shape.family == "gpt2":
            assert torch.equal(ours(tokens), theirs(tokens).logits)
        elif made.shape.family == "marian":
            decoded = torch.randint(0, made.vocab_size, (2, 9))
            given = theirs(input_ids=tokens, attention_mask=mask, decoder_input_ids=decoded)
            assert torch.equal(ours(tokens, decoded, mask), given.logits)
        else:
            segments = torch.randint(0, 2, (2, 32))
            given = theirs(tokens, attention_mask=mask, token_type_ids=segments)
            answer = ours(tokens, segments, mask)
            if made.shape.next_sentence:
                assert torch.equal(answer["tokens"], given.prediction_logits)
                assert torch.equal(answer["next_sentence"], given.seq_relationship_logits)
            else:
                assert torch.equal(answer, given.logits)
    size = sum(path.stat().st_size for path in (tmp_path / "export").glob("*.safetensors"))
    again = {"marian": 2, "bert": 0}.get(made.shape.family, 0) * made.vocab_size * 64 * 4
    assert size < 4 * made.parameters + (0 if tied else again) + 10_000, "each weight is stored once where it can be"


def test_an_encoder_decoder_generates_from_where_it_was_trained_to(site: Site, tmp_path: Path) -> None:
    made = other(site, "span-corruption")
    facts = made.inputs.tokenizer_facts
    _, theirs = exported(made, tmp_path / "export")
    assert theirs.generation_config.decoder_start_token_id == facts.pad_id
    assert theirs.generation_config.eos_token_id == facts.end_of_text_id
    text = theirs.generate(torch.randint(5, made.vocab_size, (1, 9)), do_sample=False, max_new_tokens=3)
    assert text[0, 0] == facts.pad_id


@pytest.mark.parametrize("objective", MODELS)
def test_the_tokenizer_frames_a_text_as_training_did(site: Site, tmp_path: Path, objective: str) -> None:
    made = other(site, objective)
    facts = made.inputs.tokenizer_facts
    content = json.loads(site.path("tokenizer/tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(framing(made, content)))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(made, content)))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    plain = tokenizer("a text", add_special_tokens=False)["input_ids"]
    frames: dict[str, tuple[list[int | None], list[int | None]]] = {
        "gpt2": ([], []),
        "bert": ([facts.cls_id], [facts.sep_id]),
        "marian": ([], [facts.end_of_text_id]),
    }
    before, behind = frames[made.shape.family]
    assert tokenizer("a text")["input_ids"] == [*before, *plain, *behind]
    if made.shape.family == "bert":
        pair = tokenizer("a text", "a text")
        assert pair["input_ids"] == [*before, *plain, *behind, *plain, *behind]
        assert pair["token_type_ids"] == [0] * (len(plain) + 2) + [1] * (len(plain) + 1)
        assert (tokenizer.mask_token_id, tokenizer.cls_token_id) == (facts.mask_id, facts.cls_id)
    assert tokenizer.padding_side == ("left" if made.shape.family == "gpt2" else "right")
