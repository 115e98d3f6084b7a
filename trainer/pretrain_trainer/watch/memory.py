"""Memory that ran out: how it is told from other errors, and what is said of it. Imports nothing heavy."""

from __future__ import annotations

import re

from pretrain_stage.errors import EXIT_TEMPORARY, EXIT_USER_ERROR, UserError

from pretrain_trainer.config.batch import batch_of
from pretrain_trainer.config.sections import Training

_SAID = re.compile(r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory", re.IGNORECASE)


class OutOfMemory(UserError):
    """A device or the machine has no memory left for a step."""

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        self.exit_code = EXIT_TEMPORARY if temporary else EXIT_USER_ERROR


def ran_out(error: BaseException) -> bool:
    """Whether that is why. torch raises RuntimeError, of a GPU a kind of its own, and names neither alike."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _SAID.search(str(error)) is not None)


def out_of_memory(error: BaseException, training: Training, world_size: int, step: int, steps: int) -> OutOfMemory:
    """What to say of it. step: in which it came, 0 before the first. steps: that this attempt has done: as one that did some may again."""
    where = f"at step {step}" if step else "before the first step"
    said = str(error).strip().split("\n", 1)[0][:300] or type(error).__name__
    return OutOfMemory(
        f"spec.training.microBatchSize: {used(training, world_size)}: out of memory {where} ({said}); {remedy(training)}",
        temporary=steps > 0,
    )


def used(training: Training, world_size: int) -> str:
    """The micro-batch, given or chosen."""
    try:
        micro = batch_of(training, world_size).micro
    except ValueError:  # a batch that cannot be shared out has been refused, or will be
        return "omitted"
    return f"{micro}" if training.micro_batch_size else f"{micro} (chosen, as it is omitted)"


def remedy(training: Training) -> str:
    """What to change, most promising first."""
    ways = ["lower microBatchSize"]
    if not training.activation_checkpointing:
        ways.append("set activationCheckpointing: true")
    if training.deepspeed.zero_stage < 3:
        ways.append(f"raise deepspeed.zeroStage above {training.deepspeed.zero_stage}")
    return ", ".join(ways) + (", or use GPUs with more memory" if training.gpus_per_node else ", or raise resources.memory")
