"""What every model family offers to training, evaluation and generation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class KeyValueCache:
    """Keys and values of the tokens so far, of each layer: (batch, kv_heads, capacity, head_dim)."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int = 0
    padding: Tensor | None = None
    """How many tokens at the beginning of each text (batch,) are there only to make all equally long; None is none at all.

    Nothing attends to them, and positions count from the first token after them.
    """

    def keep(self, rows: Tensor) -> None:
        """From now on holds these texts only. rows: their places in the batch."""
        for kept in (self.keys, self.values):
            for layer in range(len(kept)):  # one after the other, so that not all are in memory twice
                kept[layer] = kept[layer][rows]
        self.padding = None if self.padding is None else self.padding[rows]


class TrainedModel(nn.Module, ABC):
    """What every model offers to training: called with a sample's inputs by name, it returns logits by head, or those of its
    only head as they are.
    """

    whole_checkpoints = True
    """Whether a checkpoint holds parameters that are not trained, too. Otherwise the model brings these itself."""

    def kept(self) -> dict[str, Any]:
        """What a checkpoint keeps of it besides weights."""
        return {}

    def restore(self, kept: dict[str, Any]) -> None:
        """Takes up what a checkpoint kept of it."""
        assert not kept, "nothing was kept"

    l1 = 0.0
    """Weight of the sum of absolute weights of matrices in the loss."""

    def penalty(self) -> Tensor | None:
        """What the weights themselves add to the loss of a step; None if nothing."""
        if not self.l1:
            return None
        matrices = [parameter for parameter in self.parameters() if parameter.requires_grad and parameter.ndim >= 2]
        return self.l1 * torch.stack([matrix.float().abs().sum() for matrix in matrices]).sum()

    def adapt(self, engine: Any) -> None:
        """Called once the engine around it is ready, before its first step."""

    @abstractmethod
    def recompute_activations(self) -> None:
        """From now on, computes the activations of each layer again in the backward pass instead of keeping them."""

    @abstractmethod
    def compile_layers(self) -> None:
        """Compiles the layers with torch.compile."""

    def tie_weights(self) -> None:
        """Makes input and output embedding one parameter again, where the shape says so: loading takes them apart."""
        return

    def seed_dropout(self, seed: int) -> None:
        """Seeds what is dropped. A model that drops nothing has nothing to seed."""
        return

    def embeddings(self) -> list[Tensor]:
        """The matrices of the vocabulary, of positions and the like; what is not of the layers."""
        return [
            module.weight for module in self.modules() if isinstance(module, nn.Embedding) and module.weight.requires_grad
        ]


class FamilyModel(TrainedModel):
    """A model of one of the families, which transformers knows too."""

    @abstractmethod
    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights by their names in transformers, each stored once where it can be, and config.json but for special tokens."""


class LanguageModel(FamilyModel):
    """Maps tokens to logits, and remembers those before."""

    @abstractmethod
    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits (batch, length, vocabulary) of the token after each of `tokens` (batch, length).

        With a cache, `tokens` follow those that it holds, and are added to it.
        """

    def next_logits(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Logits (batch, vocabulary) of the one token that follows `tokens`, which are added to the cache."""
        logits: Tensor = self(tokens, cache)[:, -1]
        return logits

    @abstractmethod
    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """An empty cache for `batch` texts of up to `capacity` tokens."""
