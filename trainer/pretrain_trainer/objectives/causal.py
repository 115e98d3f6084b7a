"""causal-lm: each token is predicted from those before it."""

from __future__ import annotations

from numpy.random import Generator

from pretrain_trainer.config.sections import Training
from pretrain_trainer.config.window import window_of
from pretrain_trainer.objectives.objective import window_at
from pretrain_trainer.sample import TOKENS, Sample
from pretrain_trainer.text import Text


class CausalLM:
    """Windows of the text, one behind the other; the last token of one is the first of the next."""

    documents = marks = False

    def __init__(self, training: Training) -> None:
        self.window = window_of(training)
        self.targets = {TOKENS: training.sequence_length}

    def fault(self, text: Text) -> str | None:
        return None

    def sample(self, text: Text, place: int, chance: Generator) -> Sample:
        (part,) = self.parts(text, place, chance)
        tokens = text.tokens.read(part.start, part.stop)
        return Sample({TOKENS: tokens[:-1]}, {TOKENS: tokens[1:]})

    def parts(self, text: Text, place: int, chance: Generator) -> tuple[range, ...]:
        return (window_at(self.window, text, place),)
