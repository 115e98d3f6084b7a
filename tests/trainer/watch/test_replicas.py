"""Weights that a process no longer holds as the others do are found, and who holds them is named."""

from __future__ import annotations

import pytest
import torch
from pretrain_trainer import checkpoint
from pretrain_trainer.watch.replicas import difference, fingerprint

from tests.trainer.conftest import Site
from tests.trainer.jobs import STEPS, start
from tests.trainer.watch.faults import start_faulty

EVERY = 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_any_bit_changes_the_fingerprint(dtype: torch.dtype) -> None:
    def weights() -> list[torch.Tensor]:
        draw = torch.Generator().manual_seed(1)
        return [torch.randn(shape, generator=draw).to(dtype) for shape in ((40, 7), (3,), (2, 2, 2))]

    usual = int(fingerprint(weights()))
    assert int(fingerprint(weights())) == usual
    found = set()
    width = weights()[0].element_size()
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[width]
    for tensor in range(3):
        for bit in range(8 * width - 1):
            flipped = weights()
            flipped[tensor].view(integers).view(-1)[1] ^= 1 << bit
            found.add(int(fingerprint(flipped)))
    assert usual not in found
    assert int(fingerprint(weights()[::-1])) != usual
    assert int(fingerprint([])) == 0


def test_a_tensor_that_is_not_in_one_piece_has_one_too() -> None:
    whole = torch.randn(6, 4)
    assert int(fingerprint([whole.t()])) == int(fingerprint([whole.t().contiguous()]))


def test_who_differs_is_named() -> None:
    told = difference([5, 5, 7, 5], ["a", "a", "b", "b"], 300)
    assert told.startswith("the weights of rank 2 (b) are not those of the other 3 at step 300: memory or a device")
    told = difference([5, 7], ["a", "b"], 9)
    assert told.startswith("the weights of ranks 0, 1 (a, b) differ, and no majority says whose are right at step 9: ")
    assert "the weights of ranks 1, 2 (b) are not those of the other 3" in difference([5, 6, 7, 5, 5], list("abbcc"), 9)


@pytest.mark.slow
def test_a_bit_that_flips_in_one_process_ends_the_run_before_it_is_saved(site: Site) -> None:
    settings = {"processesPerNode": 2, "deepspeed": {"zeroStage": 0}, "faults": {"replicaCheckSteps": EVERY}}
    job = site.write(**settings)
    run = start_faulty(job, processes=2, flipped=[18, 1, 10])
    run.ended()
    assert run.errors[0].startswith("the weights of ranks 0, 1 ("), run.errors
    assert "at step 24: " in run.errors[0], f"found within {EVERY} steps"
    assert {said["exit_code"] for said in run.of("error")} == {75}
    assert checkpoint.committed_steps(site.storage) == [16]
    again = start("launch", job)
    assert again.result["steps"] == STEPS
    assert any("going on from step 16" in said["message"] for said in again.of("info"))
