"""The stage export-<name>: the fine-tuned model as a Hugging Face folder, below finetune/<name>/export/.

full, freeze             a whole model
lora, adalora, merged    a whole model
lora, adalora, prefix    what peft loads beside the base, and the base's digest
adapter                  the bottlenecks and the head, and the base's digest (methods.with_bottlenecks loads them)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pretrain_stage.config import Job
from pretrain_stage.events import Events
from pretrain_stage.manifest import File, Manifest, put_output, read_manifest
from pretrain_stage.storage import Storage, open_storage
from pydantic import JsonValue

from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment
from pretrain_trainer.finetune.base import TOKENIZER
from pretrain_trainer.finetune.plan import FinetunePlan, below, finished_finetuning, make_finetune_plan
from pretrain_trainer.finetune.section import section_of
from pretrain_trainer.lineage import lineage
from pretrain_trainer.stage import run_once

EXPORT_REVISION = 1
BASE = "base.json"
"""Says which base belongs to a folder that holds no whole model."""
COPIED = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json")
"""Files that are the base's own. Those of generation matter to generation only."""

# Markdown is not HTML: nothing is escaped. What users wrote into it are names of a safe alphabet.
_TEMPLATES = Environment(
    loader=PackageLoader("pretrain_trainer", "finetune"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    autoescape=False,  # noqa: S701
)


def export_task(job: Job[TrainerSpec], name: str, events: Events) -> None:
    """Leaves finetune/<name>/export/."""
    storage = open_storage(job.spec.storage)
    plan = make_finetune_plan(job, name, storage, section_of(job, name).world_size)
    done = finished_finetuning(storage, plan)
    run_once(
        storage,
        events,
        f"export-{name}",
        EXPORT_REVISION,
        {"merge": plan.section.merge, "precision": job.spec.export.precision},
        {plan.stage: done.digest, **plan.stage_inputs},
        lambda scratch: _export(storage, plan, done, scratch, events),
    )


def _export(
    storage: Storage, plan: FinetunePlan, done: Manifest, scratch: Path, events: Events
) -> tuple[tuple[File, ...], dict[str, JsonValue]]:
    prepare_environment(plan.job.spec.training, processes=1)
    import torch
    import transformers

    from pretrain_trainer.finetune.material import Material, bring_material

    transformers.utils.logging.disable_progress_bar()
    bring_material(plan, storage, scratch, ())
    material = Material(plan, scratch, ())
    network = material.trained(storage, done).network
    events.info(f"exporting what {plan.section.method} has trained")
    if plan.job.spec.export.precision == "bf16":
        network.to(torch.bfloat16)
    folder = scratch / "export"
    folder.mkdir()
    whole = save_network(network, plan, folder)
    save_tokenizer(material.tokenizer, plan, scratch / "base", folder)
    if not whole:
        base = {"uri": plan.base.name, "digest": plan.base.digest, "own": plan.base.own}
        (folder / BASE).write_text(json.dumps(base, indent=2) + "\n")
    (folder / "README.md").write_text(task_card(plan, done, storage, whole=whole), encoding="utf-8")
    outputs = tuple(put_output(storage, path, f"{below(plan.name)}/export/{path.name}") for path in sorted(folder.iterdir()))
    return outputs, {"whole": whole, "bytes": sum(file.size for file in outputs)}


def save_network(network: Any, plan: FinetunePlan, folder: Path) -> bool:
    """Writes weights and configuration; returns whether it is a whole model."""
    from pretrain_trainer.finetune.methods import BESIDE, MERGED, save_bottlenecks

    method = plan.section.method
    if method in MERGED and plan.section.merge:
        network = network.merge_and_unload()
    elif method in BESIDE:
        for config in network.peft_config.values():
            config.base_model_name_or_path = "../../../export" if plan.base.own else plan.base.name
        network.save_pretrained(folder)
        _save_config(network.base_model.model if method in MERGED else network.base_model, folder)
        return False
    elif method == "adapter":
        save_bottlenecks(network, plan.section.adapter_width, folder)
        _save_config(network, folder)
        return False
    network.config.use_cache = True
    network.save_pretrained(folder)
    return True


def save_tokenizer(tokenizer: Any, plan: FinetunePlan, base: Path, folder: Path) -> None:
    """Writes the tokenizer as it was used; what says how it is loaded is the base's own."""
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    generates = plan.section.task == "generation"
    for name in COPIED:
        if (base / name).exists() and (generates or name != "generation_config.json"):
            (folder / name).write_bytes((base / name).read_bytes())
    path = folder / "tokenizer_config.json"
    if path.exists() and not generates:
        # Positions count from the first token, and so they did in training.
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"padding_side": "right"}, indent=2, ensure_ascii=False) + "\n"
        )
    if generates and tokenizer.chat_template and not (folder / "chat_template.jinja").exists():
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template)


def task_card(plan: FinetunePlan, done: Manifest, storage: Storage, *, whole: bool) -> str:
    """README.md: what the model is, how good it is where that is known, and the manifests that it follows from."""
    evaluated = read_manifest(storage, f"evaluate-{plan.name}")
    known = evaluated is not None and evaluated.inputs.get(plan.stage) == done.digest
    return _TEMPLATES.get_template("task_card.md.jinja").render(
        job=plan.job.metadata.name,
        plan=plan,
        section=plan.section,
        trained=done.facts,
        whole=whole,
        test=evaluated.facts["test"] if known and evaluated is not None else {},
        chain=lineage(storage, done),
    )


def _save_config(network: Any, folder: Path) -> None:
    """config.json of the model that the base becomes: with the labels, for whoever puts the parts together."""
    network.config.use_cache = True
    network.config.architectures = [type(network).__name__]
    network.config.save_pretrained(folder)
