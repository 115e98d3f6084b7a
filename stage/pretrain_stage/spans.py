"""How much span-corruption takes out of a sample. Preprocessing must know it to have a sentinel for each span, training to draw them.

A window of text is cut into kept and taken spans in turns; the encoder reads the kept ones with a sentinel in place of each
span that was taken, the decoder writes the taken ones, each behind its sentinel (Raffel et al. 2020, section 3.1.4). Both end
with the end-of-text token. How many tokens and spans are taken is the same for all windows of a length, so that all samples
have one shape. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spans:
    """What is taken out of `window` tokens of text."""

    window: int
    taken: int
    """Tokens."""
    count: int
    """Spans that these make, each with a sentinel."""

    @property
    def encoder(self) -> int:
        """Tokens that the encoder reads."""
        return self.window - self.taken + self.count + 1

    @property
    def decoder(self) -> int:
        """Tokens that the decoder is asked for."""
        return self.taken + self.count + 1


def spans_in(window: int, fraction: float, mean_span: float) -> Spans:
    """What is taken out of a window of at least 2 tokens: `fraction` of them, in spans of `mean_span` on average.

    At least one token is taken and one kept, and no span is empty.
    """
    taken = min(max(round(window * fraction), 1), window - 1)
    return Spans(window, taken, min(max(round(taken / mean_span), 1), taken, window - taken))


def spans_that_fill(encoder: int, fraction: float, mean_span: float) -> Spans:
    """The longest window after which the encoder reads at most `encoder` tokens, which are at least 3."""
    short, long = 2, 2 * encoder
    while spans_in(long, fraction, mean_span).encoder <= encoder:
        long *= 2
    while long - short > 1:
        middle = (short + long) // 2
        if spans_in(middle, fraction, mean_span).encoder <= encoder:
            short = middle
        else:
            long = middle
    return spans_in(short, fraction, mean_span)
