"""Whether all processes hold the same weights, where they should: a bit that flipped in one of them is silent otherwise.

Under ZeRO 0 each process updates weights of its own, so a difference stays, and grows. Under ZeRO 1 and 2 the weights are put together
anew in each update from parts that one process has: a difference is seen from when it comes until then, and a part that is wrong is
wrong everywhere alike, which no comparison finds. Under ZeRO 3 each process has a part, and only small parameters, which all keep, are
compared.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from pretrain_stage.errors import EXIT_TEMPORARY, UserError
from torch import Tensor

from pretrain_trainer.ranks import Group
from pretrain_trainer.watch.verdict import ranks

FACTOR = 1_000_003
"""Odd, so that multiplying by it modulo 2^64 loses nothing."""
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ReplicasDiffer(UserError):
    """Processes hold different weights. The job is not wrong; a device or its memory is."""

    exit_code = EXIT_TEMPORARY


def check_replicas(engine: Any, group: Group, step: int) -> None:
    """Compares the weights of all processes, which call this together. Raises ReplicasDiffer on all of them."""
    own = int(fingerprint([parameter for parameter in engine.module.parameters() if _is_whole(parameter)]))
    found = group.gather_numbers(own)
    if len(set(found)) > 1:
        raise ReplicasDiffer(difference(found, group.gather(socket.gethostname()), step))


def fingerprint(parameters: Sequence[Tensor]) -> Tensor:
    """A number that any changed bit changes, int64 on their device: the bit patterns of each tensor are added up, modulo 2^64.

    Numbers that changed places within one tensor, and changes whose patterns cancel, are not seen.
    """
    total = torch.zeros((), dtype=torch.int64, device=parameters[0].device if parameters else None)
    for parameter in parameters:
        data = parameter.detach()
        total = total * FACTOR + data.contiguous().view(_BITS[data.element_size()]).sum(dtype=torch.int64)
    return total


def difference(found: Sequence[int], machines: Sequence[str], step: int) -> str:
    """What is said of processes whose fingerprints are those; found, machines: by rank."""
    (usual, times), *_ = Counter(found).most_common()
    odd = [rank for rank, number in enumerate(found) if number != usual]
    where = ", ".join(sorted({machines[rank] for rank in odd}))
    if 2 * times > len(found):
        others = len(found) - len(odd)
        who = f"the weights of {ranks(odd)} ({where}) are not those of the other {others}"
    else:
        who = f"the weights of {ranks(range(len(found)))} ({', '.join(sorted(set(machines)))}) differ, and no majority says whose are right"
    return (
        f"{who} at step {step}: memory or a device has corrupted them; the run ends without saving, to go on from its newest checkpoint. "
        "If it happens again, take that machine out"
    )


def _is_whole(parameter: Any) -> bool:
    """Whether each process holds all of a parameter at any time."""
    return not hasattr(parameter, "ds_tensor") or bool(getattr(parameter, "ds_persist", False) and parameter.data.numel())
