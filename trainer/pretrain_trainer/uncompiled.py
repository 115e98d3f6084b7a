"""Keeps torch's compiler out of a process in which nothing is compiled: its import is a quarter of what a rank does before its first
step, and each restart would pay for it again.

torch imports it to mark functions that are not to be compiled and to step an optimizer, DeepSpeed to compile an optimizer that
nobody asked for. Where TORCHDYNAMO_DISABLE is set, all of that changes nothing, so it is left out. What is replaced is torch's
own, private in part: the versions are pinned, and a test looks whether the compiler stays away. Activation checkpointing imports
it all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def leave_compiler_out() -> None:
    """To be called before DeepSpeed is imported, in a process that never compiles."""
    import torch
    from torch.optim import Optimizer

    marked: tuple[Any, ...] = (Optimizer.state_dict, Optimizer.load_state_dict, Optimizer.add_param_group)
    for function in marked:
        plain = function.__wrapped__
        plain.__dynamo_disable = plain  # where torch keeps the marked function once it has made it
    for kind in list(vars(torch.optim).values()):
        if isinstance(kind, type) and hasattr(vars(kind).get("step"), "__wrapped__"):
            # Around each step torch tells the compiler to stop there, and whether the step itself is differentiated: never here.
            kind.step = torch.no_grad()(kind.step.__wrapped__)  # type: ignore[attr-defined]
    for module, name in ((torch, "compile"), (torch, "_disable_dynamo"), (torch.compiler, "disable")):
        setattr(module, name, _as_it_is)


def _as_it_is(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """A decorator that does nothing, with or without arguments."""
    return _as_it_is if function is None else function
