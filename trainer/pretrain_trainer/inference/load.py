"""A model's folder, ready to be asked: the one place that knows which kind of folder becomes what."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from pretrain_stage.errors import UserError
from safetensors.torch import load_file

from pretrain_trainer.generate import generate_batch
from pretrain_trainer.inference.answering import AnsweringModel, Settings
from pretrain_trainer.inference.classification import TextClassifier, WordTagger
from pretrain_trainer.inference.folder import CONFIG, WEIGHTS, ModelFolder, read_json
from pretrain_trainer.inference.generation import WritingModel, ends_of, transformers_loop
from pretrain_trainer.model.language_model import LanguageModel
from pretrain_trainer.model.llama import Llama


def load_model(folder: ModelFolder, settings: Settings, device: torch.device) -> AnsweringModel:
    """The folder's model on that device: on CPU in fp32, on a GPU in the format in which it is stored.

    Raises UserError if the weights do not fit the configuration.
    """
    quiet()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.tokenizer, local_files_only=True)
    configs = [read_json(folder.path / "generation_config.json", folder.name) or {}, folder.config]
    ends = ends_of(tokenizer, *configs)
    pad = next((token for token in (tokenizer.pad_token_id, *sorted(ends)) if token is not None), 0)
    if folder.kind == "generation":
        shape = folder.dimensions
        model: Any = their_model(folder, device) if shape is None else our_decoder(folder, device)
        loop = (
            transformers_loop(model, pad, encoder_decoder=folder.encoder_decoder)
            if shape is None
            else partial(generate_batch, model)
        )
        name = described(model, folder)
        return WritingModel(name, loop, tokenizer, ends, settings, folder.positions, folder.encoder_decoder)
    model = their_model(folder, device)
    labels = tuple(model.config.id2label[number] for number in range(model.config.num_labels))
    if len(labels) < 2 or model.config.problem_type == "multi_label_classification":
        raise UserError(
            f"{folder.name}: gives {len(labels)} scores that are no choice of one label; such models are not asked here"
        )
    if pad is not None:
        model.config.pad_token_id = pad
    made = TextClassifier if folder.kind == "classification" else WordTagger
    return made(described(model, folder), model, tokenizer, labels, pad, folder.positions)


def device_named(name: str) -> torch.device:
    """`auto` is a GPU if there is one. Raises UserError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: cuda, but this machine has no CUDA device; give cpu")
    return torch.device(name)


@contextmanager
def memory_explained(field: str, batch_tokens: int) -> Iterator[None]:
    """Says what to change if the device has too little memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(f"{field}: {batch_tokens:,} tokens at once do not fit into the device's memory; lower it") from None


def our_decoder(folder: ModelFolder, device: torch.device) -> LanguageModel:
    """The folder's weights in our decoder, whose parameters are named as in transformers."""
    shape = folder.dimensions
    assert shape is not None, "only such folders come here"
    weights = {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}
    with torch.device("meta"):
        model = Llama(shape, folder.config["vocab_size"])
    if shape.tie_embeddings and "model.embed_tokens.weight" in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    # Old exports of others store what follows from the configuration.
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith("rotary_emb.inv_freq")}
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise UserError(f"{folder.name}: {_first_fault(error)}; weights and {CONFIG} are of two models") from None
    model.tie_weights()
    return model.to(device, dtype_on(device)).eval().requires_grad_(False)


def weight_files(folder: ModelFolder) -> list[Any]:
    """The files of weights; those of the index, where there is one."""
    index = read_json(folder.path / "model.safetensors.index.json", folder.name)
    if index is not None:
        return [folder.path / name for name in sorted(set(index["weight_map"].values()))]
    return sorted(folder.path.glob(f"*{WEIGHTS}"))


def their_model(folder: ModelFolder, device: torch.device) -> Any:
    """The folder's model in transformers' own class; an adapter is put on its base."""
    auto = {
        "classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
        "generation": transformers.AutoModelForSeq2SeqLM if folder.encoder_decoder else transformers.AutoModelForCausalLM,
    }[folder.kind]
    where = folder.path if folder.base is None else folder.base
    try:
        model, report = auto.from_pretrained(
            where,
            config=transformers.AutoConfig.from_pretrained(folder.path if (folder.path / CONFIG).exists() else where),
            use_safetensors=True,
            local_files_only=True,
            dtype=dtype_on(device) or "auto",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise UserError(f"{folder.name}: transformers cannot load it ({_first_fault(error)})") from None
    if folder.base is not None:
        model = with_adapter(model, folder)
    elif report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(f"{folder.name}: weights are missing ({missing}); weights and {CONFIG} are of two models")
    return model.to(device).eval().requires_grad_(False)


def with_adapter(model: Any, folder: ModelFolder) -> Any:
    """The base with the folder's adapter, merged into it where that can be."""
    if folder.adapter is None:
        from pretrain_trainer.finetune.methods import with_bottlenecks

        return with_bottlenecks(model, folder.path)
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by names that go away
        adapted = PeftModel.from_pretrained(model, folder.path)
    merge = getattr(adapted, "merge_and_unload", None)
    return adapted if merge is None else merge()


def dtype_on(device: torch.device) -> torch.dtype | None:
    """fp32 on CPU, which is slow at anything else; None is what the folder has."""
    return torch.float32 if device.type == "cpu" else None


def described(model: torch.nn.Module, folder: ModelFolder) -> str:
    """The model in a few words."""
    number = sum(parameter.numel() for parameter in model.parameters())
    bound = "" if folder.positions is None else f", {folder.positions:,} positions"
    own = " (own decoder)" if isinstance(model, LanguageModel) else ""
    return f"{folder.config.get('model_type', 'model')}{own}, {number / 1e6:,.1f}M parameters{bound}"


def quiet() -> None:
    """No bars and no advice between the lines of an answer."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _first_fault(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0] if lines else "")[:300]
