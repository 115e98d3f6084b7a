"""What AdaLoRA (Zhang et al. 2023) does between the steps: it looks which ranks matter, and takes the others away.

peft's own way would be undone under ZeRO: the engine's step writes its copies of the parameters over those that were changed.
The section refuses ZeRO stages whose copies cannot be changed from here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

STATE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What peft's allocator remembers of each parameter: its importance, smoothed, and how uncertain that is."""
PATTERN = "rank_pattern"


def allocate_ranks(model: Any, engine: Any) -> None:
    """Lets each step of the engine be followed by an allocation of ranks. model: peft's, inside the engine."""
    from deepspeed.utils import safe_get_full_grad, safe_set_full_fp32_param

    take_step = engine.step
    updated = {name: p for name, p in model.named_parameters() if "lora_" in name and p.requires_grad}

    def step() -> None:
        if not engine.is_gradient_accumulation_boundary():
            take_step()
            return
        # The step leaves no gradients, which importance is made of.
        gradients = {name: safe_get_full_grad(parameter).clone() for name, parameter in updated.items()}
        take_step()
        for name, parameter in updated.items():
            parameter.grad = gradients[name].to(parameter.dtype)
        model.base_model.update_and_allocate(engine.global_steps)
        for name, parameter in updated.items():
            parameter.grad = None
            if "lora_E" in name:
                safe_set_full_fp32_param(parameter, parameter.data.float().clone())

    engine.step = step


def kept_ranks(model: Any) -> dict[str, Any]:
    """What a resumed run needs to take the same ranks away."""
    allocator = model.base_model.rankallocator
    return {**{name: dict(getattr(allocator, name)) for name in STATE}, PATTERN: _config(model).rank_pattern}


def restore_ranks(model: Any, kept: dict[str, Any]) -> None:
    """Takes up what was kept."""
    for name in STATE:
        setattr(model.base_model.rankallocator, name, kept[name])
    _config(model).rank_pattern = kept[PATTERN]


def orthogonality(model: Any) -> Tensor:
    """How far the updates' matrices are from orthogonal, weighted: a part of AdaLoRA's loss."""
    norms = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or not ("lora_A" in name or "lora_B" in name):
            continue
        square = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
        norms.append(torch.linalg.norm(square - torch.eye(len(square), device=square.device, dtype=square.dtype)).float())
    weighted: Tensor = _config(model).orth_reg_weight * torch.stack(norms).mean()
    return weighted


def _config(model: Any) -> Any:
    return model.peft_config[model.active_adapter]
