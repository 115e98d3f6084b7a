"""Which folders are asked, and what is said of the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import UserError
from pretrain_stage.storage import open_storage
from pretrain_trainer.inference.answering import Settings
from pretrain_trainer.inference.folder import open_model_folder
from pretrain_trainer.inference.load import load_model, our_decoder
from transformers import BertForMaskedLM, LlamaForCausalLM

from tests.seaweedfs import SeaweedFS
from tests.trainer.inference import models


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "model"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        load_model(open_model_folder(str(folder)), Settings(), torch.device("cpu"))
    said = str(refused.value)
    assert "\n" not in said
    return said


def test_what_a_folder_is_for(llama: Path, gpt2: Path, marian: Path, classifier: Path, tagger: Path) -> None:
    found = [open_model_folder(str(folder)) for folder in (llama, gpt2, marian, classifier, tagger)]
    assert [folder.kind for folder in found] == [*["generation"] * 3, "classification", "token-classification"]
    assert [folder.encoder_decoder for folder in found] == [False, False, True, False, False]
    assert [folder.positions for folder in found] == [models.POSITIONS] * 5
    assert [folder.dimensions is not None for folder in found] == [True, *[False] * 4]


@pytest.mark.parametrize("fields", [{"attention_bias": True}, {"hidden_act": "gelu"}, {"head_dim": 32}])
def test_only_what_our_decoder_computes_goes_to_it(copy: Path, fields: dict[str, Any]) -> None:
    change(copy / "config.json", **fields)
    assert open_model_folder(str(copy)).dimensions is None


def test_there_is_no_such_folder(tmp_path: Path) -> None:
    assert "no such folder; give a Hugging Face folder" in refusal(tmp_path / "nowhere")


def test_a_jobs_storage_is_no_model_but_holds_one(copy: Path) -> None:
    storage = copy.parent / "storage"
    shutil.copytree(copy, storage / "export")
    assert f"holds no config.json; give {storage}/export" in refusal(storage)


def test_pickle_is_not_loaded(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "weights only as pickle (pytorch_model.bin)" in refusal(copy)
    (copy / "pytorch_model.bin").unlink()
    assert "holds no weights (*.safetensors)" in refusal(copy)


def test_a_model_without_its_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    assert "holds no tokenizer.json; save the tokenizer" in refusal(copy)


def test_a_tokenizer_of_more_tokens_than_the_model_knows(copy: Path) -> None:
    change(copy / "config.json", vocab_size=400)
    assert "its tokenizer has 500 tokens, but the model knows 400 (vocab_size)" in refusal(copy)


def test_a_model_that_answers_nothing(tmp_path: Path) -> None:
    models.save(tmp_path, BertForMaskedLM(models.bert_config()), framed=True)
    assert "a model BertForMaskedLM, which neither generates nor classifies" in refusal(tmp_path)


@pytest.mark.parametrize("fields", [{"num_hidden_layers": 3}, {"hidden_size": 128, "head_dim": 32}])
def test_weights_of_another_model(copy: Path, fields: dict[str, Any]) -> None:
    change(copy / "config.json", **fields)
    assert "weights and config.json are of two models" in refusal(copy)


def test_a_folder_in_object_storage_is_brought_once(
    seaweedfs: SeaweedFS, s3_uri: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    storage = open_storage(StorageSection(uri=s3_uri, endpointURL=seaweedfs.endpoint))
    for file in llama.iterdir():
        storage.upload(file, file.name)
    storage.write("optimizer.bin", b"not wanted here")
    first = open_model_folder(storage.uri, seaweedfs.endpoint)
    assert {file.name for file in first.path.iterdir()} == {file.name for file in llama.iterdir()}
    assert first.digest == open_model_folder(str(llama)).digest
    written = (first.path / "model.safetensors").stat().st_mtime_ns
    again = open_model_folder(storage.uri, seaweedfs.endpoint)
    assert (again.path, (again.path / "model.safetensors").stat().st_mtime_ns) == (first.path, written)
    storage.write("generation_config.json", b'{"eos_token_id": 5}')
    assert open_model_folder(storage.uri, seaweedfs.endpoint).digest != first.digest
    assert "no such folder" in _said(f"{storage.uri}/nothing", seaweedfs.endpoint)


def _said(uri: str, endpoint: str) -> str:
    with pytest.raises(UserError) as refused:
        open_model_folder(uri, endpoint)
    return str(refused.value)


def test_tied_embeddings_and_weights_in_several_files(tmp_path: Path) -> None:
    theirs: LlamaForCausalLM = models.llama(
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 5e5}
    )
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    models.tokenizer(framed=False).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    ours = our_decoder(open_model_folder(str(tmp_path)), torch.device("cpu"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = torch.randint(0, 500, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)
