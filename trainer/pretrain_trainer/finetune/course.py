"""The course of fine-tuning: a finished model learns a task, validated by the metric that the task is about.

The best model is kept as it was at its validation: its trained part only, under best/ until the stage is finished, then as
finetune/<name>/model/weights.safetensors. Which one that is, and how many validations were not better since, is part of each
checkpoint's measures, so that a resumed run decides as an uninterrupted one does.
"""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pretrain_stage.errors import CorruptError
from pretrain_stage.events import Events
from pretrain_stage.manifest import File, put_output
from pretrain_stage.storage import Storage
from pydantic import JsonValue
from safetensors.torch import save_file

from pretrain_trainer import checkpoint
from pretrain_trainer.checkpoint import CheckpointManifest
from pretrain_trainer.commit_log import Attempt
from pretrain_trainer.finetune.material import WEIGHTS, Material, bring_material
from pretrain_trainer.finetune.measure import answers, measure
from pretrain_trainer.finetune.methods import trained_parameters, trained_weights
from pretrain_trainer.finetune.plan import FinetunePlan, below
from pretrain_trainer.finetune.samples import SPLITS, ExampleSamples
from pretrain_trainer.model.language_model import TrainedModel
from pretrain_trainer.objective import Samples
from pretrain_trainer.ranks import Group
from pretrain_trainer.scores import is_better, score

ANSWERED = 200
"""Most validation examples that answers are generated for, where the metric is about answers."""
BEST = "best"


class Finetuning:
    """A finished model learns a task."""

    def __init__(
        self, plan: FinetunePlan, job_storage: Storage, storage: Storage, group: Group, scratch: Path, events: Events
    ) -> None:
        """job_storage: with base and examples. storage: for checkpoints and the model. scratch: shared by the node's processes."""
        self.plan = plan
        self.job_storage, self.storage, self.group, self.scratch, self.events = job_storage, storage, group, scratch, events
        self.trained = 0
        brought = scratch / "material"
        # Whether an example of the test split is too long, is better known before hours of training.
        splits = SPLITS if plan.section.examples.too_long == "refuse" else SPLITS[:2]
        if group.place.local_rank == 0:
            bring_material(plan, job_storage, brought, splits)
        group.wait()
        self.material = Material(plan, brought, splits)
        train, validation = (self.material.splits[split] for split in ("train", "validation"))
        self.samples: Samples = ExampleSamples(train.encoded, self.material.task.head, self.material.pad, plan.section.seed)
        self.validation = validation
        self.cut = train.longer_than(plan.section.sequence_length)
        self.parameters = self.material.parameters()
        cut = f", {self.cut} of them cut to {plan.section.sequence_length} tokens" if self.cut else ""
        self.about = (
            f"{plan.epochs:.2f} passes over {len(train.encoded):,} examples{cut}; validation on {len(validation.encoded):,}, the best "
            f"{plan.metric} is kept; method {plan.section.method}"
        )

    def model(self) -> TrainedModel:
        network = self.material.network()
        self.trained = sum(parameter.numel() for _, parameter in trained_parameters(network))
        if self.group.place.first:
            self.events.info(
                f"{self.trained:,} of {sum(p.numel() for p in network.parameters()):,} parameters are trained",
                trained_parameters=self.trained,
            )
        return network

    def validate(self, engine: Any, step: int, measures: Mapping[str, float]) -> dict[str, float]:
        """Also decides whether this is the best model, and keeps it if so."""
        found = self._figures(engine)
        value = found[self.plan.metric]
        best = measures.get(BEST)
        better = is_better(self.plan.metric, value, best)
        if better or best is None:
            self._keep(engine, step)
            best, best_step, waited = value, float(step), 0.0
        else:
            best_step, waited = measures["best_step"], measures["without_better"] + 1
        if self.group.place.first:
            said = ", ".join(f"{name} {figure:.4f}" for name, figure in sorted(found.items()))
            self.events.info(f"step {step}: {said}; best {self.plan.metric} {best:.4f} at step {best_step:.0f}", **found)
        return {
            "validation_loss": found["loss"],
            **{f"validation_{name}": figure for name, figure in found.items() if name != "loss"},
            BEST: best,
            "best_step": best_step,
            "without_better": waited,
        }

    def committed(self, manifest: CheckpointManifest) -> None:
        """Of the models that were the best before this checkpoint, only the one stays that it vouches for."""
        best_step = manifest.measures.get("best_step")
        if best_step is not None:
            old = [entry.path for entry in self.storage.entries(BEST) if entry.path <= _best(manifest.step)]
            self.storage.delete([path for path in old if path != _best(int(best_step))])

    def ended(self, measures: Mapping[str, float]) -> bool:
        return measures.get("without_better", 0) >= self.plan.section.patience

    def facts(self, final: CheckpointManifest) -> dict[str, JsonValue]:
        section, measures = self.plan.section, final.measures
        return {
            "task": section.task,
            "method": section.method,
            "metric": self.plan.metric,
            "best": measures[BEST],
            "best_step": int(measures["best_step"]),
            "planned_steps": self.plan.batch.steps,
            "validation": {name: figure for name, figure in sorted(measures.items()) if name.startswith("validation_")},
            "trained_parameters": self.trained or self._count(),
            "examples": dict(self.plan.facts.examples),
            "cut_examples": self.cut,
            "peak_memory_bytes": _peak_bytes(),
        }

    def outputs(self, final: CheckpointManifest) -> tuple[File, ...]:
        local = self.scratch / WEIGHTS
        try:
            self.storage.download(_best(int(final.measures["best_step"])), local)
        except FileNotFoundError:
            raise CorruptError(
                f"{self.storage.uri}/{_best(int(final.measures['best_step']))}: missing, though the last checkpoint vouches for it; "
                f"delete {self.storage.uri}/{checkpoint.ROOT} to fine-tune again"
            ) from None
        return (put_output(self.job_storage, local, f"{below(self.plan.name)}/model/{WEIGHTS}"),)

    def tidy(self, attempt: Attempt) -> None:
        self._remove_all(attempt)
        shutil.rmtree(self.scratch / "material", ignore_errors=True)

    def _count(self) -> int:
        return sum(parameter.numel() for _, parameter in trained_parameters(self.material.network()))

    def _figures(self, engine: Any) -> dict[str, float]:
        """The metrics on the validation split, the same on all processes."""
        task, section, data = self.material.task, self.plan.section, self.validation
        measured = measure(engine, task, data.encoded, self.material.pad, self.group.device, self.group)
        references = [one.reference for one in data.encoded]
        predictions = measured.predictions
        if section.task == "generation":
            if self.plan.metric == "loss":
                return {"loss": measured.loss}
            asked = data.encoded[:ANSWERED]
            settings = self.material.answering(sliced=section.zero_stage == 3)
            predictions = answers(engine.module, asked, settings, self.group.device, self.group)
            references = references[:ANSWERED]
        return self.group.from_first(
            lambda: dict(
                score(
                    section.task, references, predictions, labels=self.plan.labels, loss=measured.loss, resamples=0
                ).metrics
            )
        )

    def _keep(self, engine: Any, step: int) -> None:
        """Keeps what was trained as it is now."""
        weights = trained_weights(engine.module)
        if not self.group.place.first:
            self.group.wait()
            return
        local = self.scratch / WEIGHTS
        save_file(weights, local, metadata={"format": "pt"})
        self.storage.upload(local, _best(step))
        local.unlink()
        self.group.wait()

    def make_way(self, attempt: Attempt) -> None:
        """Removes what another fine-tuning of this name has left: with other examples, another base or other options."""
        for place in checkpoint.committed(self.storage):
            try:
                theirs = checkpoint.read_checkpoint(self.storage, place).identity
            except CorruptError:
                continue  # is told, and passed over, by whoever looks for one to go on from
            if theirs != self.plan.checkpoint_identity:
                self.events.info("removing the checkpoints of another fine-tuning of this name: it begins anew")
                self._remove_all(attempt)
                return

    def _remove_all(self, attempt: Attempt) -> None:
        for place in checkpoint.folders(self.storage):
            checkpoint.remove(self.storage, attempt, place)
        self.storage.delete([entry.path for entry in self.storage.entries(BEST)])


def _best(step: int) -> str:
    return f"{BEST}/step-{step:08d}.safetensors"


def _peak_bytes() -> int:
    """The most memory that this process has had: on its GPU if it has one, else of the machine."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
