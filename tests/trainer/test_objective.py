"""How samples become a batch, and losses a sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretrain_trainer.objective import IGNORED, Sample, loss_sum, stacked
from torch.nn import functional


def test_samples_become_a_batch() -> None:
    rows = [np.array([1, 2]), np.array([3, 4])]
    samples = [
        Sample({"tokens": row}, {"tokens": row + 1, "next_sentence": np.array(number)}) for number, row in enumerate(rows)
    ]
    inputs, targets = stacked(samples)
    assert inputs["tokens"].tolist() == [[1, 2], [3, 4]]
    assert targets["tokens"].tolist() == [[2, 3], [4, 5]]
    assert targets["next_sentence"].tolist() == [0, 1]
    assert {tensor.dtype for tensor in (*inputs.values(), *targets.values())} == {torch.int64}


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
