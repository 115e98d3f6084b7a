"""Which special tokens a tokenizer has, found by their names, and which an objective cannot do without.

    pad         fills samples up                    <|pad|>           [PAD]
    cls, sep    begin a sample, end a sentence      <|cls|>, <|sep|>  [CLS], [SEP]
    mask        stands for a token asked for        <|mask|>          [MASK]
    sentinels   each stands for a span taken out    <|sentinel_0|>, <|sentinel_1|>, ...

The first names are those of tokenizers trained here, the others those that BERT's have (Devlin et al. 2019). Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import MappingProxyType

from pretrain_stage.errors import UserError
from pydantic import JsonValue

from pretrain_preprocess.config import Learned, TrainTokenizer

NAMES = MappingProxyType(
    {
        "pad": ("<|pad|>", "[PAD]"),
        "cls": ("<|cls|>", "[CLS]"),
        "sep": ("<|sep|>", "[SEP]"),
        "mask": ("<|mask|>", "[MASK]"),
    }
)
SENTINEL = "<|sentinel_{}|>"

NEEDED = MappingProxyType(
    {
        "masked-lm": ("pad", "cls", "sep", "mask"),
        "masked-lm+next-sentence": ("pad", "cls", "sep", "mask"),
        "span-corruption": ("pad",),
    }
)
"""By objective; causal-lm needs none of them."""

Ids = Callable[[str], int | None]
"""The id of a token, None if there is none of that name."""


def special_tokens(options: TrainTokenizer) -> list[str]:
    """The special tokens of a tokenizer to train, in the order of their ids."""
    return [*options.special_tokens, *map(SENTINEL.format, range(options.sentinels))]


def special_facts(ids: Ids) -> dict[str, JsonValue]:
    """The ids of the special tokens that there are, as the tokenizer stage tells them."""
    facts: dict[str, JsonValue] = {}
    for role, names in NAMES.items():
        found = next((number for name in names if (number := ids(name)) is not None), None)
        if found is not None:
            facts[f"{role}_id"] = found
    facts["sentinel_ids"] = list(_sentinels(ids))
    return facts


def _sentinels(ids: Ids) -> list[JsonValue]:
    numbers = (ids(SENTINEL.format(number)) for number in itertools.count())
    return list(itertools.takewhile(lambda number: number is not None, numbers))


def check_objective(training: Learned, facts: dict[str, JsonValue], field: str) -> None:
    """Raises UserError if the objective needs a special token that the tokenizer lacks.

    facts: as special_facts gives them, or more. field: what of the job says which tokens there are, for the message.
    """
    objective = training.objective
    for role in NEEDED.get(objective, ()):
        if f"{role}_id" not in facts:
            raise UserError(
                f"training.objective: {objective} needs a token {' or '.join(NAMES[role])}, which {field} lacks; add it, or "
                "change the objective"
            )
    sentinels = facts["sentinel_ids"]
    assert isinstance(sentinels, list)
    if objective == "span-corruption" and len(sentinels) < training.spans:
        raise UserError(
            f"training.objective: span-corruption takes {training.spans} spans out of a sample (sequenceLength "
            f"{training.sequence_length}), and each needs a token {SENTINEL.format('N')}, but there are {len(sentinels)}; set "
            f"tokenizer.train.sentinels to {training.spans}, or change training.masking"
        )
