"""The stage export: the final model as a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pretrain_stage.config import Job
from pretrain_stage.events import Events
from pretrain_stage.manifest import File, Manifest, fetch, put_output
from pretrain_stage.storage import Storage, open_storage
from pydantic import JsonValue

from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment
from pretrain_trainer.lineage import lineage
from pretrain_trainer.plan import Plan, finished_training, make_plan
from pretrain_trainer.stage import run_once

EXPORT_REVISION = 3
SHARD_BYTES = 5_000_000_000

# Markdown is not HTML: nothing is escaped. What users wrote into it are names of a safe alphabet.
_TEMPLATES = Environment(
    loader=PackageLoader("pretrain_trainer", "."),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701
)


@dataclass(frozen=True)
class Family:
    """What a model card says of a family."""

    words: str
    pipeline: str
    auto: str
    """The class of transformers that loads the folder."""


_FAMILIES = {
    "llama": Family("A decoder of the Llama family", "text-generation", "AutoModelForCausalLM"),
    "gpt2": Family("A decoder of the GPT-2 family", "text-generation", "AutoModelForCausalLM"),
    "bert": Family("A BERT encoder", "fill-mask", "AutoModelForMaskedLM"),
    "bert with pairs": Family("A BERT encoder", "fill-mask", "AutoModelForPreTraining"),
    "marian": Family("An encoder-decoder of Marian's form", "text2text-generation", "AutoModelForSeq2SeqLM"),
}


def export(job: Job[TrainerSpec], events: Events) -> None:
    """Leaves export/: weights in safetensors, config, tokenizer and a model card."""
    storage = open_storage(job.spec.storage)
    plan = make_plan(job, storage, job.spec.training.world_size)
    training = finished_training(storage, plan)
    run_once(
        storage,
        events,
        "export",
        EXPORT_REVISION,
        job.spec.export.model_dump(mode="json"),
        {"train": training.digest, **plan.stage_inputs},
        lambda scratch: _export(storage, plan, training, scratch, events),
    )


def _export(
    storage: Storage, plan: Plan, training: Manifest, scratch: Path, events: Events
) -> tuple[tuple[File, ...], dict[str, JsonValue]]:
    prepare_environment(plan.job.spec.training, processes=1)
    import torch

    from pretrain_trainer.weights import load_model, load_weights

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[plan.job.spec.export.precision]
    folder = scratch / "export"
    folder.mkdir()
    events.info(f"exporting {training.place}")
    weights, config = load_model(plan, load_weights(storage, training, scratch)).exported()
    save_weights({name: weights[name].to(dtype).contiguous() for name in sorted(weights)}, folder)
    file = next(file for file in plan.inputs.tokenizer.outputs if file.sha256 == plan.inputs.tokenizer_facts.sha256)
    tokenizer = json.loads(fetch(storage, file, folder / "tokenizer.json").read_bytes())
    contents = {
        "config.json": model_config(plan, config),
        "tokenizer.json": framing(plan, tokenizer),
        "tokenizer_config.json": tokenizer_config(plan, tokenizer),
    }
    if plan.shape.family != "bert":
        contents["generation_config.json"] = generation_config(plan)
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    (folder / "README.md").write_text(model_card(plan, training, lineage(storage, training)), encoding="utf-8")
    outputs = tuple(put_output(storage, path, f"export/{path.name}") for path in sorted(folder.iterdir()))
    return outputs, {"parameters": plan.parameters, "bytes": sum(file.size for file in outputs)}


def model_card(plan: Plan, training: Manifest, chain: list[Manifest]) -> str:
    """README.md: what the model is, what it was trained on, and the manifests that it follows from. chain: their lineage."""
    clean = next((manifest for manifest in chain if manifest.stage == "clean"), None)
    sources = clean.facts.get("documents_by_source") if clean else None
    return _TEMPLATES.get_template("model_card.md.jinja").render(
        name=plan.job.metadata.name,
        family=_FAMILIES["bert with pairs" if plan.shape.next_sentence else plan.shape.family],
        began="random weights" if plan.initial is None else f"the weights of {plan.initial.uri}",
        parameters=plan.parameters,
        trained=training.facts,
        tokenizer={"algorithm": None, **plan.inputs.tokenizer.facts},
        sequence_length=plan.job.spec.training.sequence_length,
        chain=chain,
        sources=sorted(sources.items()) if isinstance(sources, dict) else [],
        configuration=json.dumps(plan.config, indent=2, sort_keys=True),
    )


def save_weights(weights: Mapping[str, Any], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes the weights as safetensors: one file, or several of at most `shard_bytes` with an index of what is where."""
    from safetensors.torch import save_file

    shards: list[dict[str, Any]] = [{}]
    size = 0
    for name, tensor in weights.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def model_config(plan: Plan, shape: Mapping[str, Any]) -> dict[str, JsonValue]:
    """config.json. shape: what the model's class says of it; the special tokens and the type come to that."""
    end, pad = plan.inputs.tokenizer_facts.end_of_text_id, _pad_id(plan)
    ids: dict[str, JsonValue] = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": pad}
    if plan.shape.family == "marian":
        ids["decoder_start_token_id"] = pad
    return {**shape, **ids, "dtype": _dtype_name(plan)}


def generation_config(plan: Plan) -> dict[str, JsonValue]:
    """generation_config.json: how `generate` samples unless it is told otherwise."""
    section, end = plan.job.spec.evaluation, plan.inputs.tokenizer_facts.end_of_text_id
    config: dict[str, JsonValue] = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": _pad_id(plan),
        "max_new_tokens": section.max_new_tokens,
        "do_sample": section.temperature > 0,
    }
    if plan.shape.family == "marian":
        config["decoder_start_token_id"] = _pad_id(plan)
    if section.temperature > 0:
        config |= {"temperature": section.temperature, "top_p": section.top_p}
    return config


def tokenizer_config(plan: Plan, tokenizer: Mapping[str, Any]) -> dict[str, JsonValue]:
    """tokenizer_config.json: which tokens are special. tokenizer: the content of tokenizer.json."""
    facts = plan.inputs.tokenizer_facts
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    roles: dict[str, int | None] = {"pad_token": _pad_id(plan)}
    if plan.shape.family == "bert":
        roles |= {"cls_token": facts.cls_id, "sep_token": facts.sep_id, "mask_token": facts.mask_id}
    named: dict[str, JsonValue] = {role: special[number] for role, number in roles.items() if number is not None}
    reads: list[JsonValue] = (
        ["input_ids", "token_type_ids", "attention_mask"] if plan.shape.family == "bert" else ["input_ids", "attention_mask"]
    )
    named = {"bos_token": facts.end_of_text, "eos_token": facts.end_of_text, **named}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "extra_special_tokens": [token for token in special.values() if token not in named.values()],
        "model_input_names": reads,
        "model_max_length": plan.job.spec.training.sequence_length,
        "clean_up_tokenization_spaces": False,
        # Where a text is continued, nothing may stand between it and what is new.
        "padding_side": "left" if plan.shape.family in ("llama", "gpt2") else "right",
    }


def framing(plan: Plan, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer.json, with the special tokens around a text that the model was trained with. tokenizer: its content."""
    facts, family = plan.inputs.tokenizer_facts, plan.shape.family
    if family not in ("bert", "marian"):
        return dict(tokenizer)
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    made = Tokenizer.from_str(json.dumps(tokenizer))
    ids = (facts.cls_id, facts.sep_id) if family == "bert" else (facts.end_of_text_id,)
    names = [name for number in ids if number is not None and (name := made.id_to_token(number)) is not None]
    if family == "bert":
        first, last = names
        single, pair = [first, "$A", last], [first, "$A", last, "$B:1", f"{last}:1"]
    else:
        single, pair = ["$A", *names], ["$A", "$B", *names]
    made.post_processor = TemplateProcessing(
        single=single, pair=pair, special_tokens=[(name, made.token_to_id(name)) for name in names]
    )
    framed: dict[str, Any] = json.loads(made.to_str())
    return framed


def _pad_id(plan: Plan) -> int:
    """The padding token, or the end of text where the tokenizer has none: generation must have one."""
    facts = plan.inputs.tokenizer_facts
    return facts.end_of_text_id if facts.pad_id is None else facts.pad_id


def _dtype_name(plan: Plan) -> str:
    return {"fp32": "float32", "bf16": "bfloat16"}[plan.job.spec.export.precision]
