"""The stage evaluate-<name>: how well the fine-tuned model does on examples that neither training nor choice has seen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pretrain_stage.config import Job
from pretrain_stage.errors import UserError
from pretrain_stage.events import Events
from pretrain_stage.manifest import File, Manifest, put_output
from pretrain_stage.storage import Storage, open_storage
from pydantic import JsonValue

from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.environment import prepare_environment
from pretrain_trainer.finetune.plan import FinetunePlan, finished_finetuning, make_finetune_plan
from pretrain_trainer.finetune.section import section_of
from pretrain_trainer.stage import run_once

EVALUATE_REVISION = 1
WRONG = 20
"""Wrong answers that are shown."""
SHOWN = 500
"""Characters of a text that are shown."""


def evaluate_task(job: Job[TrainerSpec], name: str, events: Events) -> None:
    """Leaves reports/finetune-<name>.json: figures on the test split with confidence intervals, and wrong answers; where there
    are labels, their confusion matrix as a picture.
    """
    storage = open_storage(job.spec.storage)
    plan = make_finetune_plan(job, name, storage, section_of(job, name).world_size)
    done = finished_finetuning(storage, plan)
    run_once(
        storage,
        events,
        f"evaluate-{name}",
        EVALUATE_REVISION,
        {"task": plan.section.task, "maxNewTokens": plan.section.max_new_tokens},
        {plan.stage: done.digest, **plan.stage_inputs},
        lambda scratch: _evaluate(storage, plan, done, scratch, events),
    )


def _evaluate(
    storage: Storage, plan: FinetunePlan, done: Manifest, scratch: Path, events: Events
) -> tuple[tuple[File, ...], dict[str, JsonValue]]:
    prepare_environment(plan.job.spec.training, processes=1)
    from pretrain_trainer.finetune.material import Material, bring_material
    from pretrain_trainer.finetune.measure import answers, measure
    from pretrain_trainer.scores import as_json, score
    from pretrain_trainer.scores.classification import Classification

    bring_material(plan, storage, scratch, ("test",))
    material = Material(plan, scratch, ("test",))
    split, section = material.splits["test"], plan.section
    device = device_of(plan)
    model = material.trained(storage, done).to(device)
    if section.precision == "bf16":
        model.bfloat16()
    events.info(f"predicting {len(split.examples):,} examples")
    began = time.monotonic()
    measured = measure(model, material.task, split.encoded, material.pad, device)
    predictions = measured.predictions
    if section.task == "generation":
        predictions = answers(model, split.encoded, material.answering(sliced=False), device)
    seconds = time.monotonic() - began
    scores = score(
        section.task,
        [one.reference for one in split.encoded],
        predictions,
        labels=plan.labels,
        probabilities=measured.probabilities,
        loss=measured.loss,
        seed=section.seed,
    )
    report: dict[str, Any] = {
        "name": plan.name,
        "task": section.task,
        "method": section.method,
        "base": {"name": plan.base.name, "digest": plan.base.digest, "fromScratch": section.from_scratch},
        "finetuning": done.facts,
        "scores": as_json(scores),
        "cut_examples": split.longer_than(section.sequence_length),
        "seconds": seconds,
        "examples_per_second": len(split.examples) / seconds,
        "wrong": wrong(split.examples, [one.reference for one in split.encoded], predictions, measured.probabilities),
    }
    path = scratch / "report.json"
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    outputs = [put_output(storage, path, f"reports/finetune-{plan.name}.json")]
    if isinstance(scores.details, Classification):
        from pretrain_trainer.scores.picture import draw_confusion

        picture = scratch / "confusion.png"
        draw_confusion(scores.details, f"{plan.name}: {len(split.examples):,} test examples", picture)
        outputs.append(put_output(storage, picture, f"reports/finetune-{plan.name}.png"))
    facts: dict[str, JsonValue] = {"examples": len(split.examples), "test": dict(scores.metrics)}
    return tuple(outputs), facts


def device_of(plan: FinetunePlan) -> Any:
    """Where the model is asked: on a GPU if the task has any. Raises UserError if this machine has none."""
    import torch

    if not plan.section.gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"{plan.field}.gpus: {plan.section.gpus}, but this machine has no CUDA device; set it to 0 to work on CPU, or run where "
            "the GPUs are"
        )
    return torch.device("cuda")


def wrong(
    examples: list[dict[str, Any]], references: list[Any], predictions: list[Any], probabilities: Any
) -> list[dict[str, Any]]:
    """Examples that were answered wrong, those first that the model was surest of."""
    places = [place for place, (asked, said) in enumerate(zip(references, predictions, strict=True)) if asked != said]
    if probabilities is not None:
        places.sort(key=lambda place: (-float(probabilities[place].max()), place))
    shown = []
    for place in places[:WRONG]:
        given = {
            name: short(value) for name, value in examples[place].items() if name in ("text", "words", "prompt", "messages")
        }
        sure = {} if probabilities is None else {"probability": float(probabilities[place].max())}
        shown.append(
            {"id": examples[place].get("id"), **given, "asked": references[place], "said": predictions[place], **sure}
        )
    return shown


def short(value: Any) -> Any:
    """A text with its end cut off where it is long."""
    return value if not isinstance(value, str) or len(value) <= SHOWN else value[: SHOWN - 3] + "..."
