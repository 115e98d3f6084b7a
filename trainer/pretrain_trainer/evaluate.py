"""The stage evaluate: how well the final model predicts all held-out text, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, zip_longest
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
from pretrain_trainer.objectives import objective_of
from pretrain_trainer.objectives.objective import Objective
from pretrain_trainer.objectives.special import SpecialTokens
from pretrain_trainer.plan import Plan, finished_training, make_plan
from pretrain_trainer.stage import run_once
from pretrain_trainer.text import Text, text_files
from pretrain_trainer.tokens import HELD_OUT, bring, open_stream, shard_files, shard_path

EVALUATE_REVISION = 2
PROMPT_TOKENS, PROMPT_DOCUMENTS = 24, 5


def evaluate(job: Job[TrainerSpec], events: Events) -> None:
    """Leaves reports/evaluation.json: what the model makes of all held-out text, by source, and continuations.

    Of a job that went on from a model (training.initFrom) that model is measured too, so that what was forgotten is seen.
    """
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
    section = plan.job.spec.training
    prepare_environment(section, processes=1)

    from pretrain_trainer.model.language_model import LanguageModel
    from pretrain_trainer.validate import held_out
    from pretrain_trainer.weights import load_model, load_weights

    device = device_of(plan)
    model = load_model(plan, load_weights(storage, training, scratch))
    objective = objective_of(section, SpecialTokens(plan.inputs.tokenizer_facts))
    texts = held_out_texts(storage, plan, objective, scratch)
    data = held_out(objective, texts)
    events.info(f"asking about {sum(map(len, texts)):,} held-out tokens of {', '.join(text.name for text in texts)}")
    report: dict[str, Any] = {
        "checkpoint": f"step {training.facts['steps']:,}",
        "objective": section.objective,
        **measured(model, data, plan, device),
        "samples": samples(model, storage, plan, scratch) if isinstance(model, LanguageModel) else [],
    }
    del model  # both together may need more memory than there is
    report["before"] = before(data, plan, device, scratch)
    path = scratch / "evaluation.json"
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False))
    numbers = {name: report[name] for name in ("loss", "perplexity", "bits_per_byte", "tokens", "bytes")}
    return (put_output(storage, path, "reports/evaluation.json"),), {
        name: number for name, number in numbers.items() if number is not None
    }


def held_out_texts(storage: Storage, plan: Plan, objective: Objective, scratch: Path) -> list[Text]:
    """The held-out text of each source that the objective can ask something about."""
    facts, asks = plan.inputs.token_facts, {"documents": objective.documents, "marks": objective.marks}
    names = [name for name in sorted(facts.sources) if facts.sources[name].held_out_tokens > 1]
    files = [text_files(plan.inputs.tokenize, HELD_OUT, name, **asks) for name in names]
    bring(storage, [file for source in files for file in source.all], scratch)
    texts = [source.open(storage, scratch, facts.dtype) for source in files]
    return [text for text in texts if objective.fault(text) is None]


def measured(model: Any, data: Any, plan: Plan, device: Any) -> dict[str, Any]:
    """The figures of a model on the held-out samples (validate.HeldOut), in all and by source."""
    from pretrain_trainer.figures import figures_of_texts
    from pretrain_trainer.validate import held_out_sums

    model.to(device)
    if plan.job.spec.training.precision == "bf16":
        model.bfloat16()
    sizes = {text.name: plan.inputs.token_facts.sources[text.name].held_out_bytes for text in data.texts}
    whole_text = plan.job.spec.training.objective == "causal-lm"
    return figures_of_texts(held_out_sums(model, data, device), sizes, whole_text)


def before(data: Any, plan: Plan, device: Any, scratch: Path) -> dict[str, Any] | None:
    """The figures of the model that training went on from, on the same samples; None if it began with random weights."""
    if plan.initial is None:
        return None
    from pretrain_trainer.weights import load_initial

    return {"uri": plan.initial.uri, **measured(load_initial(plan, scratch), data, plan, device)}


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


def samples(model: Any, storage: Storage, plan: Plan, scratch: Path) -> list[dict[str, Any]]:
    """Continuations of the job's prompts, or of the beginnings of held-out documents."""
    import torch
    from tokenizers import Tokenizer

    from pretrain_trainer.generate import generate

    section = plan.job.spec.evaluation
    file = next(file for file in plan.inputs.tokenizer.outputs if file.sha256 == plan.inputs.tokenizer_facts.sha256)
    tokenizer = Tokenizer.from_file(str(fetch(storage, file, scratch / "tokenizer.json")))
    end = plan.inputs.tokenizer_facts.end_of_text_id
    prompts = [tokenizer.encode(text).ids for text in section.prompts] or beginnings(storage, plan, scratch)
    generator = torch.Generator()
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


def beginnings(storage: Storage, plan: Plan, scratch: Path) -> list[list[int]]:
    """The first tokens of the first held-out documents that are longer than a prompt, of all sources in turn."""
    sources = [openings(storage, plan, scratch, name) for name in sorted(plan.inputs.token_facts.sources)]
    in_turn = (opening for openings in zip_longest(*sources) for opening in openings if opening is not None)
    return list(islice(in_turn, PROMPT_DOCUMENTS))


def openings(storage: Storage, plan: Plan, scratch: Path, source: str) -> Iterator[list[int]]:
    """The first tokens of each held-out document of a source that is longer than a prompt."""
    tokenize = plan.inputs.tokenize
    for shard in shard_files(tokenize, HELD_OUT, source):
        bring(storage, [shard], scratch)
        tokens = open_stream([shard_path(storage, shard, scratch)], plan.inputs.token_facts.dtype)
        index = next(file for file in tokenize.outputs if file.path == f"{shard.path}.index")
        ends = np.fromfile(fetch(storage, index, scratch / "held-out.index"), dtype="<u8").astype(np.int64)
        start = 0
        for end in ends.tolist():
            if end - start > PROMPT_TOKENS:
                yield tokens.read(start, start + PROMPT_TOKENS).tolist()
            start = end
