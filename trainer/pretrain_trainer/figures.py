"""What sums over held-out samples come to: the figures of the stage evaluate. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pretrain_trainer.sample import TOKENS
from pretrain_trainer.validate import Sums, mean_loss, perplexity


def figures(groups: Sequence[Mapping[str, Sums]], text_bytes: int, whole_text: bool) -> dict[str, Any]:
    """The figures of a text, as JSON has them.

    groups: by head. text_bytes: of the text. whole_text: whether each token is asked for once, from those before it; only then
    a model is a code for the text, and has bits per byte.
    loss: nats, the mean over the targets of a head, summed over the heads. perplexity: of tokens. tokens: that are asked for.
    """
    heads = {}
    for head in groups[0]:
        sums = [group[head] for group in groups]
        targets = sum(of.targets for of in sums)
        right = sum(of.right for of in sums)
        heads[head] = {"loss": mean_loss(sums), "accuracy": right / max(1, targets), "targets": targets}
    tokens = heads[TOKENS]
    return {
        "loss": sum(head["loss"] for head in heads.values()),
        "perplexity": perplexity(tokens["loss"]),
        "bits_per_byte": tokens["loss"] * tokens["targets"] / math.log(2) / text_bytes if whole_text else None,
        "tokens": tokens["targets"],
        "bytes": text_bytes,
        "heads": heads,
    }


def figures_of_texts(groups: Sequence[Mapping[str, Sums]], sizes: Mapping[str, int], whole_text: bool) -> dict[str, Any]:
    """The figures of all texts together, and of each under `sources`. sizes: bytes by name, in the order of the texts."""
    sources = {}
    for number, (name, size) in enumerate(sizes.items()):
        of_text = [group for group in groups if group[TOKENS].text == number]
        sources[name] = figures(of_text, size, whole_text)
    return {**figures(groups, sum(sizes.values()), whole_text), "sources": sources}
