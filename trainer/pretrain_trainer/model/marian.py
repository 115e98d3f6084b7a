"""The encoder-decoder of Vaswani et al. 2017, as Marian (Junczys-Dowmunt et al. 2018) has it: sinusoidal positions, norms
behind each part, one embedding for both sides.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from pretrain_trainer.config.presets import Dimensions
from pretrain_trainer.model.adapter import Adapter, fresh
from pretrain_trainer.model.dropout import SeededDropout


class Marian(Adapter):
    """Tokens (batch, length) and decoder tokens (batch, other length) to logits (batch, other length, vocabulary)."""

    def __init__(self, shape: Dimensions, vocab_size: int) -> None:
        config = MarianConfig(
            vocab_size=vocab_size,
            d_model=shape.hidden_size,
            encoder_layers=shape.encoder_layers,
            decoder_layers=shape.layers,
            encoder_attention_heads=shape.heads,
            decoder_attention_heads=shape.heads,
            encoder_ffn_dim=shape.intermediate_size,
            decoder_ffn_dim=shape.intermediate_size,
            max_position_embeddings=shape.positions,
            # It is a number in their layers, not a module: ours is put around them, and they drop nothing.
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            init_std=shape.init_std,
            scale_embedding=True,
            share_encoder_decoder_embeddings=True,
            tie_word_embeddings=shape.tie_embeddings,
            pad_token_id=None,
            eos_token_id=None,
            forced_eos_token_id=None,
            decoder_start_token_id=0,
        )
        network = fresh(MarianMTModel, config)
        for stack in (network.model.encoder, network.model.decoder):
            # They are computed, not learned: no parameter, and not stored.
            positions = stack.embed_positions
            made = positions.weight.data
            del positions.weight
            positions.register_buffer("weight", made, persistent=False)
            positions.register_forward_hook(_like(stack.embed_tokens))
        super().__init__(network, shape.dropout)
        config.dropout = shape.dropout

    def forward(
        self, tokens: Tensor, decoder_tokens: Tensor, mask: Tensor | None = None, sample: Tensor | None = None
    ) -> Tensor:
        """mask: of `tokens`; 1 where there is a token, 0 where padding."""
        self.draw.samples = sample
        logits: Tensor = self.network(tokens, attention_mask=mask, decoder_input_ids=decoder_tokens, use_cache=False).logits
        return logits

    def tie_weights(self) -> None:
        super().tie_weights()
        # With the output apart, transformers takes encoder and decoder apart as well.
        model = self.network.model
        model.encoder.embed_tokens.weight = model.decoder.embed_tokens.weight = model.shared.weight

    def _drop(self, share: float) -> None:
        """What enters a stack is dropped, and what attention and feed-forward add to it (Vaswani et al. 2017, section 5.4)."""
        place = 0

        def dropout(owner: nn.Module, name: str) -> SeededDropout:
            nonlocal place
            made = SeededDropout(share, place, self.draw)
            owner.add_module(f"{name}_dropout", made)
            place += 1
            return made

        for stack in (self.network.model.encoder, self.network.model.decoder):
            entry = dropout(stack, "entry")
            stack.layers[0].register_forward_pre_hook(lambda _, inputs, entry=entry: (entry(inputs[0]), *inputs[1:]))
            for layer in stack.layers:
                for name in ("self_attn", "encoder_attn", "fc2"):
                    part = getattr(layer, name, None)
                    if part is not None:
                        part.register_forward_hook(_behind(dropout(layer, name)))


def _like(embedding: nn.Embedding) -> Any:
    """A hook that gives an answer the type of the embedding: DeepSpeed makes parameters bf16, and leaves buffers in fp32."""
    return lambda _, __, output: output.to(embedding.weight.dtype)


def _behind(dropout: SeededDropout) -> Any:
    """A hook that drops what a module answers, or the first thing that it answers."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        return (dropout(output[0]), *output[1:]) if isinstance(output, tuple) else dropout(output)

    return hook
