"""What models answer: as transformers does, each as if it were alone, whatever its architecture."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from pretrain_stage.errors import UserError
from pretrain_trainer.finetune.methods import put_adapters, save_bottlenecks
from pretrain_trainer.generate import Sampling
from pretrain_trainer.inference.answering import Answer, AnsweringModel, BadRecord, Settings
from pretrain_trainer.inference.folder import open_model_folder
from pretrain_trainer.inference.generation import WritingModel
from pretrain_trainer.inference.load import load_model

from tests.trainer.inference import models

PROMPTS = ["if x is None:", "a", models.CHINESE, "The following identifiers are used as reserved words", "else"]
TEXTS = ["a class", models.CHINESE, "b", "Assignment statements are used to (re)bind names to values"]


def loaded(folder: Path, **settings: Any) -> AnsweringModel:
    return load_model(open_model_folder(str(folder)), Settings(**settings), torch.device("cpu"))


def writing(folder: Path, **settings: Any) -> WritingModel:
    model = loaded(folder, **settings)
    assert isinstance(model, WritingModel)
    return model


def asked(model: AnsweringModel, *records: Mapping[str, Any]) -> list[Answer]:
    return model.answer([model.question(record, seed=number) for number, record in enumerate(records)])


def prompts(*texts: str) -> list[Mapping[str, Any]]:
    return [{"prompt": text} for text in texts]


@pytest.mark.parametrize("name", ["llama", "gpt2", "marian"])
def test_answers_are_those_of_transformers(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    classes = transformers.AutoModelForSeq2SeqLM if name == "marian" else transformers.AutoModelForCausalLM
    theirs = classes.from_pretrained(folder, use_safetensors=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    # Marian's forced end is of the model, and ends the answer at its limit here as there.
    for text, answer in zip(PROMPTS, asked(loaded(folder, max_new_tokens=24), *prompts(*PROMPTS)), strict=True):
        given = tokenizer(text, return_tensors="pt")
        made = theirs.generate(**given, max_new_tokens=24, do_sample=False, num_beams=1)[0]
        new = made[1:] if name == "marian" else made[given["input_ids"].size(1) :]
        assert answer["answer"] == tokenizer.decode(new, skip_special_tokens=True)
        assert answer["prompt_tokens"] == given["input_ids"].size(1)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, 50, 0.9)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "marian"])
def test_a_batch_answers_as_each_alone(name: str, sampling: Sampling, request: pytest.FixtureRequest) -> None:
    model = writing(request.getfixturevalue(name), max_new_tokens=16, sampling=sampling)
    questions = [model.prompt(text, seed) for seed, text in enumerate(PROMPTS)]
    together = model.answer(questions)
    assert together == [model.answer([question])[0] for question in questions]
    assert len({answer["answer"] for answer in together}) > 2, "answers that do not depend on the prompt show nothing"
    assert model.cost(questions[0]) == len(questions[0].tokens) + 16


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_heard_is_the_answer(name: str, request: pytest.FixtureRequest) -> None:
    model = writing(request.getfixturevalue(name), max_new_tokens=16)
    heard: dict[int, str] = {0: "", 1: ""}

    def hear(row: int, text: str) -> None:
        heard[row] += text

    answers = model.answer([model.prompt(text, 0) for text in PROMPTS[:2]], hear)
    assert [heard[0], heard[1]] == [answer["answer"] for answer in answers]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_answer_ends_at_a_stop_at_its_end_and_at_the_limit(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    (free,) = asked(writing(folder, max_new_tokens=24), {"prompt": "if x"})
    assert (free["finish_reason"], free["new_tokens"]) == ("length", 24)
    stop = free["answer"][10:13]
    (stopped,) = asked(writing(folder, max_new_tokens=24, stop=(stop,)), {"prompt": "if x"})
    assert stopped["answer"] == free["answer"][: free["answer"].index(stop)]
    assert (stopped["finish_reason"], stopped["new_tokens"] < 24) == ("stop", True)
    model = writing(folder, max_new_tokens=24)
    tokens = model.loop(
        [model.prompt("if x", 0).tokens], [24], Sampling(), (), [torch.Generator()], lambda row, token: False
    )[0]
    (ended,) = asked(dataclasses.replace(model, ends=frozenset([tokens[7]])), {"prompt": "if x"})
    assert (ended["finish_reason"], ended["new_tokens"]) == ("stop", tokens.index(tokens[7]))


def test_prompt_and_answer_stay_within_the_positions(llama: Path) -> None:
    model = writing(llama, max_new_tokens=1000)
    question = model.prompt("a b" * 60, 0)
    (answer,) = model.answer([question])
    assert len(question.tokens) + answer["new_tokens"] == models.POSITIONS
    with pytest.raises(BadRecord, match="but the model has 160 positions; shorten the text"):
        model.prompt("a b" * 100, 0)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "no field prompt (fields: none)"),
        ({"text": "a", "id": 4}, "no field prompt (fields: id, text)"),
        ({"prompt": 5}, "prompt is no text but int"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages, but the model has no chat template"),
    ],
)
def test_records_that_are_no_prompts(llama: Path, record: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecord) as bad:
        loaded(llama).question(record, 0)
    assert message in str(bad.value)


def test_an_empty_prompt_begins_a_text(llama: Path) -> None:
    assert writing(llama).prompt("", 0).tokens == (0,)


def test_messages_go_through_the_template(chatting: Path) -> None:
    model = writing(chatting, max_new_tokens=5)
    talk = [{"role": "user", "content": "hello"}]
    assert model.conversation(talk, 3) == model.prompt("<|user|>hello\n<|assistant|>", 3)
    for wrong in ([], "hello", [{"role": "user"}], [{"content": "x"}], {"role": "user", "content": "x"}):
        with pytest.raises(BadRecord, match="messages is no list of objects with role and content"):
            model.conversation(wrong, 0)


def test_texts_are_labelled_as_transformers_does(classifier: Path) -> None:
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    answers = asked(loaded(classifier), *({"text": text} for text in TEXTS))
    for text, answer in zip(TEXTS, answers, strict=True):
        with torch.no_grad():
            expected = torch.softmax(theirs(**tokenizer(text, return_tensors="pt")).logits[0], -1)
        assert list(answer["scores"]) == list(models.LABELS)
        assert list(answer["scores"].values()) == pytest.approx(expected.tolist(), abs=2e-6)
        assert answer["label"] == models.LABELS[int(expected.argmax())]
        assert answer["score"] == max(answer["scores"].values())
        assert "truncated" not in answer
    assert len({answer["score"] for answer in answers}) == len(TEXTS)


def test_a_text_that_is_too_long_is_cut_and_says_so(classifier: Path) -> None:
    model = loaded(classifier)
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    fits = "好" * ((models.POSITIONS - 2) // 3) + "a" * ((models.POSITIONS - 2) % 3)
    assert len(tokenizer(fits)["input_ids"]) == models.POSITIONS
    whole, cut = asked(model, {"text": fits}, {"text": fits + "好"})
    assert ("truncated" in whole, cut["truncated"]) == (False, True)


def test_words_are_tagged_by_their_first_token(tagger: Path) -> None:
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tagger).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tagger)
    records = [["Zhang", "San", "reads"], ["今天", "天气"], ["x"] * 30]
    answers = asked(loaded(tagger), *({"words": words} for words in records))
    for words, answer in zip(records, answers, strict=True):
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            best = theirs(**encoded).logits[0].argmax(-1).tolist()
        owners = encoded.word_ids(0)
        assert answer["tags"] == [models.TAGS[best[owners.index(number)]] for number in range(len(words))]
    assert len({tag for answer in answers for tag in answer["tags"]}) > 1
    (answer,) = asked(loaded(tagger), {"words": ["", "San", ""]})
    assert (answer["tags"][0], answer["tags"][2]) == ("O", "O"), "of no word there is no token"


@pytest.mark.parametrize(
    ("record", "message"),
    [({"words": "a b"}, "no list of texts"), ({"words": []}, "no list"), ({"words": ["a", 1]}, "no list"), ({}, "no list")],
)
def test_records_that_are_no_words(tagger: Path, record: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        loaded(tagger).question(record, 0)
    with pytest.raises(BadRecord, match="positions; split the words"):
        loaded(tagger).question({"words": ["a"] * 200}, 0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_is_put_on_its_base(llama: Path, tmp_path: Path) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(llama)
    adapted = get_peft_model(base, LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    adapted.save_pretrained(tmp_path)
    (plain,) = asked(loaded(llama, max_new_tokens=20), {"prompt": "if x"})
    (answer,) = asked(loaded(tmp_path, max_new_tokens=20), {"prompt": "if x"})
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    given = tokenizer("if x", return_tensors="pt")
    made = adapted.eval().generate(**given, max_new_tokens=20, do_sample=False)[0, given["input_ids"].size(1) :]
    assert answer["answer"] == tokenizer.decode(made, skip_special_tokens=True) != plain["answer"]


def test_bottlenecks_are_put_on_their_base(classifier: Path, tmp_path: Path) -> None:
    adapted = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    put_adapters(adapted, 8)
    adapted.requires_grad_(False)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "bottleneck" in name:
                parameter.normal_(std=0.3)
                parameter.requires_grad_(True)
    save_bottlenecks(adapted, 8, tmp_path)
    (tmp_path / "base.json").write_text(json.dumps({"uri": str(classifier), "digest": "", "own": False}))
    shutil.copy(classifier / "config.json", tmp_path)
    (plain,) = asked(loaded(classifier), {"text": TEXTS[0]})
    (answer,) = asked(loaded(tmp_path), {"text": TEXTS[0]})
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    with torch.no_grad():
        expected = torch.softmax(adapted(**tokenizer(TEXTS[0], return_tensors="pt")).logits[0], -1)
    assert list(answer["scores"].values()) == pytest.approx(expected.tolist(), abs=2e-6)
    assert answer["scores"] != plain["scores"]


def test_an_adapter_without_its_base(llama: Path, tmp_path: Path) -> None:
    shutil.copy(llama / "tokenizer.json", tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/elsewhere"}')
    with pytest.raises(UserError, match="holds only an adapter, of someone/elsewhere, which is no folder here; copy that"):
        loaded(tmp_path)
