"""The Llama-family decoder (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU, grouped-query attention.

Modules are named as in `transformers`, so that an export is a plain save of the parameters, and the arithmetic follows
its order, so that the exported model gives the same logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pretrain_trainer.config.presets import Dimensions
from pretrain_trainer.model.language_model import KeyValueCache, LanguageModel


class Linear(nn.Linear):
    """A matrix without bias. It draws its own weights, since under ZeRO 3 nobody else sees it whole."""

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        self.std = std
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class Embedding(nn.Embedding):
    """The input embedding; draws its own weights, as Linear does."""

    def __init__(self, count: int, size: int, std: float) -> None:
        self.std = std
        super().__init__(count, size)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class RMSNorm(nn.Module):
    """Root-mean-square layer normalization (Zhang and Sennrich 2019), computed in fp32 whatever the input."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        normalized: Tensor = self.weight * wide.to(x.dtype)
        return normalized


class Attention(nn.Module):
    """Causal self-attention with grouped queries (Ainslie et al. 2023) and rotary positions (Su et al. 2021)."""

    def __init__(self, shape: Dimensions, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.kv_heads, self.head_dim = layer, shape.heads, shape.kv_heads, shape.head_dim
        self.q_proj = Linear(shape.hidden_size, shape.heads * shape.head_dim, shape.init_std)
        self.k_proj = Linear(shape.hidden_size, shape.kv_heads * shape.head_dim, shape.init_std)
        self.v_proj = Linear(shape.hidden_size, shape.kv_heads * shape.head_dim, shape.init_std)
        self.o_proj = Linear(shape.heads * shape.head_dim, shape.hidden_size, _residual_std(shape))

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: KeyValueCache | None, seen: Tensor | None = None
    ) -> Tensor:
        batch, length, _ = x.shape
        queries = self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        keys = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        values = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        queries, keys = _rotated(queries, cos, sin), _rotated(keys, cos, sin)
        if cache is not None:
            end = cache.length + length
            cache.keys[self.layer][:, :, cache.length : end] = keys
            cache.values[self.layer][:, :, cache.length : end] = values
            keys, values = cache.keys[self.layer][:, :, :end], cache.values[self.layer][:, :, :end]
        mixed = functional.scaled_dot_product_attention(
            # One new token sees all before it; several see what precedes them (a cache starts empty).
            queries,
            keys,
            values,
            attn_mask=seen,
            is_causal=length > 1 and seen is None,
            enable_gqa=self.kv_heads != self.heads,
        )
        output: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim))
        return output


class SwiGLU(nn.Module):
    """The gated feed-forward layer (Shazeer 2020)."""

    def __init__(self, shape: Dimensions) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden_size, shape.intermediate_size, shape.init_std)
        self.up_proj = Linear(shape.hidden_size, shape.intermediate_size, shape.init_std)
        self.down_proj = Linear(shape.intermediate_size, shape.hidden_size, _residual_std(shape))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return output


class Layer(nn.Module):
    """One decoder layer: attention and feed-forward, each normalized before and added after."""

    def __init__(self, shape: Dimensions, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(shape, layer)
        self.mlp = SwiGLU(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: KeyValueCache | None = None, seen: Tensor | None = None
    ) -> Tensor:
        attended: Tensor = x + self.self_attn(self.input_layernorm(x), cos, sin, cache, seen)
        fed: Tensor = attended + self.mlp(self.post_attention_layernorm(attended))
        return fed


class Decoder(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, shape: Dimensions, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = Embedding(vocab_size, shape.hidden_size, shape.init_std)
        self.layers = nn.ModuleList(Layer(shape, layer) for layer in range(shape.layers))
        self.norm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.head_dim, self.rope_theta = shape.head_dim, shape.rope_theta
        self.recompute = False
        self._angles: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens: Tensor, cache: KeyValueCache | None) -> Tensor:
        x = self.embed_tokens(tokens)
        start = 0 if cache is None else cache.length
        stop = start + tokens.size(1)
        seen = None
        if cache is None or cache.padding is None:
            cos, sin = self._cos_sin(start, stop, x)
        else:
            cos, sin = (table[_positions(cache.padding, start, stop)] for table in self._cos_sin(0, stop, x))
            seen = _seen(cache.padding, start, stop)
        for layer in self.layers:
            if self.recompute and self.training:
                x = checkpoint(layer, x, cos, sin, use_reentrant=False)
            else:
                x = layer(x, cos, sin, cache, seen)
        if cache is not None:
            cache.length += tokens.size(1)
        normalized: Tensor = self.norm(x)
        return normalized

    def _cos_sin(self, start: int, stop: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the positions from `start` up to `stop`: (length, head_dim) each, in the type of `like`.

        Computed in fp32 and kept, but not as buffers: converting the model to bf16 would round the angles themselves.
        """
        if self._angles is None or self._angles[0].size(0) < stop or self._angles[0].device != like.device:
            exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64, device=like.device).float() / self.head_dim
            frequencies = 1.0 / self.rope_theta**exponents
            angles = torch.outer(torch.arange(stop, device=like.device).float(), frequencies).repeat(1, 2)
            self._angles = angles.cos(), angles.sin()
        cos, sin = self._angles
        return cos[start:stop].to(like.dtype), sin[start:stop].to(like.dtype)


class Llama(LanguageModel):
    """The decoder with its output matrix: tokens (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(self, shape: Dimensions, vocab_size: int) -> None:
        super().__init__()
        self.shape, self.vocab_size = shape, vocab_size
        self.model = Decoder(shape, vocab_size)
        self.lm_head = Linear(shape.hidden_size, vocab_size, shape.init_std)
        self.tie_weights()

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        logits: Tensor = self.lm_head(self.model(tokens, cache))
        return logits

    def next_logits(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        # A long prompt's other logits would take more memory than all the rest.
        logits: Tensor = self.lm_head(self.model(tokens, cache)[:, -1])
        return logits

    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        size = (batch, self.shape.kv_heads, capacity, self.shape.head_dim)
        like = self.model.norm.weight
        return KeyValueCache(
            [like.new_empty(size) for _ in range(self.shape.layers)],
            [like.new_empty(size) for _ in range(self.shape.layers)],
        )

    def compile_layers(self) -> None:
        # Each on its own: the same code serves them all, so it is compiled once.
        for layer in self.model.layers:
            layer.compile()

    def recompute_activations(self) -> None:
        self.model.recompute = True

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        weights = dict(self.state_dict())
        if self.shape.tie_embeddings:
            del weights["lm_head.weight"]
        # As LlamaForCausalLM reads it; nothing is left to its defaults.
        return weights, {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.shape.hidden_size,
            "intermediate_size": self.shape.intermediate_size,
            "num_hidden_layers": self.shape.layers,
            "num_attention_heads": self.shape.heads,
            "num_key_value_heads": self.shape.kv_heads,
            "head_dim": self.shape.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.shape.positions,
            "rms_norm_eps": self.shape.norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.shape.rope_theta},
            # transformers 4 reads it here.
            "rope_theta": self.shape.rope_theta,
            "tie_word_embeddings": self.shape.tie_embeddings,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": self.shape.init_std,
            "use_cache": True,
        }

    def embeddings(self) -> list[Tensor]:
        return [self.model.embed_tokens.weight, self.lm_head.weight]

    def tie_weights(self) -> None:
        if self.shape.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight


def _positions(padding: Tensor, start: int, stop: int) -> Tensor:
    """Positions of the tokens from `start` up to `stop` behind the padding (batch,): (batch, 1, length), for all heads."""
    places = torch.arange(start, stop, device=padding.device)
    return (places - padding[:, None]).clamp(min=0)[:, None]


def _seen(padding: Tensor, start: int, stop: int) -> Tensor:
    """What each token from `start` up to `stop` may attend to: (batch, 1, length, stop), True where it may.

    Padding sees itself: a row that sees nothing has no softmax, and what is no number spreads.
    """
    asking = torch.arange(start, stop, device=padding.device)[:, None]
    asked = torch.arange(stop, device=padding.device)
    real = asked >= padding[:, None, None]
    return ((asked <= asking) & real | (asked == asking))[:, None]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair (i, i + head_dim / 2) by its position's angle. x: (batch, heads, length, head_dim)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def _residual_std(shape: Dimensions) -> float:
    """Matrices that write into the residual stream start smaller, so its variance does not grow with depth (GPT-2)."""
    return float(shape.init_std / (2 * shape.layers) ** 0.5)
