"""What can be asked of any model: records become questions, and questions of about the same length are answered together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pretrain_trainer.generate import Sampling

Answer = dict[str, Any]
"""What a line of answers says."""


class BadRecord(ValueError):
    """A record that cannot be answered. The message says what is wrong with it, and what it should be."""


@dataclass(frozen=True)
class Settings:
    """How answers are generated; models that label do without."""

    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    """Texts at which an answer ends; they are no part of it."""


@dataclass(frozen=True)
class Question:
    """A record as the model reads it."""

    tokens: tuple[int, ...]
    seed: int = 0
    """Of what is sampled."""
    words: tuple[int, ...] = ()
    """Where each word begins among the tokens."""


class AnsweringModel(ABC):
    """A model that answers records."""

    name: str
    """For people."""

    @abstractmethod
    def question(self, record: Mapping[str, Any], seed: int) -> Question:
        """Reads a record. Raises BadRecord if it cannot be answered."""

    @abstractmethod
    def cost(self, question: Question) -> int:
        """Most tokens that answering it computes."""

    @abstractmethod
    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers, in the order of the questions, which are computed at once."""


class Renamed(AnsweringModel):
    """The same model, for records that name its fields otherwise."""

    def __init__(self, model: AnsweringModel, names: Mapping[str, str]) -> None:
        """names: a record's names, by the model's."""
        self.model, self.names = model, names
        self.name = model.name

    def question(self, record: Mapping[str, Any], seed: int) -> Question:
        found = dict(record)
        for canonical, name in self.names.items():
            found.pop(canonical, None)
            if name in record:
                found[canonical] = record[name]
        try:
            return self.model.question(found, seed)
        except BadRecord as error:
            renamed = [f"{canonical} is here called {name}" for canonical, name in self.names.items()]
            raise BadRecord(f"{error} ({', '.join(renamed)})" if renamed else str(error)) from None

    def cost(self, question: Question) -> int:
        return self.model.cost(question)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        return self.model.answer(questions)


def text_field(record: Mapping[str, Any], name: str) -> str:
    """A field that must be text. Raises BadRecord if it is not."""
    if name not in record:
        found = ", ".join(sorted(record)[:5]) or "none"
        raise BadRecord(f"no field {name} (fields: {found}); give the record one")
    if not isinstance(record[name], str):
        raise BadRecord(f"{name} is no text but {type(record[name]).__name__}; give it in quotes")
    return str(record[name])
