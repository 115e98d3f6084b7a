"""The optimizer: the seam between the configuration and DeepSpeed.

torch's own optimizers are handed to DeepSpeed, not named in its configuration: they build no extension, and a resume
goes on to the last bit in every ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from pretrain_trainer.config.sections import Optimizer
from pretrain_trainer.model.language_model import TrainedModel

MUON_MOMENTUM = 0.95


def adamw(model: TrainedModel, section: Optimizer, fused: bool) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); decay on matrices only, since norms have no direction to forget.

    Where but a part of the model is trained, its few vectors decay too: DeepSpeed cannot convert a group so small that a process has
    nothing of it.
    """
    groups = _groups(model.parameters())
    if not model.whole_checkpoints:
        groups = [{"params": [parameter for group in groups for parameter in group["params"]]}]
    return torch.optim.AdamW(groups, **_settings(section, fused))


def adam(model: TrainedModel, section: Optimizer, fused: bool) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015); decay as part of the gradient, of matrices only."""
    return torch.optim.Adam(_groups(model.parameters()), **_settings(section, fused))


def muon(model: TrainedModel, section: Optimizer, fused: bool) -> torch.optim.Optimizer:
    """Muon (Jordan et al. 2024) for the matrices of the layers; embeddings, output and vectors by AdamW.

    Updates of Muon are scaled to the size that AdamW's have (Liu et al. 2025, section 2.2), so that one learning rate serves both.
    """
    apart = {id(parameter) for parameter in model.embeddings()}
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim == 2 and id(p) not in apart]
    chosen = {id(matrix) for matrix in matrices}
    return MuonAndAdamW(
        torch.optim.Muon(
            matrices,
            lr=section.learning_rate,
            weight_decay=section.weight_decay,
            momentum=MUON_MOMENTUM,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            _groups(parameter for parameter in model.parameters() if id(parameter) not in chosen),
            **_settings(section, fused),
        ),
    )


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers as one. Groups and state are this one's, so that a checkpoint holds all of it."""

    def __init__(self, matrices: torch.optim.Muon, rest: torch.optim.AdamW) -> None:
        self.parts: list[tuple[torch.optim.Optimizer, int, int]] = []
        groups: list[dict[str, Any]] = []
        for part in (matrices, rest):
            self.parts.append((part, len(groups), len(groups) + len(part.param_groups)))
            groups += part.param_groups
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """closure: not used, as DeepSpeed gives none."""
        for part, first, stop in self.parts:
            # Each time: DeepSpeed puts its own copies in place of parameters, and loading replaces groups and state.
            part.param_groups, part.state = self.param_groups[first:stop], self.state
            part.step()


OPTIMIZERS: dict[str, Callable[[TrainedModel, Optimizer, bool], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "adam": adam,
    "muon": muon,
}


def build_optimizer(model: TrainedModel, section: Optimizer, fused: bool) -> torch.optim.Optimizer:
    """The optimizer that `section` names, over all parameters of `model` that are trained."""
    return OPTIMIZERS[section.name](model, section, fused)


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """Sets the learning rate of the step to come. optimizer: torch's, or DeepSpeed's wrapper around it."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _settings(section: Optimizer, fused: bool) -> dict[str, Any]:
    return {
        "lr": section.learning_rate,
        "betas": (section.beta1, section.beta2),
        "eps": section.eps,
        "weight_decay": section.weight_decay,
        "fused": fused,
    }


def _groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    trained = [p for p in parameters if p.requires_grad]
    # Under ZeRO 3 a parameter's own shape is empty; DeepSpeed keeps the real one in ds_shape.
    matrices = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) >= 2]
    vectors = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    # DeepSpeed cannot divide up nothing.
    return [group for group in groups if group["params"]]
