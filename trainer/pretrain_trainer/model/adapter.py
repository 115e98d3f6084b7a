"""The seam to the model classes of `transformers`: our interface outside, their network with fresh weights inside.

Their code is used as it is: for logits, never for a loss, and without its own dropout, which would be drawn from a stream.
Below `network.` parameters are named as they name them, so that an export is a plain save.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pretrain_trainer.model.dropout import Draw, SeededDropout
from pretrain_trainer.model.language_model import FamilyModel


class Adapter(FamilyModel):
    """A network of transformers that is trained. Subclasses say how it is called."""

    def __init__(self, network: PreTrainedModel, dropout: float) -> None:
        super().__init__()
        self.network = network
        self.draw = Draw()
        self.tie_weights()
        if dropout > 0:
            self._drop(dropout)

    def seed_dropout(self, seed: int) -> None:
        self.draw.seed = seed

    def recompute_activations(self) -> None:
        self.network.activation_checkpointing_enable()

    def compile_layers(self) -> None:
        for layer in self._layers():
            layer.compile()

    def tie_weights(self) -> None:
        self.network.tie_weights()

    def embeddings(self) -> list[Tensor]:
        return [*super().embeddings(), self.network.get_output_embeddings().weight]

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        network = self.network
        again = network.all_tied_weights_keys if network.config.tie_word_embeddings else ()
        weights, stored = {}, set()
        for name, tensor in network.state_dict().items():
            if name not in again:
                # Embeddings that are one here may be several there, and a file has no place for one tensor under two names.
                weights[name] = tensor.clone() if tensor.data_ptr() in stored else tensor
                stored.add(tensor.data_ptr())
        return weights, network.config.to_dict() | {"architectures": [type(network).__name__]}

    def _drop(self, share: float) -> None:
        """Puts our dropout where theirs stands."""
        theirs = [
            (module, name)
            for module in self.network.modules()
            for name, child in module.named_children()
            if isinstance(child, nn.Dropout) and child.p > 0
        ]
        for place, (module, name) in enumerate(theirs):
            setattr(module, name, SeededDropout(share, place, self.draw))

    def _layers(self) -> Iterator[nn.Module]:
        """The layers, each of which can be compiled on its own."""
        return (module for module in self.network.modules() if isinstance(module, GradientCheckpointingLayer))


def fresh(network: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    """A network in fp32 with weights drawn from torch's generator."""
    made: PreTrainedModel = network._from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    return made
