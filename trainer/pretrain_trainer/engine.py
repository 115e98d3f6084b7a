"""The DeepSpeed engine: what of the job becomes its configuration, and what it is built around."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import deepspeed
import torch

from pretrain_trainer.config.batch import Batch
from pretrain_trainer.config.sections import Training
from pretrain_trainer.model.language_model import TrainedModel
from pretrain_trainer.optimizer import build_optimizer
from pretrain_trainer.plan import RunPlan
from pretrain_trainer.ranks import Group, bound_waits


def build_engine(plan: RunPlan, group: Group, model_of: Callable[[], TrainedModel], *, universal: bool) -> Any:
    """The engine around the model that `model_of` makes; fresh weights follow from the seed alone.

    universal: whether it will load a checkpoint that was converted from another number of processes.
    """
    training = plan.job.spec.training
    config = deepspeed_config(training, plan.batch, universal=universal)
    torch.manual_seed(training.seed)
    with _placement(training, group, config, sliced=plan.job.spec.model.family == "llama"):
        model = model_of()
    model.seed_dropout(training.seed)
    model.l1 = training.optimizer.l1
    if training.activation_checkpointing:
        model.recompute_activations()
    if training.compile:
        model.compile_layers()
    # Unfused, AdamW makes copies as large as what it steps at once, which is everything but under ZeRO 3. On CPU its sums
    # would depend on how the parameters are divided up.
    fused = training.gpus_per_node > 0 and training.deepspeed.zero_stage < 3
    optimizer = build_optimizer(model, training.optimizer, fused=fused)
    if _clips_itself(training):
        _clip_and_guard(optimizer, training.optimizer.gradient_clipping)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    if training.precision == "bf16" and training.deepspeed.zero_stage == 0:
        _undo_first_step(engine.optimizer)
    bound_waits(group)
    return engine


def grad_norm(engine: Any) -> float | torch.Tensor:
    """The norm of the last step's gradient before clipping, over all processes."""
    norm = engine.get_global_grad_norm()
    own: float | torch.Tensor = engine.optimizer.grad_norm if norm is None else norm
    return own


def deepspeed_config(training: Training, batch: Batch, *, universal: bool) -> dict[str, Any]:
    """The configuration that DeepSpeed is given."""
    return {
        "train_batch_size": batch.samples,
        "train_micro_batch_size_per_gpu": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "gradient_clipping": 0.0 if _clips_itself(training) else training.optimizer.gradient_clipping,
        "bf16": {"enabled": training.precision == "bf16"},
        "zero_optimization": {"stage": training.deepspeed.zero_stage},
        "zero_allow_untested_optimizer": True,
        "checkpoint": {"load_universal": universal},
        "steps_per_print": None,
    }


def _clips_itself(training: Training) -> bool:
    """Whether clipping is ours: with fp32 and no ZeRO, DeepSpeed clips without keeping the norm, and updates whatever it is.

    Everywhere else it leaves out an update whose norm is not a number.
    """
    return training.precision == "fp32" and training.deepspeed.zero_stage == 0


def _clip_and_guard(optimizer: torch.optim.Optimizer, most: float) -> None:
    """Clips the gradient just before the optimizer's step and keeps its norm; the step is left out if that is not a number.

    The gradient has been averaged by then, so all processes decide alike. most: 0 measures only.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    step = optimizer.step

    def guarded(*_: Any) -> None:
        norm = torch.nn.utils.clip_grad_norm_(parameters, most or math.inf)
        optimizer.grad_norm = norm  # type: ignore[attr-defined]
        if norm.isfinite():
            step()

    optimizer.step = guarded  # type: ignore[method-assign, assignment]


def _undo_first_step(optimizer: Any) -> None:
    """Takes back the step without gradients that DeepSpeed's unfused optimizer takes on being made, to have its state allocated.

    It decays the weights once, and the first real step would be corrected as if it were the second.
    """
    optimizer.optimizer.state.clear()
    optimizer.refresh_fp32_params()


def _placement(training: Training, group: Group, config: dict[str, Any], *, sliced: bool) -> Any:
    """Where weights are made: in slices under ZeRO 3, so that no process ever holds all; else on the process's device.

    sliced: whether each module draws its own weights. Those of transformers draw them when all modules are there, so a process
    holds the whole model in main memory until DeepSpeed has divided it.
    """
    stack = contextlib.ExitStack()
    if training.deepspeed.zero_stage == 3:
        if sliced:
            stack.enter_context(deepspeed.zero.Init(config_dict_or_path=config))
    elif group.device.type == "cuda":
        stack.enter_context(group.device)
    return stack
