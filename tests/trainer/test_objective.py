"""What causal-lm asks, and how its loss is summed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretrain_trainer.objective import IGNORED, CausalLM, as_tensor, loss_sum
from pretrain_trainer.tokens import TokenStream
from torch.nn import functional


def test_each_token_is_asked_for_after_those_before_it() -> None:
    stream = TokenStream((np.arange(1000, 1101, dtype=np.uint16),), np.array([101]))
    objective = CausalLM(stream, 8, seed=1)
    samples = objective.at(range(2, 14))  # twelve windows of 8 tokens are a pass over the text
    inputs, targets = objective.together(samples)
    starts = [1000 + 8 * place for place in objective.places(range(2, 14))]
    assert inputs["tokens"].tolist() == [list(range(start, start + 8)) for start in starts]
    assert targets["tokens"].tolist() == [list(range(start + 1, start + 9)) for start in starts]
    assert objective.targets(range(100, 104)) == {"tokens": 4 * 8}
    assert sorted(objective.places(range(12))) == list(range(12))


def test_loss_is_a_sum_over_the_targets_that_count() -> None:
    logits = torch.randn(2, 5, 11)
    targets = torch.randint(0, 11, (2, 5))
    targets[0, :3] = IGNORED
    mean = functional.cross_entropy(logits.view(-1, 11), targets.view(-1), ignore_index=IGNORED)
    assert loss_sum(logits, targets).item() == pytest.approx(mean.item() * 7, rel=1e-6)


def test_loss_of_bf16_logits_is_taken_in_fp32() -> None:
    logits, targets = torch.randn(4, 50).bfloat16(), torch.randint(0, 50, (4,))
    assert loss_sum(logits, targets).dtype == torch.float32
    assert loss_sum(logits, targets).item() == pytest.approx(loss_sum(logits.float(), targets).item())


def test_rows_become_a_tensor() -> None:
    tensor = as_tensor([np.array([1, 2]), np.array([3, 4])])
    assert tensor.tolist() == [[1, 2], [3, 4]]
    assert tensor.dtype == torch.int64
