"""Texts of random documents, in which every token tells where it is from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from pretrain_trainer.config.sections import Training
from pretrain_trainer.objectives.special import SpecialTokens
from pretrain_trainer.plan import TokenizerFacts
from pretrain_trainer.text import SENTENCE, WORD, Text
from pretrain_trainer.tokens import TokenStream

END, PAD, CLS, SEP, MASK = range(5)
SENTINELS = tuple(range(5, 45))
FIRST = 45
"""The first id that is no special token."""
VOCABULARY = 5_000
OBJECTIVES = ("causal-lm", "masked-lm", "masked-lm+next-sentence", "span-corruption")

Document = list[list[int]]
"""A document's sentences, as lengths of their words in tokens."""


def special(**changed: Any) -> SpecialTokens:
    facts: dict[str, Any] = {"vocab_size": VOCABULARY, "sha256": "", "end_of_text": "<|endoftext|>", "end_of_text_id": END}
    facts |= {"pad_id": PAD, "cls_id": CLS, "sep_id": SEP, "mask_id": MASK, "sentinel_ids": SENTINELS}
    return SpecialTokens(TokenizerFacts(**{**facts, **changed}))


def training(objective: str, length: int, **masking: Any) -> Training:
    section = {"objective": objective, "sequenceLength": length, "tokens": 10**6, "globalBatchTokens": length}
    return Training.model_validate({**section, "masking": masking})


def documents(count: int, seed: int = 0, sentences: tuple[int, int] = (1, 12)) -> list[Document]:
    """Random ones: words of 1 to 4 tokens, sentences of 1 to 15 words."""
    chance = random.Random(seed)
    return [
        [
            [chance.choice((1, 1, 1, 2, 2, 3, 4)) for _ in range(chance.randint(1, 15))]
            for _ in range(chance.randint(*sentences))
        ]
        for _ in range(count)
    ]


def text(shards: Sequence[Sequence[Document]], name: str = "random") -> Text:
    """The documents of each shard. Tokens are numbered through from FIRST, as far as the vocabulary goes, and over again."""
    tokens, marks, ends, number = [], [], [], 0
    for shard in shards:
        of_shard: list[int] = []
        bits: list[int] = []
        lasts = []
        for document in shard:
            for sentence in document:
                for place, word in enumerate(sentence):
                    bits += [WORD | SENTENCE * (place == 0)] + [0] * (word - 1)
                    of_shard += [FIRST + (number + step) % (VOCABULARY - FIRST) for step in range(word)]
                    number += word
            of_shard.append(END)
            bits.append(WORD)
            lasts.append(len(of_shard))
        tokens.append(np.array(of_shard, np.uint16))
        marks.append(np.array(bits, np.uint8))
        ends.append(np.array(lasts, np.uint64))
    lengths = np.cumsum([len(shard) for shard in tokens], dtype=np.int64)
    return Text(name, TokenStream(tuple(tokens), lengths), tuple(ends), TokenStream(tuple(marks), lengths))


def everything(of: Text) -> np.ndarray[Any, np.dtype[np.int64]]:
    """All tokens."""
    return of.tokens.read(0, len(of))
