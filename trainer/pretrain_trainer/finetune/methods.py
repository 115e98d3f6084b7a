"""What is trained of a model: all of it, its last layers, or something small that is put beside them.

full, freeze     the model's own parameters
lora, adalora    updates of low rank beside its matrices (Hu et al. 2021, Zhang et al. 2023), through peft
prefix           keys and values before each text (Li and Liang 2021), through peft
adapter          a bottleneck behind each layer (Houlsby et al. 2019); peft has none
A new head is always trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Finetune
from torch import Tensor, nn
from torch.nn import functional

from pretrain_trainer.finetune.plan import FinetunePlan

MERGED = ("lora", "adalora")
"""Methods whose updates can be merged into the model."""
BESIDE = ("lora", "adalora", "prefix")
"""Methods that peft brings."""
POOLER = "pooler"
BOTTLENECKS = "bottlenecks.safetensors"
"""The file of an export by method adapter."""
BEGINNING, END = 0.1, 0.3
"""Shares of the steps, at the beginning and at the end, in which AdaLoRA keeps its ranks."""


class Bottleneck(nn.Module):
    """A narrow detour around the identity, which it is at the start: its last matrix is zero."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.norm, self.down, self.up = nn.LayerNorm(width), nn.Linear(width, narrow), nn.Linear(narrow, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        detour: Tensor = self.up(functional.gelu(self.down(self.norm(x))))
        return x + detour


def with_method(model: Any, plan: FinetunePlan, peft_type: str) -> Any:
    """The model, made ready to train what the section asks; fresh parameters are drawn from torch's generator.

    peft_type: what peft calls the task. Raises UserError if the method cannot be applied to this model.
    """
    section = plan.section
    match section.method:
        case "full":
            return model
        case "freeze":
            freeze_below(model, section.trained_layers)
            return model
        case "adapter":
            model.requires_grad_(plan.section.task != "generation")
            freeze_body(model)
            if has_pooler(model):
                model.base_model.pooler.requires_grad_(True)
            put_adapters(model, section.adapter_width)
            return model
        case _:
            return _with_peft(model, section, peft_type, plan.batch.steps)


def freeze_body(model: Any) -> None:
    """Leaves of all parameters only the head to be trained."""
    model.base_model.requires_grad_(False)


def freeze_below(model: Any, trained: int) -> None:
    """Leaves the last layers to be trained, and what comes after them: of BERT its pooler, of a decoder its last norm."""
    freeze_body(model)
    layers = layer_lists(model)[-1]
    for layer in list(layers)[len(layers) - trained :]:
        layer.requires_grad_(True)
    after = False
    for module in parent_of(model, layers).children():
        if after:
            module.requires_grad_(True)
        after = after or module is layers
    if has_pooler(model):
        model.base_model.pooler.requires_grad_(True)


def put_adapters(model: Any, narrow: int) -> None:
    """Puts a bottleneck behind each layer, encoder's and decoder's."""
    for layers in layer_lists(model):
        for layer in layers:
            layer.bottleneck = Bottleneck(model.config.hidden_size, narrow)
            layer.register_forward_hook(_through_bottleneck)


def layer_matrices(model: Any) -> list[str]:
    """The names of the linear maps in the model's layers."""
    inside = {
        id(part)
        for layers in layer_lists(model)
        for part in layers.modules()
        if isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"
    }
    return [name for name, part in model.named_modules() if id(part) in inside]


def has_pooler(model: Any) -> bool:
    """Whether there is a layer between body and head, which models that were pretrained without it draw anew."""
    return getattr(model.base_model, POOLER, None) is not None


def save_bottlenecks(model: Any, narrow: int, folder: Path) -> None:
    """Writes what was trained beside the base: bottlenecks, and a new head if there is one."""
    from safetensors.torch import save_file

    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in trained_parameters(model)}
    save_file(weights, folder / BOTTLENECKS, metadata={"format": "pt", "width": str(narrow)})


def with_bottlenecks(model: Any, folder: Path) -> Any:
    """A model of transformers, made from the base, with the bottlenecks and the head that were exported there."""
    from safetensors import safe_open

    with safe_open(folder / BOTTLENECKS, framework="pt") as file:
        put_adapters(model, int(file.metadata()["width"]))
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()}, strict=False)  # noqa: SIM118
    return model


def layer_lists(model: Any) -> list[nn.ModuleList]:
    """The lists of the model's layers; of an encoder-decoder the decoder's is last."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found = [
        module
        for module in model.base_model.modules()
        if isinstance(module, nn.ModuleList) and len(module) and isinstance(module[0], GradientCheckpointingLayer)
    ]
    if not found:
        raise UserError(f"method: the layers of {type(model).__name__} are not known; choose full or prefix")
    return found


def parent_of(model: nn.Module, wanted: nn.Module) -> nn.Module:
    """The module that another one is a child of."""
    return next(module for module in model.modules() if any(child is wanted for child in module.children()))


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Those that are trained, by name."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, whole, in fp32 on CPU. All processes call it together.

    Under ZeRO they are the optimizer's own copies, which are not rounded to bf16.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, parameter in trained_parameters(model):
        exact = (
            safe_get_full_fp32_param(parameter) if hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id") else None
        )
        weights[name] = (parameter if exact is None else exact).detach().float().cpu().clone().contiguous()
    return weights


def load_trained(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Puts what was trained into a model that was made in the same way."""
    assert weights.keys() == dict(trained_parameters(model)).keys(), "weights of another model"
    model.load_state_dict(weights, strict=False)


def _through_bottleneck(layer: Any, inputs: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (layer.bottleneck(output[0]), *output[1:])
    return layer.bottleneck(output)


def _with_peft(model: Any, section: Finetune, peft_type: str, steps: int) -> Any:
    import peft

    common = {"task_type": peft_type}
    updates = {
        "lora_alpha": section.lora.alpha,
        "lora_dropout": section.lora.dropout,
        "target_modules": layer_matrices(model),
        # peft adds the head.
        "modules_to_save": [POOLER] if has_pooler(model) else None,
    }
    match section.method:
        case "lora":
            config: Any = peft.LoraConfig(r=section.lora.rank, **updates, **common)
        case "adalora":
            if any(type(module).__name__ == "Conv1D" for module in model.modules()):
                raise UserError(
                    f"method: adalora cannot change the layers of {type(model).__name__}, which are no nn.Linear; choose lora"
                )
            config = peft.AdaLoraConfig(
                target_r=section.lora.rank,
                init_r=section.lora.initial_rank,
                total_step=steps,
                tinit=int(BEGINNING * steps),
                tfinal=int(END * steps),
                deltaT=max(1, steps // 100),
                **updates,
                **common,
            )
        case "prefix":
            config = peft.PrefixTuningConfig(num_virtual_tokens=section.prefix_tokens, **common)
        case _:
            raise AssertionError(section.method)
    return peft.get_peft_model(model, config)
