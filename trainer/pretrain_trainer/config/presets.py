"""Published model shapes, and the numbers that follow from a shape."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Dimensions:
    """The shape of a Llama-family decoder (Touvron et al. 2023), without its vocabulary."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads

    def parameters(self, vocab_size: int) -> int:
        """Parameters with a vocabulary of that size: embeddings, attention, SwiGLU, norms."""
        attention = self.hidden_size * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        swiglu = 3 * self.hidden_size * self.intermediate_size
        layer = attention + swiglu + 2 * self.hidden_size
        embeddings = vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.layers * layer + embeddings + self.hidden_size

    def flops_per_token(self, vocab_size: int, sequence_length: int) -> float:
        """Floating-point operations of one token's forward and backward pass: 6 per matrix parameter, and attention's
        12 x layers x heads x head size x sequence (PaLM, Chowdhery et al. 2022, appendix B: not halved for the causal mask,
        and what activation checkpointing computes again does not count).
        """
        matrix_parameters = self.parameters(vocab_size) - (0 if self.tie_embeddings else vocab_size * self.hidden_size)
        return 6 * matrix_parameters + 12 * self.layers * self.hidden_size * sequence_length


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
