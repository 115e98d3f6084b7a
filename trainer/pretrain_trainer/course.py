"""What a run of training learns from what: in this pretraining and fine-tuning differ. The loop (train.py) is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from pretrain_stage.storage import Storage
from pydantic import JsonValue

from pretrain_trainer.checkpoint import CheckpointManifest
from pretrain_trainer.model import build_model
from pretrain_trainer.model.language_model import TrainedModel
from pretrain_trainer.objective import CausalLM, Samples
from pretrain_trainer.plan import Plan
from pretrain_trainer.ranks import Group
from pretrain_trainer.tokens import HELD_OUT, TRAIN, TokenStream, bring, open_stream, shard_files, shard_path, token_cache
from pretrain_trainer.validate import HeldOut, held_out, held_out_loss, perplexity


class Course(Protocol):
    """What is learned. All processes make one, and call its methods together."""

    stage: str
    """Name of the stage."""
    plan: Plan
    storage: Storage
    """Where the run keeps its checkpoints: a folder of the job's storage, or all of it."""
    samples: Samples
    about: str
    """What the run validates on, in words."""

    def model(self) -> TrainedModel:
        """The model as the run begins, its weights drawn from torch's generator or read from somewhere."""
        ...

    def validate(self, engine: Any) -> dict[str, float]:
        """Measures on what is kept from training; `validation_loss` is one of them."""
        ...

    def facts(self, final: CheckpointManifest) -> dict[str, JsonValue]:
        """What the stage's manifest says of the finished run besides steps, tokens and losses."""
        ...


class Pretraining:
    """A model learns from the text of the job."""

    stage = "train"

    def __init__(self, plan: Plan, storage: Storage, group: Group) -> None:
        self.plan, self.storage, self.group = plan, storage, group
        training = plan.job.spec.training
        cache = token_cache(storage, group.place.node)
        text, unseen = (open_tokens(storage, plan, group, cache, split) for split in (TRAIN, HELD_OUT))
        self.samples: Samples = CausalLM(text, training.sequence_length, training.seed)
        self.held_out: HeldOut = held_out(unseen, training.sequence_length, training.validation.max_sequences)
        self.about = f"{plan.epochs:.2f} passes over {plan.inputs.token_facts.train_tokens:,} tokens; validation on " + (
            f"{self.held_out.targets:,} tokens"
        )

    def model(self) -> TrainedModel:
        return build_model(self.plan.job.spec.model.family, self.plan.shape, self.plan.vocab_size)

    def validate(self, engine: Any) -> dict[str, float]:
        return {"validation_loss": held_out_loss(engine, self.held_out, self.group.device, self.group)}

    def facts(self, final: CheckpointManifest) -> dict[str, JsonValue]:
        return {"perplexity": perplexity(final.measures["validation_loss"])}


def open_tokens(storage: Storage, plan: Plan, group: Group, cache: Path, split: str) -> TokenStream:
    """The tokens of a split; the processes of a node share the work of bringing them."""
    where = group.place
    files = shard_files(plan.inputs.tokenize, split)
    bring(storage, files[where.local_rank :: where.local_world_size], cache)
    group.wait()
    return open_stream([shard_path(storage, file, cache) for file in files], plan.inputs.token_facts.dtype)
