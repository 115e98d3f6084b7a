"""Published model shapes, and the numbers that follow from a shape."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Dimensions:
    """The shape of a model, without its vocabulary."""

    hidden_size: int
    intermediate_size: int
    layers: int
    """Of marian, those of the decoder."""
    heads: int
    kv_heads: int
    rope_theta: float
    """Base of the rotary positions; of llama alone."""
    norm_eps: float
    tie_embeddings: bool
    family: Literal["llama", "gpt2", "bert", "marian"] = "llama"
    encoder_layers: int = 0
    """Of marian alone."""
    positions: int | None = None
    """Most positions that the model is trained for; of gpt2 and bert as many are learned. None if that was not said."""
    next_sentence: bool = False
    """Whether there is a head for the relation of two sentences."""
    dropout: float = 0.0
    init_std: float = 0.02
    decoder_share: float = 0.0
    """Tokens that the decoder of an encoder-decoder reads, for each one that its encoder reads."""

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads

    def parameters(self, vocab_size: int) -> int:
        """Parameters that are trained, with a vocabulary of that size. A matrix that is used twice counts once."""
        return self._matrices(vocab_size) + (0 if self.tie_embeddings else vocab_size * self.hidden_size)

    def flops_per_token(self, vocab_size: int, sequence_length: int) -> float:
        """Floating-point operations of one token's forward and backward pass: 6 per matrix parameter, and attention's
        12 x layers x heads x head size x sequence (PaLM, Chowdhery et al. 2022, appendix B: not halved for the causal mask,
        and what activation checkpointing computes again does not count).

        Tokens of an encoder-decoder are those that its encoder reads; what its decoder computes meanwhile is counted with them.
        """
        if self.family != "marian":
            return 6 * self._matrices(vocab_size) + 12 * self.layers * self.hidden_size * sequence_length
        share, hidden = self.decoder_share, self.hidden_size
        encoder = self.encoder_layers * (6 * self._block + 12 * hidden * sequence_length)
        # Keys and values of cross attention are computed for what the encoder read.
        across = 6 * (2 * share + 2) * (hidden * hidden + hidden) + 12 * hidden * sequence_length * share
        decoder = self.layers * (6 * share * (self._block + 2 * hidden) + 12 * hidden * sequence_length * share**2 + across)
        return encoder + decoder + 6 * share * vocab_size * hidden

    def _matrices(self, vocab_size: int) -> int:
        """Parameters but those of a second embedding."""
        hidden, embedding = self.hidden_size, vocab_size * self.hidden_size
        if self.family == "llama":
            attention = hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
            swiglu = 3 * hidden * self.intermediate_size
            return self.layers * (attention + swiglu + 2 * hidden) + embedding + hidden
        if self.family == "marian":
            cross_attention = 4 * (hidden * hidden + hidden) + 2 * hidden
            return (self.encoder_layers + self.layers) * self._block + self.layers * cross_attention + embedding
        assert self.positions is not None, "learned positions; Model.dimensions was not told the training"
        body = self.layers * self._block + embedding + self.positions * hidden + 2 * hidden
        if self.family == "gpt2":
            return body
        segments, transform = 2 * hidden, hidden * hidden + 3 * hidden
        pooled = hidden * hidden + hidden + 2 * hidden + 2 if self.next_sentence else 0
        return body + segments + transform + vocab_size + pooled

    @property
    def _block(self) -> int:
        """Parameters of a layer with biases: self-attention, feed-forward and two norms."""
        hidden, inner = self.hidden_size, self.intermediate_size
        return 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden


PRESETS = MappingProxyType(
    {
        # Ours: trains in minutes on two CPU cores.
        "tiny": Dimensions(256, 688, 4, 8, 4, 10_000.0, 1e-5, True),
        # The size of GPT-2 small and of Pythia-160m's body, in Llama's form.
        "small": Dimensions(768, 2048, 12, 12, 12, 10_000.0, 1e-5, True),
        # Touvron et al. 2023, Llama 2, table 1 and the published configuration.
        "llama2-7b": Dimensions(4096, 11_008, 32, 32, 32, 10_000.0, 1e-5, False),
        # Grattafiori et al. 2024, The Llama 3 Herd of Models, table 3.
        "llama3-8b": Dimensions(4096, 14_336, 32, 32, 8, 500_000.0, 1e-5, False),
    }
)
