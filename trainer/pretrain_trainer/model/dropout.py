"""Dropout (Srivastava et al. 2014) drawn by sample: a mask is a pure function of seed, global sample index and place.

A stream of random numbers would give a sample another mask on another number of processes, in another micro-batch or after
a resume. Here nothing is drawn from a stream: each number is hashed from what it is for, all of them at once on the device,
in whole numbers, so every device draws the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
"""A number is 16 bits: the share dropped is that close to the one asked for, and one hash serves four of them."""
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


@dataclass
class Draw:
    """What the masks of a model's pass follow from. Stays as it is until the next pass, so recomputation draws the same."""

    seed: int = 0
    samples: Tensor | None = None
    """Global sample indices of the micro-batch, (batch,) int64."""


class SeededDropout(nn.Module):
    """Drops a share of what passes, and scales the rest so that its mean stays. place: which dropout of the model it is."""

    place: Tensor

    def __init__(self, share: float, place: int, draw: Draw) -> None:
        super().__init__()
        self.dropped = round(share * _LEVELS)
        self.draw = draw
        # A tensor, so that the compiler does not take each place for another program.
        self.register_buffer("place", torch.tensor(place), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, ...), any floating type."""
        if not self.training or self.dropped == 0:
            return x
        assert self.draw.samples is not None, "dropout without the indices of the samples"
        falls = numbers(self.draw.seed, self.draw.samples, self.place, x[0].numel()) < self.dropped - _LEVELS // 2
        return (x * (_LEVELS / (_LEVELS - self.dropped))).masked_fill(falls.view_as(x), 0)


def numbers(seed: int, samples: Tensor, place: Tensor, count: int) -> Tensor:
    """Numbers that are spread evenly over int16, (batch, count), for `samples` (batch,) int64 at that place of the model."""
    keys = _mixed(_mixed(samples + seed * _FIRST % (1 << 62)) + (place + 1) * _GOLDEN)
    steps = torch.arange(1, -(-count // 4) + 1, device=samples.device) * _GOLDEN
    return _mixed(keys[:, None] + steps).view(torch.int16)[:, :count]


def _mixed(values: Tensor) -> Tensor:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014). Arithmetic wraps at 64 bits, as it is meant to."""
    values = (values ^ _right(values, 30)) * _FIRST
    values = (values ^ _right(values, 27)) * _SECOND
    return values ^ _right(values, 31)


def _right(values: Tensor, bits: int) -> Tensor:
    """Shifts to the right without copies of the sign, which torch's shift of signed numbers makes."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
