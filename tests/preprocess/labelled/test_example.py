"""Single records: what becomes of those that can be used, and the sentence for those that cannot."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from pretrain_preprocess.labelled.example import Unusable, read_example
from pretrain_stage.finetune import Examples, Task

USER = {"role": "user", "content": "Hello?"}
ASSISTANT = {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be short."}


def read(task: Task, record: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return dict(read_example(record, task, Examples.model_validate({"uri": "unused", **fields})).content)


@pytest.mark.parametrize(
    ("task", "record", "fields", "content"),
    [
        ("classification", {"text": " a b ", "label": " good\n"}, {}, {"text": " a b ", "label": "good"}),
        ("classification", {"text": "a", "label": 3, "other": 1}, {}, {"text": "a", "label": "3"}),
        ("classification", {"body": "a", "stars": "3"}, {"textField": "body", "labelField": "stars", "labels": ["3"]},
         {"text": "a", "label": "3"}),
        ("token-classification", {"words": ["江", "泽民", "说"], "tags": ["B-PER", "I-PER", "O"]}, {},
         {"words": ["江", "泽民", "说"], "tags": ["B-PER", "I-PER", "O"]}),
        ("token-classification", {"words": ["a", "b"], "tags": ["B-PER", "B-PER"]}, {},
         {"words": ["a", "b"], "tags": ["B-PER", "B-PER"]}),
        ("token-classification", {"w": ["run"], "pos": ["VB"]}, {"wordsField": "w", "tagsField": "pos"},
         {"words": ["run"], "tags": ["VB"]}),
        ("generation", {"prompt": "p", "answer": "  a"}, {}, {"prompt": "p", "answer": "  a"}),
        ("generation", {"messages": [SYSTEM, USER, ASSISTANT, {**USER, "name": "x"}, ASSISTANT]}, {"messagesField": "messages"},
         {"messages": [SYSTEM, USER, ASSISTANT, USER, ASSISTANT]}),
        ("generation", {"talk": [USER, ASSISTANT], "prompt": 1}, {"messagesField": "talk"}, {"messages": [USER, ASSISTANT]}),
    ],
)  # fmt: skip
def test_what_is_kept(task: Task, record: dict[str, Any], fields: dict[str, Any], content: dict[str, Any]) -> None:
    assert read(task, record, **fields) == content


@pytest.mark.parametrize(
    ("record", "fields", "sentence"),
    [
        ({"body": "a", "label": "x"}, {},
         "text: missing; the record has body, label; add it, or name another in textField"),
        ({}, {}, "text: missing; the record has no fields; add it, or name another in textField"),
        ({"text": None, "label": "x"}, {}, "text: null; fill it in, or take the record out"),
        ({"text": 3, "label": "x"}, {}, "text: 3 is no string; give one, or name another field in textField"),
        ({"text": ["a" * 99], "label": "x"}, {},
         f'text: ["{"a" * 58}... is no string; give one, or name another field in textField'),
        ({"text": " \n", "label": "x"}, {}, "text: empty; fill it in, or take the record out"),
        ({"text": "a"}, {"labelField": "stars"},
         "stars: missing; the record has text; add it, or name another in labelField"),
        ({"text": "a", "label": None}, {}, "label: null; fill it in, or take the record out"),
        ({"text": "a", "label": " "}, {}, "label: empty; fill it in, or take the record out"),
        ({"text": "a", "label": 0.5}, {},
         "label: 0.5 is neither a string nor a whole number; give one, or another labelField"),
        ({"text": "a", "label": True}, {},
         "label: true is neither a string nor a whole number; give one, or another labelField"),
        ({"text": "a", "label": "x" * 254}, {},
         f'label: "{"x" * 59}... has 254 characters, a label at most 253; name another field in labelField'),
        ({"text": "a", "label": "neutral"}, {"labels": ["good", "bad"]},
         'label: "neutral" is none of good, bad; correct it, or add it to labels'),
        ({"text": "a", "label": 11}, {"labels": list("abcdefghijk")},
         'label: "11" is none of a, b, c, d, e, f, g, h, i, j, ...; correct it, or add it to labels'),
    ],
)  # fmt: skip
def test_a_text_or_label_of_no_use(record: dict[str, Any], fields: dict[str, Any], sentence: str) -> None:
    refused("classification", record, fields, sentence)


@pytest.mark.parametrize(
    ("words", "tags", "fields", "sentence"),
    [
        (["a", "b"], ["O"], {}, "tags: 1 entries, but words has 2; give each word one tag"),
        ("a b", ["O", "O"], {}, 'words: "a b" is no list; give a list of strings, or name another field in wordsField'),
        ([], [], {}, "words: empty; fill it in, or take the record out"),
        (["a", ""], ["O", "O"], {}, 'words: entry 2 is ""; each must be a string that is not empty'),
        (["a", "b"], ["O", 3], {}, "tags: entry 2 is 3; each must be a string that is not empty"),
        (["a"], None, {}, "tags: null; fill it in, or take the record out"),
        (["江", "泽民"], ["O", "I-PER"], {},
         "tags: 'I-PER' of word 2 (\"泽民\") follows O; in IOB2 the first word of an entity has B-PER"),
        (["a"], ["I-PER"], {}, "tags: 'I-PER' of word 1 (\"a\") follows nothing; in IOB2 the first word of an entity has B-PER"),
        (["a", "b", "c"], ["B-PER", "I-PER", "I-LOC"], {},
         "tags: 'I-LOC' of word 3 (\"c\") follows I-PER; in IOB2 the first word of an entity has B-LOC"),
        (["a"], ["B-"], {}, "tags: 'B-' of word 1 names no type; write B-PER or the like"),
        (["a"], ["B-X"], {"labels": ["B-PER", "I-PER", "O"]},
         'tags: "B-X" is none of B-PER, I-PER, O; correct it, or add it to labels'),
    ],
)  # fmt: skip
def test_words_and_tags_of_no_use(words: Any, tags: Any, fields: dict[str, Any], sentence: str) -> None:
    refused("token-classification", {"words": words, "tags": tags}, fields, sentence)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"prompt": "Why?", "answer": ""},
         'answer: none to the prompt "Why?"; add the answer, take the record out, or name another field in answerField'),
        ({"prompt": "Why?", "answer": None},
         'answer: none to the prompt "Why?"; add the answer, take the record out, or name another field in answerField'),
        ({"prompt": "Why?"},
         'answer: none to the prompt "Why?"; add the answer, take the record out, or name another field in answerField'),
        ({"prompt": "Why?", "answer": " "}, "answer: empty; fill it in, or take the record out"),
        ({"answer": "So."}, "prompt: missing; the record has answer; add it, or name another in promptField"),
        ({"prompt": " ", "answer": "So."}, "prompt: empty; fill it in, or take the record out"),
    ],
)  # fmt: skip
def test_a_prompt_or_answer_of_no_use(record: dict[str, Any], sentence: str) -> None:
    refused("generation", record, {}, sentence)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ("Hello?", 'talk: "Hello?" is no list of messages; give each role and content'),
        ([], "talk: [] is no list of messages; give each role and content"),
        (["Hello?"], "talk: message 1 has role null; roles are system, user and assistant"),
        ([{"role": "human", "content": "a"}], 'talk: message 1 has role "human"; roles are system, user and assistant'),
        ([USER, {"role": "assistant"}], "talk: message 2 has content null; give a string that is not empty"),
        ([USER, {"role": "assistant", "content": " "}], 'talk: message 2 has content " "; give a string that is not empty'),
        ([USER, USER, ASSISTANT],
         "talk: message 2 is of user after user; after one of system, or none, user and assistant take turns"),
        ([USER, ASSISTANT, ASSISTANT],
         "talk: message 3 is of assistant after assistant; after one of system, or none, user and assistant take turns"),
        ([ASSISTANT], "talk: message 1 is of assistant after nothing; after one of system, or none, user and assistant take turns"),
        ([USER, SYSTEM], "talk: message 2 is of system after user; after one of system, or none, user and assistant take turns"),
        ([SYSTEM], "talk: ends with system; add what assistant answers, or take that message out"),
        ([USER], "talk: ends with user; add what assistant answers, or take that message out"),
        ([USER, ASSISTANT, USER], "talk: ends with user; add what assistant answers, or take that message out"),
    ],
)  # fmt: skip
def test_messages_of_no_use(messages: Any, sentence: str) -> None:
    refused("generation", {"talk": messages}, {"messagesField": "talk"}, sentence)


def refused(task: Task, record: dict[str, Any], fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Unusable) as error:
        read(task, json.loads(json.dumps(record)), **fields)
    assert str(error.value) == sentence


def test_an_id_is_of_the_content_with_white_space_folded() -> None:
    def identifier(text: str, label: str) -> str:
        return read_example({"text": text, "label": label}, "classification", Examples(uri="unused")).id

    assert identifier("a  b\n", "x") == identifier("a b", "x")
    assert len({identifier("a b", "x"), identifier("ab", "x"), identifier("a b", "y"), identifier("A b", "x")}) == 4
    assert identifier("a b", "x") == hashlib.sha256(b'{"label":"x","text":"a b"}').hexdigest()
