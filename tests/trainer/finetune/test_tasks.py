"""An example as a sample: what is read, what is asked, and what is cut off."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers
from pretrain_stage.errors import UserError
from pretrain_trainer.finetune.samples import SAMPLE, ExampleSamples
from pretrain_trainer.finetune.tasks import (
    CHAT_TEMPLATE,
    Classification,
    Generation,
    TokenClassification,
    base_tokenizer,
    end_of_answer,
)
from pretrain_trainer.objective import IGNORED

from tests.trainer.finetune.sites import make_base

END, CLS, SEP = 0, 2, 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_base(tmp_path_factory.mktemp("base") / "llama", "llama")
    return transformers.AutoTokenizer.from_pretrained(folder)


def spoken(tokenizer: Any, target: np.ndarray[Any, Any]) -> str:
    """What is asked for."""
    text: str = tokenizer.decode([token for token in target.tolist() if token != IGNORED])
    return text


def test_only_the_answer_is_learned_and_its_end(tokenizer: Any) -> None:
    task = Generation(tokenizer, 48, END, None)
    one = task.encode({"prompt": "two and two is ", "answer": "four"})
    assert spoken(tokenizer, one.target) == "four<|endoftext|>"
    prompt = tokenizer("two and two is ")["input_ids"]
    assert one.prompt == tuple(prompt), "as whoever asks the model will encode it"
    whole = [*prompt, *tokenizer("four")["input_ids"], END]
    assert one.inputs["input_ids"].tolist() == whole[:-1]
    assert one.target.tolist() == [IGNORED] * (len(prompt) - 1) + whole[len(prompt) :], "each from the token before it"


def test_of_what_is_too_long_the_prompt_is_cut(tokenizer: Any) -> None:
    one = Generation(tokenizer, 12, END, None).encode({"prompt": "word " * 40, "answer": "yes"})
    assert one.length > 40
    assert len(one.inputs["input_ids"]) == 11
    assert spoken(tokenizer, one.target) == "yes<|endoftext|>"
    whole = Generation(tokenizer, 12, END, None).encode({"prompt": "a", "answer": "word " * 40})
    assert (len(whole.prompt), len(whole.inputs["input_ids"])) == (1, 11)


def test_an_encoder_reads_the_prompt(tokenizer: Any) -> None:
    one = Generation(tokenizer, 48, END, start=1).encode({"prompt": "two and two", "answer": "four"})
    assert one.inputs["input_ids"].tolist() == tokenizer("two and two")["input_ids"]
    assert spoken(tokenizer, one.target) == "four<|endoftext|>"
    assert one.inputs["decoder_input_ids"].tolist() == [1, *one.target.tolist()[:-1]]


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Bye"},
]


def test_all_that_the_assistant_says_is_learned(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE
    one = Generation(tokenizer, 96, END, None).encode({"messages": MESSAGES})
    assert spoken(tokenizer, one.target) == "Hi<|endoftext|>Bye<|endoftext|>"
    text = "system: Be brief.\nuser: Hello\nassistant: Hi<|endoftext|>user: And now?\nassistant: "
    assert tokenizer.decode(list(one.prompt)) == text, "what is given when the last answer is asked for"
    assert one.reference == "Bye"
    cut = Generation(tokenizer, 16, END, None).encode({"messages": MESSAGES})
    assert spoken(tokenizer, cut.target).endswith("Bye<|endoftext|>"), "the last answer stays"
    assert len(cut.inputs["input_ids"]) == 15


def test_a_template_that_changes_what_was_said(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages | length }}{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(UserError, match="writes a message differently once another follows it"):
        Generation(tokenizer, 96, END, None).encode({"messages": MESSAGES})


def test_a_tag_is_asked_of_the_first_token_of_each_word(tokenizer: Any) -> None:
    task = TokenClassification(tokenizer, ["B-LOC", "O"], 48)
    one = task.encode({"words": ["documentation", "in", "北京"], "tags": ["O", "O", "B-LOC"]})
    places = [place for place, tag in enumerate(one.target.tolist()) if tag != IGNORED]
    assert tuple(places) == one.words
    assert one.target[places].tolist() == [1, 1, 0]
    assert one.words[0] == 0
    assert one.words[1] > 1, "a word of several tokens is asked for once"


def test_words_that_were_cut_off_are_outside(tokenizer: Any) -> None:
    import torch

    task = TokenClassification(tokenizer, ["B-LOC", "O"], 3)
    one = task.encode({"words": ["documentation"] * 5, "tags": ["O"] * 5})
    assert one.words[-1] == -1
    always = torch.tensor([[[1.0, 0.0]] * 3])
    said = task.predictions(always, [one])[0]
    assert len(said) == 5
    assert said[-1] == "O"


def test_an_encoder_is_given_its_class_token(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "bert", "bert")
    section = SimpleNamespace(task="classification", examples=SimpleNamespace(messages_field=None))
    plan: Any = SimpleNamespace(base=SimpleNamespace(family="bert", name="base"), section=section)
    tokenizer = base_tokenizer(str(folder), plan)
    one = Classification(tokenizer, ["no", "yes"], 6).encode({"text": "a text of many words", "label": "yes"})
    ids = one.inputs["input_ids"].tolist()
    assert (ids[0], ids[-1], len(ids)) == (CLS, SEP, 6), "the separator stays where the text is cut"
    assert one.length > 6
    assert int(one.target) == 1


def test_padding_is_on_the_right_and_asked_for_nothing(tokenizer: Any) -> None:
    task = Generation(tokenizer, 48, END, start=1)
    encoded = [task.encode({"prompt": word * 5, "answer": word}) for word in ("a", "documentation ", "to be ")]
    samples = ExampleSamples(encoded, task.head, 1, seed=3)
    inputs, targets = samples.together(samples.at(range(3)))
    assert sorted(samples.places(range(3))) == [0, 1, 2], "a pass takes each example once"
    assert inputs[SAMPLE].tolist() == [0, 1, 2]
    for row, place in enumerate(samples.places(range(3))):
        length = len(encoded[place].inputs["input_ids"])
        assert inputs["input_ids"][row, length:].eq(1).all()
        assert inputs["attention_mask"][row].sum() == length
        asked = targets[task.head][row]
        assert int((asked != IGNORED).sum()) == len(encoded[place].target)


def test_a_text_must_end(tokenizer: Any) -> None:
    nothing: Any = SimpleNamespace(eos_token_id=None)
    assert end_of_answer(nothing, SimpleNamespace(eos_token_id=[7, 8])) == 7
    with pytest.raises(UserError, match="names no token that ends a text"):
        end_of_answer(nothing, nothing)
