"""What training is to do, worked out from the job and the manifests of its inputs before anything heavy is imported.

Two identities follow from a job, and they are not the same:

- The *stage identity* says whether a finished training is the one that the job asks for. It holds everything that decides
  the model: data, shape, seed, batch, optimizer, schedule, number of tokens. How the work is spread (nodes, micro-batch,
  ZeRO stage, activation checkpointing, compilation) and how often it is saved or validated stay out: a finished model
  need not be trained again because it would now be trained on more machines.
- The *checkpoint identity* says whether training may go on from a checkpoint. It holds what the saved numbers mean: the
  shape that the weights have, the data and the batch that turn a step into sample indices, and the seed of that order. How many
  processes wrote it, and under which ZeRO stage, stays out: the layout of the optimizer's state can be converted. The number
  of tokens is not in it, so raising `training.tokens` goes on where the last run ended; neither are learning rate, schedule
  and the optimizer's constants, which may be changed on the way. Such a change is recorded in the checkpoint as a new
  segment, so the lineage tells which steps had which.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pretrain_stage.config import Job
from pretrain_stage.errors import UserError
from pretrain_stage.manifest import Manifest, finished, identity, read_manifest
from pretrain_stage.storage import Storage
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from pretrain_trainer.config.batch import Batch, batch_of
from pretrain_trainer.config.presets import Dimensions
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.config.vocabulary import embedding_rows
from pretrain_trainer.config.window import window_of
from pretrain_trainer.initial import Initial, check_initial, find_initial
from pretrain_trainer.mixture import Mixture, wanted_shares

TRAIN_REVISION = 1


class TokenizerFacts(BaseModel):
    """What the tokenizer stage says of its tokenizer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    vocab_size: int
    sha256: str
    end_of_text: str
    end_of_text_id: int
    pad_id: int | None = None
    cls_id: int | None = None
    sep_id: int | None = None
    mask_id: int | None = None
    sentinel_ids: tuple[int, ...] = ()


class SourceFacts(BaseModel):
    """What the tokenize stage says of the tokens of one source."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    train_tokens: int
    held_out_tokens: int
    held_out_bytes: int


class TokenFacts(BaseModel):
    """What the tokenize stage says of its tokens."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    train_tokens: int
    held_out_tokens: int
    held_out_bytes: int
    dtype: str
    tokenizer_sha256: str
    sources: dict[str, SourceFacts]


@dataclass(frozen=True)
class Inputs:
    """The finished stages that training reads."""

    tokenizer: Manifest
    tokenizer_facts: TokenizerFacts
    tokenize: Manifest
    token_facts: TokenFacts


class RunPlan(Protocol):
    """What the loop asks of a run's plan, whatever is learned in it."""

    @property
    def job(self) -> Job[TrainerSpec]:
        """The job, its section `training` as it is for this run."""
        ...

    @property
    def batch(self) -> Batch: ...

    @property
    def stage(self) -> str:
        """Name of the stage."""
        ...

    @property
    def epochs(self) -> float:
        """Passes over the data."""
        ...

    @property
    def config(self) -> dict[str, JsonValue]:
        """What of the job decides the model."""
        ...

    @property
    def stage_inputs(self) -> dict[str, str]: ...

    @property
    def stage_identity(self) -> str: ...

    @property
    def checkpoint_identity(self) -> dict[str, JsonValue]:
        """What a checkpoint must agree in, by the name of the field that decides it."""
        ...

    @property
    def training_key(self) -> str:
        """Which run the steps belong to, over all its starts."""
        ...

    @property
    def learning_rate_field(self) -> str:
        """What the user calls the learning rate."""
        ...

    @property
    def flops_per_token(self) -> float | None:
        """Floating-point operations of a token's forward and backward pass; None if that is not known."""
        ...


@dataclass(frozen=True)
class Plan:
    """A training run, in numbers."""

    stage = "train"
    learning_rate_field = "training.optimizer.learningRate"

    job: Job[TrainerSpec]
    inputs: Inputs
    shape: Dimensions
    vocab_size: int
    """Rows of the embedding."""
    batch: Batch
    mixture: Mixture
    initial: Initial | None = None
    """The model that training goes on from."""

    @property
    def samples(self) -> int:
        """Sequences in the whole run."""
        return self.batch.steps * self.batch.samples

    @property
    def samples_per_epoch(self) -> int:
        """Sequences in one pass over the text of all sources."""
        return sum(self.mixture.in_a_pass)

    @property
    def epochs(self) -> float:
        """Passes over the training text; of several sources, the mean."""
        return self.samples / self.samples_per_epoch

    @property
    def sources(self) -> dict[str, JsonValue]:
        """How much of each source is wanted, in proportion."""
        return dict(zip(self.mixture.names, self.mixture.shares, strict=True))

    @property
    def masking(self) -> dict[str, JsonValue] | None:
        """What is taken from the model's sight, where the objective takes anything."""
        training = self.job.spec.training
        return None if training.objective == "causal-lm" else training.masking.model_dump(mode="json")

    @property
    def parameters(self) -> int:
        return self.shape.parameters(self.vocab_size)

    @property
    def flops_per_token(self) -> float | None:
        return self.shape.flops_per_token(self.vocab_size, self.batch.sequence_length)

    @property
    def config(self) -> dict[str, JsonValue]:
        """What of the job decides the model."""
        training = self.job.spec.training
        return {
            "model": self.model_config,
            "objective": training.objective,
            "masking": self.masking,
            "sources": self.sources,
            "tokens": training.tokens,
            "sequenceLength": training.sequence_length,
            "globalBatchTokens": training.global_batch_tokens,
            "optimizer": training.optimizer.model_dump(mode="json"),
            "schedule": training.schedule.model_dump(mode="json"),
            "precision": training.precision,
            "seed": training.seed,
            **({"initFrom": self.initial.digest} if self.initial else {}),
        }

    @property
    def model_config(self) -> dict[str, JsonValue]:
        shape = self.shape
        return {
            "family": self.job.spec.model.family,
            "hiddenSize": shape.hidden_size,
            "intermediateSize": shape.intermediate_size,
            "layers": shape.layers,
            "heads": shape.heads,
            "kvHeads": shape.kv_heads,
            "ropeTheta": shape.rope_theta,
            "normEps": shape.norm_eps,
            "tieEmbeddings": shape.tie_embeddings,
            "encoderLayers": shape.encoder_layers,
            "dropout": shape.dropout,
            "initStd": shape.init_std,
            "vocabSize": self.vocab_size,
        }

    @property
    def stage_inputs(self) -> dict[str, str]:
        return {"tokenizer": self.inputs.tokenizer.digest, "tokenize": self.inputs.tokenize.digest}

    @property
    def stage_identity(self) -> str:
        return identity("train", TRAIN_REVISION, self.config, self.stage_inputs)

    @property
    def checkpoint_identity(self) -> dict[str, JsonValue]:
        """What a checkpoint must agree in, by the name of the field that decides it."""
        training = self.job.spec.training
        return {
            **{f"model.{name}": value for name, value in self.model_config.items()},
            "training.objective": training.objective,
            "training.masking": self.masking,
            "corpus.sources": self.sources,
            "training.sequenceLength": training.sequence_length,
            "training.globalBatchTokens": training.global_batch_tokens,
            "training.seed": training.seed,
            "training.precision": training.precision,
            "training.optimizer.name": training.optimizer.name,
            "tokenizer": self.inputs.tokenizer_facts.sha256,
            "tokens": self.inputs.tokenize.digest,
            **({"training.initFrom": self.initial.digest} if self.initial else {}),
        }

    @property
    def training_key(self) -> str:
        """Which training the steps belong to, over all its starts: a digest of storage and checkpoint identity."""
        data = {"storage": self.job.spec.storage.uri, "identity": self.checkpoint_identity}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def make_plan(job: Job[TrainerSpec], storage: Storage, world_size: int) -> Plan:
    """What the job's training comes to on that many processes.

    Raises UserError if an input is missing or does not fit the job; the message names field, value and remedy.
    """
    inputs = read_inputs(storage)
    training = job.spec.training
    try:
        shape = job.spec.model.dimensions(training)
        batch = batch_of(training, world_size)
        rows = embedding_rows(job.spec.model, inputs.tokenizer_facts.vocab_size)
    except ValueError as error:
        raise UserError(f"spec.{error}") from None
    initial = _initial(job, storage, inputs, shape, rows)
    plan = Plan(job, inputs, shape, rows, batch, _mixture(job.spec, inputs.token_facts.sources, batch), initial)
    _check_data(plan)
    return plan


def _initial(job: Job[TrainerSpec], storage: Storage, inputs: Inputs, shape: Dimensions, rows: int) -> Initial | None:
    """The model that training goes on from, if one is given. Raises UserError if it does not fit the job."""
    section = job.spec.training.init_from
    if section is None:
        return None
    initial = find_initial(section.uri, job.spec.storage, storage)
    file = next(file for file in inputs.tokenizer.outputs if file.sha256 == inputs.tokenizer_facts.sha256)
    tokenizer = storage.read(file.path)
    assert tokenizer is not None, "an output of a finished stage"
    check_initial(initial, shape, rows, tokenizer)
    return initial


def _mixture(spec: TrainerSpec, facts: Mapping[str, SourceFacts], batch: Batch) -> Mixture:
    """The sources whose text is enough for a sample, by name. Raises UserError if none is, or the shares asked for cannot be."""
    window = window_of(spec.training)
    in_a_pass = {name: samples for name in sorted(facts) if (samples := window.samples(facts[name].train_tokens))}
    if not in_a_pass:
        tokens = max((source.train_tokens for source in facts.values()), default=0)
        raise UserError(
            f"spec.training.sequenceLength: {spec.training.sequence_length} is longer than the data, {tokens} training "
            f"tokens; choose less than {tokens}, or add text to spec.corpus.sources"
        )
    asked = {source.name: source for source in spec.corpus.sources}
    shares = wanted_shares(asked, in_a_pass, batch.steps * batch.samples, batch.samples)
    return Mixture(tuple(in_a_pass), tuple(in_a_pass.values()), tuple(shares), spec.training.seed)


def read_inputs(storage: Storage) -> Inputs:
    """The manifests of tokenizer and tokens. Raises UserError if one is missing, or they are not of each other."""
    tokenizer, tokenize = (_finished(storage, stage) for stage in ("tokenizer", "tokenize"))
    inputs = Inputs(tokenizer, _facts(TokenizerFacts, tokenizer, storage), tokenize, _facts(TokenFacts, tokenize, storage))
    if inputs.token_facts.tokenizer_sha256 != inputs.tokenizer_facts.sha256:
        raise UserError(
            f"{storage.uri}/tokens: made with the tokenizer {inputs.token_facts.tokenizer_sha256[:12]}..., but "
            f"tokenizer/tokenizer.json is now {inputs.tokenizer_facts.sha256[:12]}...; run the stage tokenize again"
        )
    return inputs


def finished_training(storage: Storage, plan: Plan) -> Manifest:
    """The manifest of the job's training. Raises UserError if the job's training is not finished."""
    manifest = finished(storage, "train", plan.stage_identity)
    if manifest is None:
        raise UserError(f"{storage.uri}/stages/train.json: the job's training is not finished; run the stage train first")
    return manifest


def _finished(storage: Storage, stage: str) -> Manifest:
    manifest = read_manifest(storage, stage)
    if manifest is None:
        raise UserError(f"{storage.uri}/stages/{stage}.json: missing; run the stage {stage} before training")
    return manifest


def _facts(model: Any, manifest: Manifest, storage: Storage) -> Any:
    try:
        return model.model_validate(manifest.facts)
    except ValidationError as error:
        missing = ", ".join(".".join(str(step) for step in fault["loc"]) for fault in error.errors())
        raise UserError(
            f"{storage.uri}/stages/{manifest.stage}.json: facts do not say {missing}; run the stage {manifest.stage} again"
        ) from None


def _check_data(plan: Plan) -> None:
    """Raises UserError if there is too little text for the tokens that are asked for, or to validate on."""
    training, facts, mixture = plan.job.spec.training, plan.inputs.token_facts, plan.mixture
    for name, epochs in zip(mixture.names, mixture.epochs(plan.samples), strict=True):
        if epochs > training.max_epochs:
            whose = f" of source {name}" if len(mixture.names) > 1 else ""
            allowed = mixture.most_samples(training.max_epochs, plan.batch.samples) * training.sequence_length
            raise UserError(
                f"spec.training.tokens: {training.tokens} needs {epochs:.1f} passes over {facts.sources[name].train_tokens} training "
                f"tokens{whose}, but maxEpochs allows {training.max_epochs}; lower tokens to {allowed}, raise maxEpochs, or add text"
            )
    if facts.held_out_tokens < 2:
        raise UserError(
            f"spec.corpus.heldOutFraction: left {facts.held_out_tokens} held-out tokens, and validation needs 2; raise it, or "
            "add text"
        )
