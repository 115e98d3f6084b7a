"""Model families: the seam between the configuration and the network.

A family builds a module that maps a sample's inputs to logits, of tokens and of what else it has heads for.
"""

from __future__ import annotations

from pretrain_trainer.config.presets import Dimensions
from pretrain_trainer.model.language_model import FamilyModel
from pretrain_trainer.model.llama import Llama


def build_model(family: str, shape: Dimensions, vocab_size: int) -> FamilyModel:
    """A model of that family with fresh weights, drawn from torch's generator: seed it first."""
    # Their libraries take seconds to import, and only who trains such a model has to wait for them.
    match family:
        case "gpt2":
            from pretrain_trainer.model.gpt2 import GPT2

            return GPT2(shape, vocab_size)
        case "bert":
            from pretrain_trainer.model.bert import Bert

            return Bert(shape, vocab_size)
        case "marian":
            from pretrain_trainer.model.marian import Marian

            return Marian(shape, vocab_size)
        case _:
            return Llama(shape, vocab_size)
