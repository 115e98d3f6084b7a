"""GPT-2 (Radford et al. 2019): a decoder with learned positions, LayerNorm before each part, and dropout."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from pretrain_trainer.config.presets import Dimensions
from pretrain_trainer.model.adapter import Adapter, fresh
from pretrain_trainer.model.language_model import KeyValueCache, LanguageModel


class NetworkCache(KeyValueCache):
    """Keys and values as the network itself keeps them."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.past = DynamicCache()

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.past.batch_select_indices(rows)


class GPT2(Adapter, LanguageModel):
    """Tokens (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(self, shape: Dimensions, vocab_size: int) -> None:
        config = GPT2Config(
            vocab_size=vocab_size,
            n_positions=shape.positions,
            n_embd=shape.hidden_size,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_inner=shape.intermediate_size,
            resid_pdrop=shape.dropout,
            embd_pdrop=shape.dropout,
            attn_pdrop=0.0,
            layer_norm_epsilon=shape.norm_eps,
            initializer_range=shape.init_std,
            tie_word_embeddings=shape.tie_embeddings,
            bos_token_id=None,
            eos_token_id=None,
        )
        super().__init__(fresh(GPT2LMHeadModel, config), shape.dropout)

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None, sample: Tensor | None = None) -> Tensor:
        self.draw.samples = sample
        if cache is None:
            logits: Tensor = self.network(tokens, use_cache=False).logits
            return logits
        return self._further(tokens, cache, 0)

    def next_logits(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        return self._further(tokens, cache, 1)[:, -1]

    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        return NetworkCache()

    def _further(self, tokens: Tensor, cache: KeyValueCache, logits_to_keep: int) -> Tensor:
        """Logits of the last tokens, of all if `logits_to_keep` is 0."""
        assert isinstance(cache, NetworkCache)
        start, stop = cache.length, cache.length + tokens.size(1)
        padding = torch.zeros_like(tokens[:, 0]) if cache.padding is None else cache.padding
        places = torch.arange(stop, device=tokens.device)
        logits: Tensor = self.network(
            tokens,
            attention_mask=(places >= padding[:, None]).long(),
            position_ids=(places[start:] - padding[:, None]).clamp(min=0),
            past_key_values=cache.past,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        ).logits
        cache.length = stop
        return logits
