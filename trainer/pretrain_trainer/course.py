"""What a run of training learns from what: in this pretraining and fine-tuning differ. The loop (train.py) is one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pretrain_stage.errors import UserError
from pretrain_stage.manifest import File
from pretrain_stage.scratch import private_folder
from pretrain_stage.storage import Storage
from pydantic import JsonValue

from pretrain_trainer.checkpoint import CheckpointManifest, output_files
from pretrain_trainer.commit_log import Attempt
from pretrain_trainer.initial import bring_initial, put_weights
from pretrain_trainer.model import build_model
from pretrain_trainer.model.language_model import TrainedModel
from pretrain_trainer.objective import Samples
from pretrain_trainer.objectives import objective_of
from pretrain_trainer.objectives.objective import Objective
from pretrain_trainer.objectives.special import SpecialTokens
from pretrain_trainer.plan import Plan, RunPlan
from pretrain_trainer.rank import scratch_name
from pretrain_trainer.ranks import Group
from pretrain_trainer.samples import TextSamples
from pretrain_trainer.text import Text, text_files
from pretrain_trainer.tokens import HELD_OUT, TRAIN, bring, token_cache
from pretrain_trainer.validate import HeldOut, held_out, held_out_measures, perplexity


class Course(Protocol):
    """What is learned. All processes make one, and call its methods together."""

    @property
    def plan(self) -> RunPlan: ...

    parameters: int
    storage: Storage
    """Where the run keeps its checkpoints: a folder of the job's storage, or all of it."""
    samples: Samples
    about: str
    """What the run validates on, in words."""

    def make_way(self, attempt: Attempt) -> None:
        """The attempt has begun: removes what another run has left in its place. Called by process 0 alone."""
        ...

    def model(self) -> TrainedModel:
        """The model as the run begins, its weights drawn from torch's generator or read from somewhere."""
        ...

    def validate(self, engine: Any, step: int, measures: Mapping[str, float]) -> dict[str, float]:
        """Measures on what is kept from training, after `step` steps; `validation_loss` is one of them. measures: those before."""
        ...

    def committed(self, manifest: CheckpointManifest) -> None:
        """A checkpoint has been committed: deletes what only those before it needed. Called by a thread of process 0 alone."""
        ...

    def ended(self, measures: Mapping[str, float]) -> bool:
        """Whether the run ends before its last step, as the measures are."""
        ...

    def facts(self, final: CheckpointManifest) -> dict[str, JsonValue]:
        """What the stage's manifest says of the finished run besides steps, tokens and losses."""
        ...

    def outputs(self, final: CheckpointManifest) -> tuple[File, ...]:
        """The outputs of the stage, with paths below the job's storage. Called by process 0 alone."""
        ...

    def tidy(self, attempt: Attempt) -> None:
        """The stage is finished: removes what is not needed any more. Called by process 0 alone."""
        ...


class Pretraining:
    """A model learns from the text of the job."""

    def __init__(self, plan: Plan, storage: Storage, group: Group) -> None:
        self.plan: Plan = plan
        self.storage, self.group, self.parameters = storage, group, plan.parameters
        training = plan.job.spec.training
        self.objective = objective_of(training, SpecialTokens(plan.inputs.tokenizer_facts))
        with_text = [name for name, facts in plan.inputs.token_facts.sources.items() if facts.held_out_tokens > 1]
        text, unseen = open_texts(storage, plan, group, self.objective, {TRAIN: plan.mixture.names, HELD_OUT: with_text})
        check_texts(self.objective, text, unseen)
        self.samples: Samples = TextSamples(self.objective, text, plan.mixture, numbered=plan.shape.dropout > 0)
        usable = [one for one in unseen if self.objective.fault(one) is None]
        self.held_out: HeldOut = held_out(self.objective, usable, training.validation.max_sequences)
        self.about = f"{training.objective}; {told(plan)}; validation on {self.held_out.samples:,} samples"

    def make_way(self, attempt: Attempt) -> None:
        pass

    def model(self) -> TrainedModel:
        model = build_model(self.plan.shape.family, self.plan.shape, self.plan.vocab_size)
        initial, group = self.plan.initial, self.group
        if initial is not None:
            folder = private_folder(self.storage) / f"{scratch_name(group.place.node)}-initial"
            if group.place.local_rank == 0:
                bring_initial(initial, self.plan.job.spec.storage, folder)
            group.wait()
            put_weights(model, folder, initial.uri)
            group.wait()
            if group.place.local_rank == 0:
                shutil.rmtree(folder)
        return model

    def validate(self, engine: Any, step: int, measures: Mapping[str, float]) -> dict[str, float]:
        measured = held_out_measures(engine, self.held_out, self.group.device, self.group)
        if self.plan.job.spec.training.objective == "causal-lm":
            measured["perplexity"] = perplexity(measured["validation_loss"])
        return measured

    def committed(self, manifest: CheckpointManifest) -> None:
        pass

    def ended(self, measures: Mapping[str, float]) -> bool:
        return False

    def facts(self, final: CheckpointManifest) -> dict[str, JsonValue]:
        kept = ("perplexity", "accuracy", "next_sentence_accuracy")
        more: dict[str, JsonValue] = {name: final.measures[name] for name in kept if name in final.measures}
        return {**more, "sources": sampled(self.plan)}

    def outputs(self, final: CheckpointManifest) -> tuple[File, ...]:
        return output_files(final)

    def tidy(self, attempt: Attempt) -> None:
        pass


def open_texts(
    storage: Storage, plan: Plan, group: Group, objective: Objective, sources: Mapping[str, Sequence[str]]
) -> list[list[Text]]:
    """The texts of those sources, by split; the processes of a node share the work of bringing their files."""
    where, cache = group.place, token_cache(storage, group.place.node)
    found = [
        [
            text_files(plan.inputs.tokenize, split, name, documents=objective.documents, marks=objective.marks)
            for name in names
        ]
        for split, names in sources.items()
    ]
    files = [file for split in found for source in split for file in source.all]
    bring(storage, files[where.local_rank :: where.local_world_size], cache)
    group.wait()
    return [[source.open(storage, cache, plan.inputs.token_facts.dtype) for source in split] for split in found]


def check_texts(objective: Objective, texts: Sequence[Text], unseen: Sequence[Text]) -> None:
    """Raises UserError if the objective can make nothing of a source's text, or of what is held out of all sources."""
    for text in texts:
        fault = objective.fault(text)
        if fault is not None:
            raise UserError(f"spec.corpus.sources: {text.name} {fault}")
    faults = [objective.fault(text) for text in unseen]
    if None not in faults:
        whose = f"of {unseen[0].name} {faults[0]}" if unseen else "is too short to validate on"
        raise UserError(f"spec.corpus.heldOutFraction: the held-out text {whose}; or raise heldOutFraction")


def told(plan: Plan) -> str:
    """What is trained on, in words."""
    passes = f"{plan.epochs:.2f} passes over {plan.inputs.token_facts.train_tokens:,} tokens"
    if len(plan.mixture.names) == 1:
        return passes
    shares = (
        f"{name} {source['sampled']:.2%} ({source['wanted']:.2%} wanted, {source['epochs']:.2f} passes)"
        for name, source in sampled(plan).items()
    )
    return f"{passes}: {', '.join(shares)}"


def sampled(plan: Plan) -> dict[str, Any]:
    """By source, the share of the samples that was wanted and that the run has, and the passes over its text."""
    mixture = plan.mixture
    numbers = zip(mixture.shares, mixture.of_each(plan.samples), mixture.epochs(plan.samples), strict=True)
    return {
        name: {"wanted": share / sum(mixture.shares), "sampled": samples / plan.samples, "epochs": epochs}
        for name, (share, samples, epochs) in zip(mixture.names, numbers, strict=True)
    }
