"""One record of labelled data to one example of a task, or why it cannot be used. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pretrain_stage.finetune import Examples, Task

LONGEST_LABEL = 253
"""Characters, as in spec.finetune."""
SHOWN = 60
"""Characters of a value in a message."""

Fields = Mapping[str, Any]
"""A record as it was read."""


class Unusable(ValueError):
    """A record cannot be used. The message names field, value and remedy."""


@dataclass(frozen=True)
class Example:
    """What is kept of a record."""

    content: Mapping[str, Any]
    """The fields of the output, without id."""
    given: str
    """What a model is given. Examples that agree in it fall into one split."""
    labels: tuple[str, ...] = ()
    """The label, or the tags of the words; none for generation."""

    @property
    def id(self) -> str:
        """SHA-256 of the content as JSON with sorted keys, white space folded: equal for duplicates, and for nothing else."""
        return hashlib.sha256(orjson.dumps(_folded(self.content), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _folded(value: Any) -> Any:
    """The same value with each run of white space as one blank."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list):
        return [_folded(part) for part in value]
    return {name: _folded(part) for name, part in value.items()}


def fields_of(task: Task, examples: Examples) -> dict[str, str]:
    """The fields of the job that a task reads (textField), and the names that they give."""
    match task:
        case "classification":
            return {"textField": examples.text_field, "labelField": examples.label_field}
        case "token-classification":
            return {"wordsField": examples.words_field, "tagsField": examples.tags_field}
        case "generation":
            if examples.messages_field is not None:
                return {"messagesField": examples.messages_field}
            return {"promptField": examples.prompt_field, "answerField": examples.answer_field}


def read_example(record: Fields, task: Task, examples: Examples) -> Example:
    """The example that a record holds. Raises Unusable."""
    return READ[task](record, examples)


def classification(record: Fields, examples: Examples) -> Example:
    """A text and its label; blanks around a label do not count."""
    text = _text(record, examples.text_field, "textField")
    label = _label(_value(record, examples.label_field, "labelField"), examples.label_field)
    _allowed(label, examples.label_field, examples)
    return Example({"text": text, "label": label}, text, (label,))


def token_classification(record: Fields, examples: Examples) -> Example:
    """Words and their tags."""
    words = _strings(record, examples.words_field, "wordsField")
    tags = _strings(record, examples.tags_field, "tagsField")
    if len(words) != len(tags):
        raise Unusable(
            f"{examples.tags_field}: {len(tags)} entries, but {examples.words_field} has {len(words)}; give each word one tag"
        )
    before = "O"
    for number, tag in enumerate(tags):
        _allowed(tag, examples.tags_field, examples)
        if tag in ("B-", "I-"):
            raise Unusable(f"{examples.tags_field}: {tag!r} of word {number + 1} names no type; write {tag}PER or the like")
        if tag.startswith("I-") and before not in (tag, f"B-{tag[2:]}"):
            raise Unusable(
                f"{examples.tags_field}: {tag!r} of word {number + 1} ({shown(words[number])}) follows "
                f"{before if number else 'nothing'}; in IOB2 the first word of an entity has B-{tag[2:]}"
            )
        before = tag
    return Example({"words": words, "tags": tags}, " ".join(words), tuple(tags))


def generation(record: Fields, examples: Examples) -> Example:
    """A prompt and its answer, or a conversation."""
    if examples.messages_field is not None:
        messages = _messages(record, examples.messages_field)
        return Example({"messages": messages}, next(one["content"] for one in messages if one["role"] == "user"))
    prompt = _text(record, examples.prompt_field, "promptField")
    if record.get(examples.answer_field, "") in (None, ""):
        raise Unusable(
            f"{examples.answer_field}: none to the prompt {shown(prompt)}; add the answer, take the record out, or name another "
            "field in answerField"
        )
    return Example({"prompt": prompt, "answer": _text(record, examples.answer_field, "answerField")}, prompt)


READ: Mapping[Task, Callable[[Fields, Examples], Example]] = {
    "classification": classification,
    "token-classification": token_classification,
    "generation": generation,
}


def shown(value: Any) -> str:
    """A value as JSON, cut where it grows long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _value(record: Fields, name: str, field: str) -> Any:
    """The value of a field of the record; `field` is where the job names it."""
    if name not in record:
        raise Unusable(
            f"{name}: missing; the record has {', '.join(record) or 'no fields'}; add it, or name another in {field}"
        )
    if record[name] is None:
        raise Unusable(f"{name}: null; fill it in, or take the record out")
    return record[name]


def _text(record: Fields, name: str, field: str) -> str:
    value = _value(record, name, field)
    if not isinstance(value, str):
        raise Unusable(f"{name}: {shown(value)} is no string; give one, or name another field in {field}")
    if not value or value.isspace():
        raise Unusable(f"{name}: empty; fill it in, or take the record out")
    return value


def _label(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Unusable(f"{name}: {shown(value)} is neither a string nor a whole number; give one, or another labelField")
    label = str(value).strip()
    if not label:
        raise Unusable(f"{name}: empty; fill it in, or take the record out")
    if len(label) > LONGEST_LABEL:
        raise Unusable(
            f"{name}: {shown(label)} has {len(label)} characters, a label at most {LONGEST_LABEL}; name another field in labelField"
        )
    return label


def _allowed(label: str, name: str, examples: Examples) -> None:
    if examples.labels and label not in examples.labels:
        known = ", ".join(examples.labels[:10]) + (", ..." if len(examples.labels) > 10 else "")
        raise Unusable(f"{name}: {shown(label)} is none of {known}; correct it, or add it to labels")


def _strings(record: Fields, name: str, field: str) -> list[str]:
    value = _value(record, name, field)
    if not isinstance(value, list):
        raise Unusable(f"{name}: {shown(value)} is no list; give a list of strings, or name another field in {field}")
    if not value:
        raise Unusable(f"{name}: empty; fill it in, or take the record out")
    for number, part in enumerate(value, start=1):
        if not isinstance(part, str) or not part or part.isspace():
            raise Unusable(f"{name}: entry {number} is {shown(part)}; each must be a string that is not empty")
    return value


def _messages(record: Fields, name: str) -> list[dict[str, str]]:
    """The messages with role and content alone: one of system or none, then user and assistant in turn, the last one's an answer."""
    value = _value(record, name, "messagesField")
    if not isinstance(value, list) or not value:
        raise Unusable(f"{name}: {shown(value)} is no list of messages; give each role and content")
    before = "nothing"
    for number, message in enumerate(value, start=1):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "user", "assistant"):
            raise Unusable(f"{name}: message {number} has role {shown(role)}; roles are system, user and assistant")
        content = message.get("content")
        if not isinstance(content, str) or not content or content.isspace():
            raise Unusable(f"{name}: message {number} has content {shown(content)}; give a string that is not empty")
        if before not in MAY_FOLLOW[role]:
            raise Unusable(
                f"{name}: message {number} is of {role} after {before}; after one of system, or none, user and assistant take turns"
            )
        before = role
    if before != "assistant":
        raise Unusable(f"{name}: ends with {before}; add what assistant answers, or take that message out")
    return [{"role": message["role"], "content": message["content"]} for message in value]


MAY_FOLLOW = {"system": ("nothing",), "user": ("nothing", "system", "assistant"), "assistant": ("user",)}
"""The roles after which a role may speak."""
