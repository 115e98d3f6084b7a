"""A labelled example as a sample, and logits as a prediction. One class a task: here they differ, and nowhere else.

Texts are encoded as the exported tokenizer encodes them, so whoever asks the finished model need know nothing of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pretrain_stage.errors import UserError
from torch import Tensor

from pretrain_trainer.finetune.plan import FinetunePlan
from pretrain_trainer.objective import IGNORED, TOKENS, Row

LABEL, TAGS = "label", "tags"
"""Heads."""
OUTSIDE = "O"
"""The tag that is predicted of a word that was cut off, or has no token."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""How messages become text where the base has no template of its own."""


@dataclass(frozen=True)
class Encoded:
    """An example as numbers."""

    inputs: Mapping[str, Row]
    """Arguments of the model, each (length,)."""
    target: Row
    """(length,), or () where the whole text has one."""
    reference: Any
    """What should be predicted: a label, tags, or an answer."""
    length: int
    """Tokens before anything was cut off."""
    words: tuple[int, ...] = ()
    """token-classification: where the first token of each word stands, -1 where there is none."""
    prompt: tuple[int, ...] = ()
    """generation: what is given when the model is to answer."""


class LearnedTask(Protocol):
    """A task, with the tokenizer of its base."""

    head: str

    @property
    def peft_type(self) -> str:
        """What peft calls it."""
        ...

    def encode(self, example: Mapping[str, Any]) -> Encoded:
        """The example as numbers, cut to sequenceLength."""
        ...

    def predictions(self, logits: Tensor, examples: Sequence[Encoded]) -> list[Any]:
        """What the model says of each example. logits: (batch, ...), on CPU."""
        ...


class Classification:
    """A label for a text."""

    head = LABEL
    peft_type = "SEQ_CLS"

    def __init__(self, tokenizer: Any, labels: Sequence[str], most: int) -> None:
        self.tokenizer, self.labels, self.most = tokenizer, labels, most
        self.number = {label: number for number, label in enumerate(labels)}

    def encode(self, example: Mapping[str, Any]) -> Encoded:
        ids, length = _whole_or_cut(self.tokenizer, example["text"], self.most)
        return Encoded(_inputs(ids), np.array(self.number[example["label"]]), example["label"], length)

    def predictions(self, logits: Tensor, examples: Sequence[Encoded]) -> list[Any]:
        return [self.labels[place] for place in logits.argmax(-1).tolist()]


class TokenClassification:
    """A tag for each word: that of its first token. The other tokens of a word are not asked for."""

    head = TAGS
    peft_type = "TOKEN_CLS"

    def __init__(self, tokenizer: Any, labels: Sequence[str], most: int) -> None:
        self.tokenizer, self.labels, self.most = tokenizer, labels, most
        self.number = {label: number for number, label in enumerate(labels)}

    def encode(self, example: Mapping[str, Any]) -> Encoded:
        encoded = self.tokenizer(example["words"], is_split_into_words=True)
        length = len(encoded["input_ids"])
        if length > self.most:
            encoded = self.tokenizer(example["words"], is_split_into_words=True, truncation=True, max_length=self.most)
        owners = encoded.word_ids(0)
        first = {owner: place for place, owner in reversed(list(enumerate(owners))) if owner is not None}
        words = tuple(first.get(number, -1) for number in range(len(example["words"])))
        target = np.full(len(owners), IGNORED, np.int64)
        for place, tag in zip(words, example["tags"], strict=True):
            if place >= 0:
                target[place] = self.number[tag]
        return Encoded(_inputs(encoded["input_ids"]), target, example["tags"], length, words)

    def predictions(self, logits: Tensor, examples: Sequence[Encoded]) -> list[Any]:
        best = logits.argmax(-1).tolist()
        outside = OUTSIDE if OUTSIDE in self.number else self.labels[0]
        return [
            [outside if place < 0 else self.labels[row[place]] for place in example.words]
            for row, example in zip(best, examples, strict=True)
        ]


class Generation:
    """An answer to a prompt, or what an assistant says in a conversation. Only what is to be said is learned, with its end."""

    head = TOKENS

    def __init__(self, tokenizer: Any, most: int, end: int, start: int | None) -> None:
        """end: the token that ends an answer. start: the first that a decoder is given, where an encoder reads the prompt."""
        self.tokenizer, self.most, self.end, self.start = tokenizer, most, end, start

    @property
    def peft_type(self) -> str:
        return "CAUSAL_LM" if self.start is None else "SEQ_2_SEQ_LM"

    def encode(self, example: Mapping[str, Any]) -> Encoded:
        if "messages" in example:
            return self._conversation(example["messages"])
        prompt = self.tokenizer(example["prompt"])["input_ids"] or [self.end]
        answer = [*self.tokenizer(example["answer"], add_special_tokens=False)["input_ids"], self.end]
        if self.start is not None:
            return self._pair(prompt, answer, example["answer"])
        length = len(prompt) + len(answer)
        answer = answer[: self.most - 1]
        prompt = prompt[: self.most - len(answer)]
        learned = [False] * len(prompt) + [True] * len(answer)
        return _continued([*prompt, *answer], learned, example["answer"], length, tuple(prompt))

    def predictions(self, logits: Tensor, examples: Sequence[Encoded]) -> list[Any]:
        raise AssertionError("answers are generated")

    def _pair(self, prompt: list[int], answer: list[int], reference: str) -> Encoded:
        assert self.start is not None, "called where there is an encoder"
        length = max(len(prompt), len(answer))
        given, target = prompt[: self.most], np.array(answer[: self.most], np.int64)
        decoder = np.concatenate([[self.start], target[:-1]])
        return Encoded({**_inputs(given), "decoder_input_ids": decoder}, target, reference, length, prompt=tuple(given))

    def _conversation(self, messages: Sequence[Mapping[str, str]]) -> Encoded:
        """Cut at its beginning, so that the last answer stays."""
        tokens: list[int] = []
        learned: list[bool] = []
        last = (0, "")
        for text, is_learned, said in self._pieces(messages):
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if is_learned:
                last = (len(tokens), said)
            tokens += ids
            learned += [is_learned] * len(ids)
        prompt, reference = tokens[: last[0]] or [self.end], last[1]
        if self.start is not None:
            return self._pair(prompt[-self.most :], tokens[last[0] :], reference)
        return _continued(
            tokens[-self.most :], learned[-self.most :], reference, len(tokens), tuple(prompt[-self.most + 1 :])
        )

    def _pieces(self, messages: Sequence[Mapping[str, str]]) -> list[tuple[str, bool, str]]:
        """The conversation as text: pieces, whether each is learned, and what the assistant says in it."""
        pieces: list[tuple[str, bool, str]] = []
        done = ""
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = self._text(messages[:place], True), self._text(messages[: place + 1], False)
            if not (before.startswith(done) and after.startswith(before)):
                raise UserError(
                    "the base's chat template writes a message differently once another follows it, so what the assistant says "
                    "cannot be told apart; give prompt and answer in place of messages, or a base with a plainer template"
                )
            pieces += [(before[len(done) :], False, ""), (after[len(before) :], True, message["content"])]
            done = after
        return pieces

    def _text(self, messages: Sequence[Mapping[str, str]], answers: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answers)
        return text


def learned_task(plan: FinetunePlan, tokenizer: Any, config: Any) -> LearnedTask:
    """The task of the plan. tokenizer, config: of its base, as transformers reads them."""
    most = plan.section.sequence_length
    match plan.section.task:
        case "classification":
            return Classification(tokenizer, plan.labels, most)
        case "token-classification":
            return TokenClassification(tokenizer, plan.labels, most)
        case "generation":
            start = config.decoder_start_token_id if config.is_encoder_decoder else None
            return Generation(tokenizer, most, end_of_answer(tokenizer, config), start)


def base_tokenizer(folder: str, plan: FinetunePlan) -> Any:
    """The tokenizer of a base in that folder, ready for the task. Raises UserError if it lacks what the task needs."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if plan.base.family == "bert" and not tokenizer("")["input_ids"]:
        _frame(tokenizer, plan)
    if plan.section.task == "generation" and plan.section.examples.messages_field and not tokenizer.chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def end_of_answer(tokenizer: Any, config: Any) -> int:
    """The token that ends a text. Raises UserError if neither tokenizer nor model has one."""
    given = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else config.eos_token_id
    given = given[0] if isinstance(given, list) else given
    if given is None:
        raise UserError("the base names no token that ends a text; write eos_token into its tokenizer_config.json")
    return int(given)


def padding_token(tokenizer: Any, config: Any) -> int:
    """The token that fills up; any will do where there is none for it, for nothing attends to it."""
    for given in (tokenizer.pad_token_id, config.pad_token_id, tokenizer.eos_token_id):
        if given is not None:
            return int(given)
    return 0


def _frame(tokenizer: Any, plan: FinetunePlan) -> None:
    """Lets the tokenizer put its class token before a text and its separator behind it (Devlin et al. 2019)."""
    from tokenizers.processors import TemplateProcessing

    vocabulary = tokenizer.get_vocab()
    pairs = (("<|cls|>", "<|sep|>"), ("[CLS]", "[SEP]"))
    found = next((pair for pair in pairs if all(token in vocabulary for token in pair)), None)
    if found is None:
        raise UserError(
            f"{plan.base.name}: its tokenizer has no [CLS] and [SEP], which an encoder needs; give a base that has"
        )
    first, last = found
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, vocabulary[token]) for token in found],
    )


def _whole_or_cut(tokenizer: Any, text: str, most: int) -> tuple[list[int], int]:
    """The tokens of a text, at most `most`, and how many they would be."""
    ids = tokenizer(text)["input_ids"] or [tokenizer.eos_token_id or 0]
    if len(ids) <= most:
        return ids, len(ids)
    return tokenizer(text, truncation=True, max_length=most)["input_ids"], len(ids)


def _inputs(ids: Sequence[int]) -> dict[str, Row]:
    return {"input_ids": np.array(ids, np.int64), "attention_mask": np.ones(len(ids), np.int64)}


def _continued(
    tokens: Sequence[int], learned: Sequence[bool], reference: str, length: int, prompt: tuple[int, ...]
) -> Encoded:
    """A text in which each learned token is predicted from those before it."""
    target = np.where(learned[1:], tokens[1:], IGNORED).astype(np.int64)
    return Encoded(_inputs(tokens[:-1]), target, reference, length, prompt=prompt)
