"""Models that write. Prompts of a batch are continued at once; our decoder runs in our own loop, others in that of transformers.

Either way the next token is chosen by the same function (generate.choose), with a generator for each text, so that an answer
depends neither on the texts beside it nor on the device.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from pretrain_stage.errors import UserError
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from pretrain_trainer.generate import Sampling, choose
from pretrain_trainer.inference.answering import Answer, AnsweringModel, BadRecord, Question, Settings, text_field
from pretrain_trainer.inference.text import TextStream

MESSAGES = "messages"


class Loop(Protocol):
    """Continues prompts, as generate.generate_batch does."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        sampling: Sampling,
        ends: Collection[int],
        generators: Sequence[torch.Generator],
        told: Callable[[int, int], bool],
    ) -> list[list[int]]: ...


@dataclass
class Rates:
    """Tokens read and written, and the seconds that each took."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    new_seconds: float = 0.0

    def add(self, other: Rates) -> None:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        return ", ".join(
            f"{what} {tokens:,} tokens" + (f" at {tokens / seconds:,.0f} tokens/s" if seconds > 0 else "")
            for what, tokens, seconds in (
                ("prompt", self.prompt_tokens, self.prompt_seconds),
                ("answer", self.new_tokens, self.new_seconds),
            )
        )


@dataclass
class WritingModel(AnsweringModel):
    """A model that continues texts."""

    name: str
    loop: Loop
    tokenizer: Any
    ends: frozenset[int]
    settings: Settings
    positions: int | None
    """Most tokens of prompt and answer together, or of each where an encoder reads the prompt; None is no bound."""
    encoder_decoder: bool
    rates: Rates = field(default_factory=Rates)
    """Of all that was answered so far."""

    @property
    def has_chat(self) -> bool:
        """Whether the model has a template for conversations."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def question(self, record: Mapping[str, Any], seed: int) -> Question:
        if MESSAGES in record:
            return self.conversation(record[MESSAGES], seed)
        return self.prompt(text_field(record, "prompt"), seed)

    def prompt(self, text: str, seed: int) -> Question:
        """A text to continue. Raises BadRecord if it leaves no room for an answer."""
        start = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else min(self.ends, default=0)
        return self._fitting(self.tokenizer(text)["input_ids"] or [start], seed)

    def conversation(self, messages: Any, seed: int) -> Question:
        """Messages to answer, each with role and content. Raises BadRecord if the model has no form for them."""
        if not self.has_chat:
            raise BadRecord("messages, but the model has no chat template; give prompt")
        valid = isinstance(messages, list) and all(
            isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
            for one in messages
        )
        if not messages or not valid:
            raise BadRecord("messages is no list of objects with role and content; give the conversation so")
        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template says in its own way what it does not take
            raise BadRecord(f"messages do not fit the model's chat template ({error}); correct roles and order") from None
        return self._fitting(self.tokenizer(text, add_special_tokens=False)["input_ids"], seed)

    def _fitting(self, tokens: Sequence[int], seed: int) -> Question:
        room = 0 if self.encoder_decoder else 1
        if self.positions is not None and len(tokens) + room > self.positions:
            raise BadRecord(f"{len(tokens):,} tokens, but the model has {self.positions:,} positions; shorten the text")
        return Question(tuple(tokens), seed)

    def limit(self, question: Question) -> int:
        """Most new tokens."""
        if self.positions is None:
            return self.settings.max_new_tokens
        taken = 1 if self.encoder_decoder else len(question.tokens)
        return min(self.settings.max_new_tokens, self.positions - taken)

    def cost(self, question: Question) -> int:
        return len(question.tokens) + self.limit(question)

    def answer(
        self, questions: Sequence[Question], hear: Callable[[int, str], None] = lambda row, text: None
    ) -> list[Answer]:
        """hear: called with each question's place and a piece of its answer, as soon as the piece is certain."""
        streams = [
            TextStream(self._decode, () if self.encoder_decoder else one.tokens, self.settings.stop) for one in questions
        ]
        limits = [self.limit(one) for one in questions]
        first = 0.0

        def told(row: int, token: int) -> bool:
            nonlocal first
            first = first or time.perf_counter()
            hear(row, streams[row].feed(token))
            return streams[row].stopped

        generators = [torch.Generator().manual_seed(one.seed) for one in questions]
        began = time.perf_counter()
        with torch.inference_mode():
            new = self.loop([one.tokens for one in questions], limits, self.settings.sampling, self.ends, generators, told)
        ended = time.perf_counter()
        for row, stream in enumerate(streams):
            hear(row, stream.end())
        self.rates.add(rates(questions, new, began, first or ended, ended))
        return [
            {
                "answer": stream.text,
                "finish_reason": "length" if len(tokens) == limit and not stream.stopped else "stop",
                "prompt_tokens": len(one.tokens),
                "new_tokens": len(tokens),
            }
            for one, stream, tokens, limit in zip(questions, streams, new, limits, strict=True)
        ]

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def rates(questions: Sequence[Question], new: Sequence[Sequence[int]], began: float, first: float, ended: float) -> Rates:
    """first: when the first new tokens were there. They come with the prompt, so they count for no time of their own."""
    followers = sum(max(0, len(tokens) - 1) for tokens in new)
    return Rates(sum(len(one.tokens) for one in questions), first - began, followers, ended - first)


def transformers_loop(model: Any, pad: int, *, encoder_decoder: bool) -> Loop:
    """The loop of transformers, of which only the forward passes and the cache are used; any token may serve as padding."""

    def loop(
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        sampling: Sampling,
        ends: Collection[int],
        generators: Sequence[torch.Generator],
        told: Callable[[int, int], bool],
    ) -> list[list[int]]:
        tokens, mask = padded(prompts, pad, left=not encoder_decoder)
        listener = _Listener(limits, ends, told)
        config = copy.deepcopy(model.generation_config)
        # What the folder says of sampling is not asked for; what it says of forbidden or first tokens belongs to the model.
        config.update(do_sample=False, num_beams=1, temperature=1.0, top_k=50, top_p=1.0, max_length=None)
        config.update(max_new_tokens=max(limits), eos_token_id=None, pad_token_id=pad)
        model.generate(
            tokens.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([_Chooser(sampling, generators)]),
            stopping_criteria=StoppingCriteriaList([listener]),
        )
        return listener.new

    return loop


class _Chooser(LogitsProcessor):  # type: ignore[misc]
    """Leaves transformers' greedy search nothing but the token that was chosen."""

    def __init__(self, sampling: Sampling, generators: Sequence[torch.Generator]) -> None:
        self.sampling, self.generators = sampling, generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = choose(scores.float(), self.sampling, self.generators)
        only = torch.full_like(scores, -torch.inf)
        only[range(len(chosen)), chosen] = 0
        return only


class _Listener(StoppingCriteria):  # type: ignore[misc]
    """Hears each new token, and says which texts are finished."""

    def __init__(self, limits: Sequence[int], ends: Collection[int], told: Callable[[int, int], bool]) -> None:
        self.limits, self.ends, self.told = limits, ends, told
        self.new: list[list[int]] = [[] for _ in limits]
        self.finished = [False] * len(limits)

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if self.finished[row]:
                continue
            if token in self.ends:
                self.finished[row] = True
                continue
            self.new[row].append(token)
            self.finished[row] = self.told(row, token) or len(self.new[row]) == self.limits[row]
        return torch.tensor(self.finished, device=input_ids.device)


def padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Rows of tokens as one tensor, and a mask that is 0 where there is padding: (batch, longest) each."""
    longest = max(map(len, rows))
    fill = [[pad] * (longest - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]
    zeros = [[0] * len(one) for one in fill]
    if left:
        tokens = [one + list(row) for one, row in zip(fill, rows, strict=True)]
        mask = [one + row for one, row in zip(zeros, ones, strict=True)]
    else:
        tokens = [list(row) + one for one, row in zip(fill, rows, strict=True)]
        mask = [row + one for one, row in zip(zeros, ones, strict=True)]
    return torch.tensor(tokens), torch.tensor(mask)


def ends_of(tokenizer: Any, *configs: Mapping[str, Any]) -> frozenset[int]:
    """The tokens at which a text ends, as generation_config.json or else config.json or else the tokenizer has them."""
    for given in (*(config.get("eos_token_id") for config in configs), tokenizer.eos_token_id):
        if given is not None:
            return frozenset(given if isinstance(given, list) else [given])
    return frozenset()


def check_settings(settings: Settings) -> None:
    """Raises UserError for settings that no text could be written with."""
    sampling = settings.sampling
    for wrong, message in (
        (settings.max_new_tokens < 1, f"--max-new-tokens: {settings.max_new_tokens}; give 1 or more"),
        (not 0 <= sampling.temperature <= 10, f"--temperature: {sampling.temperature}; give 0 (the likeliest token) to 10"),
        (sampling.top_k is not None and sampling.top_k < 1, f"--top-k: {sampling.top_k}; give 1 or more"),
        (not 0 < sampling.top_p <= 1, f"--top-p: {sampling.top_p}; give more than 0, at most 1"),
        ("" in settings.stop, "--stop: an empty text; give one character or more"),
    ):
        if wrong:
            raise UserError(message)
