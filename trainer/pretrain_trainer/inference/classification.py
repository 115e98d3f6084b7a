"""Models that label: a text, or each of its words. Through transformers' classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pretrain_trainer.inference.answering import Answer, AnsweringModel, BadRecord, Question, text_field
from pretrain_trainer.inference.generation import padded

DIGITS = 6
"""Of a score: beyond them, the order of an addition shows."""
OUTSIDE = "O"
"""The tag of words that belong to nothing, and of those that the tokenizer makes no token of."""


@dataclass
class LabellingModel(AnsweringModel):
    """What the two kinds share."""

    name: str
    model: Any
    tokenizer: Any
    labels: tuple[str, ...]
    """By class number."""
    pad: int
    positions: int | None

    def cost(self, question: Question) -> int:
        return len(question.tokens)

    def scores(self, questions: Sequence[Question]) -> torch.Tensor:
        """Probabilities of the classes, in fp32 on CPU, with whatever dimensions the model has."""
        # On the right, so that positions count from the first token in every architecture.
        tokens, mask = padded([one.tokens for one in questions], self.pad, left=False)
        with torch.inference_mode():
            logits = self.model(tokens.to(self.model.device), attention_mask=mask.to(self.model.device)).logits
        return torch.softmax(logits.float(), dim=-1).cpu()


class TextClassifier(LabellingModel):
    """Labels texts. One that is longer than the model is cut, and its answer says so."""

    def question(self, record: Mapping[str, Any], seed: int) -> Question:
        text = text_field(record, "text")
        tokens = self.tokenizer(text, truncation=self.positions is not None, max_length=self.positions)["input_ids"]
        if not tokens:
            raise BadRecord("text is empty; give some")
        whole = len(tokens) != self.positions or len(self.tokenizer(text)["input_ids"]) == self.positions
        return Question(tuple(tokens), words=() if whole else (len(tokens),))

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        return [
            {
                "label": self.labels[int(row.argmax())],
                "score": round(float(row.max()), DIGITS),
                "scores": {label: round(float(score), DIGITS) for label, score in zip(self.labels, row, strict=True)},
                **({"truncated": True} if one.words else {}),
            }
            for one, row in zip(questions, self.scores(questions), strict=True)
        ]


class WordTagger(LabellingModel):
    """Tags words. A word's tag is that of its first token."""

    def question(self, record: Mapping[str, Any], seed: int) -> Question:
        words = record.get("words")
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise BadRecord("words is no list of texts; give the words to tag")
        encoded = self.tokenizer(words, is_split_into_words=True)
        tokens, owners = encoded["input_ids"], encoded.word_ids(0)
        if self.positions is not None and len(tokens) > self.positions:
            raise BadRecord(f"{len(tokens):,} tokens, but the model has {self.positions:,} positions; split the words")
        first = {owner: place for place, owner in reversed(list(enumerate(owners))) if owner is not None}
        return Question(tuple(tokens), words=tuple(first.get(number, -1) for number in range(len(words))))

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        outside = OUTSIDE if OUTSIDE in self.labels else self.labels[0]
        answers = []
        for one, scores in zip(questions, self.scores(questions), strict=True):
            best = scores.argmax(-1).tolist()
            answers.append({"tags": [outside if place < 0 else self.labels[best[place]] for place in one.words]})
        return answers
