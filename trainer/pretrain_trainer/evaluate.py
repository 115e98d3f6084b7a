"""The stage evaluate: how well the final model predicts all held-out text, and what it writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from pretrain_stage.config import Job
from pretrain_stage.events import Events
from pretrain_stage.manifest import File, Manifest, fetch, put_output
from pretrain_stage.storage import Storage, open_storage
from pydantic import JsonValue

from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment
from pretrain_trainer.objectives.causal import CausalLM
from pretrain_trainer.plan import Plan, finished_training, make_plan
from pretrain_trainer.stage import run_once
from pretrain_trainer.text import text_files
from pretrain_trainer.tokens import HELD_OUT, TokenStream, bring, open_stream, shard_files, shard_path

EVALUATE_REVISION = 1
PROMPT_TOKENS, PROMPT_DOCUMENTS = 24, 5


def evaluate(job: Job[TrainerSpec], events: Events) -> None:
    """Leaves reports/evaluation.json: loss, perplexity and bits per byte on the whole held-out split, and continuations."""
    storage = open_storage(job.spec.storage)
    plan = make_plan(job, storage, job.spec.training.world_size)
    training = finished_training(storage, plan)
    config: JsonValue = {**job.spec.evaluation.model_dump(mode="json"), "seed": job.spec.training.seed}
    inputs = {"train": training.digest, **plan.stage_inputs}
    run_once(
        storage,
        events,
        "evaluate",
        EVALUATE_REVISION,
        config,
        inputs,
        lambda scratch: _evaluate(storage, plan, training, scratch, events),
    )


def _evaluate(
    storage: Storage, plan: Plan, training: Manifest, scratch: Path, events: Events
) -> tuple[tuple[File, ...], dict[str, JsonValue]]:
    prepare_environment(plan.job.spec.training, processes=1)
    import torch

    from pretrain_trainer.validate import held_out, held_out_measures, perplexity
    from pretrain_trainer.weights import load_model, load_weights

    device = device_of(plan)
    model = load_model(plan, load_weights(storage, training, scratch)).to(device)
    if plan.job.spec.training.precision == "bf16":
        model.bfloat16()
    facts = plan.inputs.token_facts
    shards = shard_files(plan.inputs.tokenize, HELD_OUT)
    bring(storage, shards, scratch)
    stream = open_stream([shard_path(storage, file, scratch) for file in shards], facts.dtype)
    files = [
        text_files(plan.inputs.tokenize, HELD_OUT, name, documents=False, marks=False) for name in sorted(facts.sources)
    ]
    texts = [text for file in files if len(text := file.open(storage, scratch, facts.dtype)) > 1]
    predicted = sum(len(text) - 1 for text in texts)
    events.info(f"predicting {predicted:,} held-out tokens")
    loss = held_out_measures(model, held_out(CausalLM(plan.job.spec.training), texts), device)["validation_loss"]
    report: dict[str, Any] = {
        "checkpoint": training.facts["checkpoint"],
        "loss": loss,
        "perplexity": perplexity(loss),
        "bits_per_byte": loss * predicted / math.log(2) / facts.held_out_bytes,
        "tokens": predicted,
        "bytes": facts.held_out_bytes,
        "samples": samples(model, storage, plan, stream, scratch, torch.Generator()),
    }
    path = scratch / "evaluation.json"
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False))
    numbers = {name: report[name] for name in ("loss", "perplexity", "bits_per_byte", "tokens", "bytes")}
    return (put_output(storage, path, "reports/evaluation.json"),), numbers


def device_of(plan: Plan) -> Any:
    """Where the job's model is asked: on a GPU if the job has any. Raises UserError if this machine has none."""
    import torch
    from pretrain_stage.errors import UserError

    if not plan.job.spec.training.gpus_per_node:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"spec.training.gpusPerNode: {plan.job.spec.training.gpus_per_node}, but this machine has no CUDA device; set it to 0 "
            "to work on CPU, or run where the GPUs are"
        )
    return torch.device("cuda")


def samples(
    model: Any, storage: Storage, plan: Plan, stream: TokenStream, scratch: Path, generator: Any
) -> list[dict[str, Any]]:
    """Continuations of the job's prompts, or of the beginnings of held-out documents."""
    from tokenizers import Tokenizer

    from pretrain_trainer.generate import generate

    section = plan.job.spec.evaluation
    file = next(file for file in plan.inputs.tokenizer.outputs if file.sha256 == plan.inputs.tokenizer_facts.sha256)
    tokenizer = Tokenizer.from_file(str(fetch(storage, file, scratch / "tokenizer.json")))
    end = plan.inputs.tokenizer_facts.end_of_text_id
    prompts = [tokenizer.encode(text).ids for text in section.prompts] or beginnings(storage, plan, stream, scratch)
    found = []
    for number, prompt in enumerate(prompts):
        generator.manual_seed(plan.job.spec.training.seed + number)
        new = generate(
            model,
            prompt or [end],
            max_new_tokens=section.max_new_tokens,
            temperature=section.temperature,
            top_p=section.top_p,
            end=end,
            generator=generator,
        )
        found.append(
            {
                "prompt": section.prompts[number] if section.prompts else tokenizer.decode(prompt),
                "continuation": tokenizer.decode(new),
                "tokens": len(new),
            }
        )
    return found


def beginnings(storage: Storage, plan: Plan, stream: TokenStream, scratch: Path) -> list[list[int]]:
    """The first tokens of the first held-out documents that are longer than a prompt."""
    found: list[list[int]] = []
    shard_start = 0
    for shard in shard_files(plan.inputs.tokenize, HELD_OUT):
        index = next(file for file in plan.inputs.tokenize.outputs if file.path == f"{shard.path}.index")
        ends = np.fromfile(fetch(storage, index, scratch / "held-out.index"), dtype="<u8").astype(np.int64)
        start = 0
        for end in ends.tolist():
            if len(found) == PROMPT_DOCUMENTS:
                return found
            if end - start > PROMPT_TOKENS:
                found.append(stream.read(shard_start + start, shard_start + start + PROMPT_TOKENS).tolist())
            start = end
        shard_start += start
    return found
