"""The stage examples-<name> of each task in spec.finetune: what decides its output. Imports nothing heavy, as stages.py."""

from __future__ import annotations

from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Finetune
from pydantic import JsonValue

from pretrain_preprocess.config import PreprocessSpec
from pretrain_preprocess.stages import Stage

PREFIX = "examples-"

DECIDE = {
    "classification": ("text_field", "label_field", "labels"),
    "token-classification": ("words_field", "tags_field", "labels"),
    "generation": ("prompt_field", "answer_field", "messages_field"),
}
"""The fields of examples that a task reads, besides those that all do."""


def examples_stage(spec: PreprocessSpec, name: str | None) -> Stage:
    """The stage of the task that is called `name`. Raises UserError if there is no such task."""
    known = [task.name for task in spec.finetune]
    if name is None or name not in known:
        said = f"{name}, but" if name else "missing, and"
        raise UserError(f"--name: {said} finetune of this job has {', '.join(known) or 'no tasks'}; name one of its tasks")
    return Stage(
        f"{PREFIX}{name}",
        "labelled.examples",
        "checks labelled examples and splits them",
        revision=1,
        inputs=lambda spec: (),
        config=lambda spec: examples_config(spec.finetune[known.index(name)]),
        tasks=lambda spec: 1,
    )


def examples_config(task: Finetune) -> JsonValue:
    """What of a task decides its examples. Where they lie is not part of it: their listing is an input of its own."""
    fields = {"format", "validation_fraction", "test_fraction", "max_train_examples", *DECIDE[task.task]}
    return {"task": task.task, "examples": task.examples.model_dump(mode="json", include=fields)}


def task_of(stage: str, spec: PreprocessSpec) -> int | None:
    """The place in spec.finetune of the task whose examples a stage makes; None for any other stage."""
    if not stage.startswith(PREFIX):
        return None
    return [task.name for task in spec.finetune].index(stage.removeprefix(PREFIX))
