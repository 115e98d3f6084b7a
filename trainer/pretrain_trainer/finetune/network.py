"""The network that is fine-tuned: a class of transformers around the base, and the method that trains it.

transformers' classes are asked for logits only: the loss is that of the loop, and dropout is drawn by sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pretrain_stage.errors import UserError
from torch import Tensor, nn

from pretrain_trainer.finetune.adalora import allocate_ranks, kept_ranks, orthogonality, restore_ranks
from pretrain_trainer.finetune.methods import with_method
from pretrain_trainer.finetune.plan import FinetunePlan
from pretrain_trainer.finetune.tasks import padding_token
from pretrain_trainer.model.dropout import Draw, SeededDropout
from pretrain_trainer.model.language_model import TrainedModel
from pretrain_trainer.objective import Tensors

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout", "activation_dropout")
"""Dropout that transformers draws in functions, from a stream, where ours cannot be put in its place."""
NOT_TRAINED = ("pooler",)
"""Parts of the body that models which were pretrained without them lack."""


class TaskModel(TrainedModel):
    """A network with its method."""

    def __init__(self, network: Any, head: str, plan: FinetunePlan) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.adaptive = plan.section.method == "adalora"
        self.whole_checkpoints = plan.section.method == "full"
        self.draw = Draw(plan.section.seed)
        draw_by_sample(network, self.draw)

    def forward(self, sample: Tensor | None = None, **inputs: Tensor) -> Tensors:
        """Logits by head. sample: global sample indices (batch,), where dropout is drawn."""
        self.draw.samples = sample
        return {self.head: self.network(**inputs).logits}

    def recompute_activations(self) -> None:
        self.network.gradient_checkpointing_enable({"use_reentrant": False})

    def compile_layers(self) -> None:
        raise AssertionError("fine-tuning compiles nothing")

    def adapt(self, engine: Any) -> None:
        if self.adaptive:
            allocate_ranks(self.network, engine)

    def kept(self) -> dict[str, Any]:
        return kept_ranks(self.network) if self.adaptive else {}

    def restore(self, kept: dict[str, Any]) -> None:
        if self.adaptive:
            restore_ranks(self.network, kept)

    def penalty(self) -> Tensor | None:
        return orthogonality(self.network) if self.adaptive else None


def read_config(folder: Path, plan: FinetunePlan) -> Any:
    """The base's configuration, as the task has it. Raises UserError if transformers has no class for the task."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    if plan.section.task != "generation":
        config.num_labels = len(plan.labels)
        config.id2label = dict(enumerate(plan.labels))
        config.label2id = {label: number for number, label in enumerate(plan.labels)}
    _check_class(config, plan)
    config.use_cache = plan.section.method == "prefix"  # the prefix is handed over as a cache
    return config


def build_network(folder: Path, config: Any, tokenizer: Any, head: str, peft_type: str, plan: FinetunePlan) -> TaskModel:
    """The network as the run begins, on CPU in fp32; what the base does not bring is drawn from torch's generator.

    Raises UserError if the base's weights do not fit its configuration.
    """
    # What is drawn and not trained is drawn alike whenever the network is made.
    torch.manual_seed(plan.section.seed)
    set_dropout(config, plan.section.dropout)
    config.pad_token_id = padding_token(tokenizer, config)
    with unsliced():
        network = _fresh(config, plan) if plan.section.from_scratch else _read(folder, config, plan)
        give_dropout(network, plan.section.dropout)
        return TaskModel(with_method(network, plan, peft_type), head, plan)


def count_parameters(config: Any, plan: FinetunePlan) -> int:
    """Parameters of the model with its head."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _fresh(config, plan).parameters())


def set_dropout(config: Any, share: float) -> None:
    """What dropout of the configuration can be drawn by sample gets that share; the rest is switched off."""
    functional = [*ATTENTION_DROPOUT, *(["dropout"] if config.is_encoder_decoder else [])]
    for name in functional:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    for name in ("hidden_dropout_prob", "resid_pdrop", "embd_pdrop", "dropout_rate"):
        if hasattr(config, name):
            setattr(config, name, share)


def give_dropout(network: nn.Module, share: float) -> None:
    """All modules of dropout that are on get that share."""
    for module in network.modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            module.p = share


def draw_by_sample(network: nn.Module, draw: Draw) -> None:
    """Puts dropout that is drawn by sample where dropout stands."""
    places = [
        (module, name, child.p)
        for module in network.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.Dropout) and child.p > 0
    ]
    for place, (module, name, share) in enumerate(places):
        module.register_module(name, SeededDropout(share, place, draw))


@contextmanager
def unsliced() -> Iterator[None]:
    """In here models are made whole on CPU, also where ZeRO 3 would slice each parameter as it is made: weights are read later."""
    from deepspeed.runtime.zero.partition_parameters import restore_init_context, shutdown_init_context

    shutdown_init_context()
    try:
        with torch.device("cpu"):
            yield
    finally:
        restore_init_context()


def _check_class(config: Any, plan: FinetunePlan) -> None:
    from transformers.models.auto import modeling_auto as known

    encodes = config.model_type in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder
    fits = {
        "classification": config.model_type in known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "token-classification": config.model_type in known.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "generation": config.model_type in known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        if config.is_encoder_decoder
        else config.model_type in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not encodes,
    }
    if not fits[plan.section.task]:
        fitting = " or ".join(task for task, can in fits.items() if can) or "none of the tasks"
        raise UserError(
            f"{plan.field}.task: {plan.section.task} cannot be learned by {plan.base.name}, a model of type {config.model_type}; it "
            f"can learn {fitting}: change task, or give another base"
        )


def _auto(config: Any, plan: FinetunePlan) -> Any:
    import transformers

    match plan.section.task:
        case "classification":
            return transformers.AutoModelForSequenceClassification
        case "token-classification":
            return transformers.AutoModelForTokenClassification
        case "generation":
            return transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM


def _fresh(config: Any, plan: FinetunePlan) -> Any:
    return _auto(config, plan).from_config(config, dtype=torch.float32)


def _read(folder: Path, config: Any, plan: FinetunePlan) -> Any:
    try:
        model, report = _auto(config, plan).from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{plan.base.name}: transformers cannot read it ({first[:300]}); save the model again") from None
    body = f"{model.base_model_prefix}."
    if plan.section.method == "prefix" and any(part in name for name in report["missing_keys"] for part in NOT_TRAINED):
        raise UserError(
            f"{plan.field}.method: prefix trains no layer that {plan.base.name} lacks, and it lacks its pooler; choose another method, "
            "or token-classification"
        )
    lacking = [
        name
        for name in sorted(report["missing_keys"])
        if (name.startswith(body) or plan.section.task == "generation") and not any(part in name for part in NOT_TRAINED)
    ]
    if lacking:
        raise UserError(
            f"{plan.base.name}: has no {lacking[0]}{f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''}, which its "
            "config.json promises; weights and configuration are of two models: save the model again"
        )
    return model
