"""Memory that runs out: the message names the micro-batch that was used, and what to change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pretrain_trainer.config.sections import Training
from pretrain_trainer.launch import explain
from pretrain_trainer.watch.memory import out_of_memory, ran_out


def training(**fields: Any) -> Training:
    return Training.model_validate({"tokens": 512, "globalBatchTokens": 512, "sequenceLength": 8, **fields})


def test_torch_says_so_of_main_memory() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out(error.value)


def test_of_a_gpu_and_of_python() -> None:
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert ran_out(MemoryError())
    assert not ran_out(RuntimeError("Connection reset by peer"))
    assert not ran_out(ValueError("out of memory"))


def test_the_message_names_the_micro_batch_and_the_remedies() -> None:
    error = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    told = out_of_memory(error, training(microBatchSize=4, gpusPerNode=2), 2, 1, 0)
    assert str(told) == (
        "spec.training.microBatchSize: 4: out of memory at step 1 (CUDA out of memory. Tried to allocate 2.00 GiB.); lower "
        "microBatchSize, set activationCheckpointing: true, raise deepspeed.zeroStage above 2, or use GPUs with more memory"
    )
    assert told.exit_code == 65, "it would be the same again"
    full = training(processesPerNode=2, activationCheckpointing=True, deepspeed={"zeroStage": 3})
    told = out_of_memory(MemoryError(), full, 2, 0, 0)
    assert str(told) == (
        "spec.training.microBatchSize: 32 (chosen, as it is omitted): out of memory before the first step (MemoryError); lower "
        "microBatchSize, or raise resources.memory"
    )


def test_what_had_room_for_steps_may_have_it_again() -> None:
    assert out_of_memory(MemoryError(), training(), 1, 7, 6).exit_code == 75


def test_the_micro_batch_of_a_rank_that_was_killed_is_named() -> None:
    killed: Any = SimpleNamespace(exitcode=-9, message="", timestamp=5, signal_name=lambda: "SIGKILL")
    assert str(explain({0: killed}, training(microBatchSize=4))).endswith(
        "raise training.resources.memory or lower training.microBatchSize, which is 4"
    )
