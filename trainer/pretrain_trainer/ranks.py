"""The processes of a training run: how they find each other, agree and part.

One process a GPU, or several on CPU, started by torchrun, which tells each its place in the environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed as dist
from pretrain_stage.errors import UserError
from torch.distributed import distributed_c10d

STEP_TIMEOUT = timedelta(minutes=15)
"""Longest wait in a collective of a step. A process that hangs is noticed by the others' watch (watch/), as a rule long before."""

STORAGE_TIMEOUT = timedelta(hours=2)
"""Longest wait for other processes that read from or write to storage."""

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a process stands, as torchrun's environment says. All zeros and ones without torchrun."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node: int

    @property
    def first(self) -> bool:
        return self.rank == 0


@dataclass(frozen=True)
class Group:
    """The processes of this run, connected."""

    place: Place
    device: torch.device
    control: dist.ProcessGroup
    """A group for everything that is not part of a step: it waits for storage, and works without an accelerator."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks."""
        values: list[Any] = [None] * self.place.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def gather_numbers(self, number: int) -> list[int]:
        """The numbers of all processes, int64, in the order of their ranks."""
        numbers = [torch.zeros((), dtype=torch.int64) for _ in range(self.place.world_size)]
        dist.all_gather(numbers, torch.tensor(number, dtype=torch.int64), group=self.control)
        return [int(one) for one in numbers]

    def sum(self, counts: Sequence[int]) -> list[int]:
        """The counts added up over all processes."""
        total = torch.tensor(counts, dtype=torch.int64)
        dist.all_reduce(total, group=self.control)
        numbers: list[int] = total.tolist()
        return numbers

    def from_first(self, decide: Callable[[], T]) -> T:
        """What process 0 decides, on all processes. What it raises as UserError, all raise."""
        outcome: list[Any] = [None, None]
        if self.place.first:
            try:
                outcome[0] = decide()
            except UserError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, group=self.control)
        if outcome[1] is not None:
            raise outcome[1]
        value: T = outcome[0]
        return value

    def wait(self) -> None:
        """Waits until all processes are here."""
        dist.barrier(group=self.control)


def place() -> Place:
    """This process's place."""
    env = os.environ
    return Place(
        rank=int(env.get("RANK", 0)),
        world_size=int(env.get("WORLD_SIZE", 1)),
        local_rank=int(env.get("LOCAL_RANK", 0)),
        local_world_size=int(env.get("LOCAL_WORLD_SIZE", 1)),
        node=int(env.get("GROUP_RANK", 0)),
    )


def connect(where: Place, gpus: bool) -> Group:
    """Connects this process to the others: nccl on GPUs, gloo on CPU. Raises UserError if it finds no device of its own."""
    if gpus and torch.cuda.device_count() <= where.local_rank:
        raise UserError(
            f"spec.training.gpusPerNode: this machine has {torch.cuda.device_count()} CUDA devices, process {where.local_rank} "
            "of it finds none; set gpusPerNode: 0 to train on CPU, or run where the GPUs are"
        )
    # DeepSpeed's CPU accelerator would compile an extension for shared-memory collectives at every start; gloo does.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if gpus:
        torch.cuda.set_device(where.local_rank)
    # The others are waited for outside of Python, where no handler of ours would run; and there is nothing to save yet.
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    deepspeed.init_distributed(dist_backend="nccl" if gpus else "gloo", timeout=STEP_TIMEOUT, verbose=False)
    control = dist.new_group(backend="gloo", timeout=STORAGE_TIMEOUT)
    signal.signal(signal.SIGTERM, handler)
    device = torch.device("cuda", where.local_rank) if gpus else torch.device("cpu")
    return Group(place=where, device=device, control=control)


def bound_waits(group: Group) -> None:
    """Sets the time limit of all groups but the control group to STEP_TIMEOUT.

    DeepSpeed makes groups without one: on CPU those would wait 30 minutes for a process that hangs.
    """
    for other in list(distributed_c10d._world.pg_map):
        if other is not group.control:
            distributed_c10d._set_pg_timeout(STEP_TIMEOUT, other)
