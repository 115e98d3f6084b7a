"""How much span-corruption takes out of a window."""

from __future__ import annotations

import pytest
from pretrain_stage.spans import spans_in, spans_that_fill


def test_the_arithmetic_of_the_paper() -> None:
    """512 inputs of T5 (Raffel et al. 2020): 568 tokens of text, 114 for the decoder."""
    spans = spans_that_fill(512, 0.15, 3)
    assert (spans.window, spans.encoder, spans.decoder) == (568, 512, 114)


@pytest.mark.parametrize("fraction", [0.01, 0.15, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("mean", [1, 3, 20])
@pytest.mark.parametrize("encoder", [8, 9, 100, 4096])
def test_the_encoder_is_filled_as_far_as_whole_spans_allow(fraction: float, mean: float, encoder: int) -> None:
    spans = spans_that_fill(encoder, fraction, mean)
    assert spans.encoder <= encoder < spans_in(spans.window + 1, fraction, mean).encoder
    assert encoder - spans.encoder <= 1


@pytest.mark.parametrize("window", range(2, 40))
@pytest.mark.parametrize("fraction", [0.01, 0.15, 0.5, 0.99])
def test_no_span_is_empty(window: int, fraction: float) -> None:
    for mean in (1, 3, 50):
        spans = spans_in(window, fraction, mean)
        assert 1 <= spans.count <= min(spans.taken, window - spans.taken)
        assert spans.encoder + spans.decoder == window + 2 * spans.count + 2
