"""The special tokens that samples are made with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pretrain_stage.errors import UserError

from pretrain_trainer.plan import TokenizerFacts


@dataclass(frozen=True)
class SpecialTokens:
    """What the tokenizer stage says of its special tokens, asked for by those that need one."""

    facts: TokenizerFacts

    @property
    def pad(self) -> int:
        return self._needed("pad", self.facts.pad_id)

    @property
    def cls(self) -> int:
        return self._needed("cls", self.facts.cls_id)

    @property
    def sep(self) -> int:
        return self._needed("sep", self.facts.sep_id)

    @property
    def mask(self) -> int:
        return self._needed("mask", self.facts.mask_id)

    @property
    def end_of_text(self) -> int:
        return self.facts.end_of_text_id

    def sentinels(self, count: int) -> NDArray[np.int64]:
        """The first so many sentinels. Raises UserError if there are fewer."""
        ids = self.facts.sentinel_ids
        if len(ids) < count:
            raise UserError(
                f"spec.tokenizer.train.sentinels: the tokenizer has {len(ids)} sentinels, but a sample of span-corruption has {count} "
                f"spans; set it to {count}, or raise training.masking.meanSpan"
            )
        return np.array(ids[:count], np.int64)

    @cached_property
    def ordinary(self) -> NDArray[np.bool_]:
        """Which ids of the tokenizer are no special tokens."""
        facts = self.facts
        named = [facts.end_of_text_id, facts.pad_id, facts.cls_id, facts.sep_id, facts.mask_id, *facts.sentinel_ids]
        found = np.ones(facts.vocab_size, bool)
        found[[number for number in named if number is not None]] = False
        return found

    def _needed(self, name: str, number: int | None) -> int:
        if number is None:
            raise UserError(
                f"spec.training.objective: it needs a token <|{name}|> or [{name.upper()}], which the tokenizer does not have; add it "
                "to spec.tokenizer.train.specialTokens, or give a tokenizer that has it"
            )
        return number
