"""The PretrainJob: one definition, from which the CRD, the job file and all help texts are made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pretrain_preprocess.config import Corpus, Tokenizer
from pretrain_stage.config import Metadata, Name, Storage
from pretrain_stage.errors import UserError
from pretrain_stage.finetune import Finetune
from pretrain_stage.section import Rule, Section, parse
from pretrain_trainer.config.predict import Predict
from pretrain_trainer.config.sections import Evaluation, Export, Model, Training
from pydantic import BaseModel, ConfigDict, Field

from pretrain_operator.status import PretrainJobStatus

GROUP = "pretrain.dev"
VERSION = "v1alpha1"
KIND = "PretrainJob"

LABEL_KEY = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
)
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=LABEL_KEY)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]

IMMUTABLE = (
    "storage",
    "corpus.sources",
    "corpus.clean",
    "corpus.normalize",
    "corpus.language",
    "corpus.quality",
    "corpus.pii",
    "corpus.augment",
    "corpus.deduplicate",
    "corpus.heldOutFraction",
    "corpus.maxBadRecordFraction",
    "corpus.tasks",
    "tokenizer",
    "model",
    "training.objective",
    "training.masking",
    "training.initFrom",
    "training.sequenceLength",
    "training.globalBatchTokens",
    "training.optimizer.name",
    "training.precision",
    "training.seed",
    "training.deepspeed",
    "training.backend",
)
"""Fields that decide what the data, the model and its checkpoints are (docs/decisions/immutable-fields.md)."""

OPTIONAL = ("training.initFrom", "managedBy")
"""Immutable fields that have no default."""

OBJECTIVES_OF = {
    "llama": ("causal-lm",),
    "gpt2": ("causal-lm",),
    "bert": ("masked-lm", "masked-lm+next-sentence"),
    "marian": ("span-corruption",),
}


def _immutable(path: str) -> Rule:
    same = f"self.{path} == oldSelf.{path}"
    if path in OPTIONAL:
        same = f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || {same})"
    return Rule(message=f"{path} is immutable; create another PretrainJob", cel=same)


IN_CLUSTER = (
    Rule(
        message="storage.uri must be an s3:// uri in a cluster; pods share no folder",
        cel="self.storage.uri.startsWith('s3://')",
        holds=lambda s: s.storage.uri.startswith("s3://"),
    ),
    Rule(
        message="corpus.sources must be s3:// uris in a cluster; pods share no folder",
        cel="self.corpus.sources.all(source, source.uri.startsWith('s3://'))",
        holds=lambda s: all(source.uri.startswith("s3://") for source in s.corpus.sources),
    ),
    Rule(
        message="tokenizer.uri must be an s3:// uri in a cluster; pods share no folder",
        cel="!has(self.tokenizer.uri) || self.tokenizer.uri.startsWith('s3://')",
        holds=lambda s: s.tokenizer.uri is None or s.tokenizer.uri.startswith("s3://"),
    ),
    Rule(
        message="training.initFrom.uri must be an s3:// uri in a cluster; pods share no folder",
        cel="!has(self.training.initFrom) || self.training.initFrom.uri.startsWith('s3://')",
        holds=lambda s: s.training.init_from is None or s.training.init_from.uri.startswith("s3://"),
    ),
    Rule(
        message="finetune needs s3:// uris of examples and base in a cluster; pods share no folder",
        cel="self.finetune.all(task, task.examples.uri.startsWith('s3://') && (!has(task.base) || "
        "task.base.uri.startsWith('s3://')))",
        holds=lambda s: all(
            task.examples.uri.startswith("s3://") and (task.base is None or task.base.uri.startswith("s3://"))
            for task in s.finetune
        ),
    ),
    Rule(
        message="predict needs s3:// uris in a cluster; pods share no folder",
        cel="self.predict.all(one, one.uri.startsWith('s3://'))",
        holds=lambda s: all(one.uri.startswith("s3://") for one in s.predict),
    ),
    Rule(
        message="training.tracking.wandb needs apiKeySecretRef in a cluster unless its mode is offline; give it, or set the mode",
        cel="!has(self.training.tracking) || !has(self.training.tracking.wandb) || "
        "self.training.tracking.wandb.mode == 'offline' || has(self.training.tracking.wandb.apiKeySecretRef)",
        holds=lambda s: (
            s.training.tracking is None
            or s.training.tracking.wandb is None
            or s.training.tracking.wandb.mode == "offline"
            or s.training.tracking.wandb.api_key_secret_ref is not None
        ),
    ),
)
"""What must hold of a spec in a cluster and need not hold on one machine. The API server checks these with the others."""


class Toleration(Section):
    """A taint that the job's pods tolerate."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="a toleration without key needs operator Exists; add a key, or set operator to Exists",
            cel="has(self.key) || self.operator == 'Exists'",
            holds=lambda s: s.key is not None or s.operator == "Exists",
        ),
        Rule(
            message="a toleration with operator Exists has no value; remove the value, or set operator to Equal",
            cel="self.operator != 'Exists' || !has(self.value)",
            holds=lambda s: s.operator != "Exists" or s.value is None,
        ),
    )

    key: LabelKey | None = Field(default=None, description="Key of the taint. Omit, with operator Exists, for all taints.")
    operator: Literal["Equal", "Exists"] = Field(default="Equal", description="How key and value are compared.")
    value: LabelValue | None = Field(default=None, description="Value of the taint, for operator Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint. Omit for all effects."
    )


class Scheduling(Section):
    """Where the job's pods may run: the part of a pod template that passes through."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="nodeSelector has a key that no label can have; correct it",
            cel=f"self.nodeSelector.all(key, key.matches('{LABEL_KEY}'))",
            holds=lambda s: all(re.fullmatch(LABEL_KEY, key) for key in s.node_selector),
        ),
    )

    node_selector: dict[str, LabelValue] = Field(default={}, max_length=50, description="Labels that a node must have.")
    tolerations: list[Toleration] = Field(default=[], max_length=50, description="Taints that the pods tolerate.")
    priority_class_name: Name | None = Field(default=None, description="PriorityClass of the pods.")
    topology_key: LabelKey | None = Field(
        default=None, description="Node label whose value all training pods should share, for example a rack or a GPU block."
    )
    queue_name: Name | None = Field(default=None, description="Kueue LocalQueue that admits the job's workloads.")


class Cost(Section):
    """What the job's GPUs cost, and how much it may spend."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="budget needs pricePerGPUHour; add the price, or remove the budget",
            cel="!has(self.budget) || has(self.pricePerGPUHour)",
            holds=lambda s: s.budget is None or s.price_per_gpu_hour is not None,
        ),
    )

    price_per_gpu_hour: float | None = Field(
        default=None,
        alias="pricePerGPUHour",
        ge=0,
        le=1_000_000,
        description="Price of one GPU for an hour, in any currency. With it status.cost says what was spent.",
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000_000_000,
        description="Most that the job may spend, in that currency. Once it is spent the job is suspended: training saves a "
        "checkpoint and ends. Raise it to go on.",
    )


class PretrainJobSpec(Section):
    """What should happen: from raw text to a trained, evaluated, exported model."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="corpus.heldOutFraction must be above 0; validation and evaluation need held-out documents",
            cel="self.corpus.heldOutFraction > 0.0",
            holds=lambda s: s.corpus.held_out_fraction > 0,
        ),
        Rule(
            message="model.vocabSize must hold tokenizer.train.vocabSize and exceed it by less than 1024; change one of them, "
            "or omit model.vocabSize",
            cel="!has(self.model.vocabSize) || !has(self.tokenizer.train) || "
            "(self.model.vocabSize >= self.tokenizer.train.vocabSize && "
            "self.model.vocabSize < self.tokenizer.train.vocabSize + 1024)",
            holds=lambda s: (
                None in (s.model.vocab_size, s.tokenizer.train)
                or 0 <= s.model.vocab_size - s.tokenizer.train.vocab_size < 1024
            ),
        ),
        Rule(
            message="training.objective does not fit model.family: causal-lm is for llama and gpt2, masked-lm for bert, "
            "span-corruption for marian; change one of them",
            cel="{'llama': 'causal-lm', 'gpt2': 'causal-lm', 'bert': 'masked-lm', 'marian': 'span-corruption'}[self.model.family]"
            " == self.training.objective || (self.model.family == 'bert' && self.training.objective == "
            "'masked-lm+next-sentence')",
            holds=lambda s: s.training.objective in OBJECTIVES_OF[s.model.family],
        ),
        Rule(
            message="finetune must name tasks differently; rename one",
            cel="self.finetune.all(a, self.finetune.exists_one(b, b.name == a.name))",
            holds=lambda s: len({task.name for task in s.finetune}) == len(s.finetune),
        ),
        Rule(
            message="predict must name predictions differently; rename one",
            cel="self.predict.all(a, self.predict.exists_one(b, b.name == a.name))",
            holds=lambda s: len({one.name for one in s.predict}) == len(s.predict),
        ),
        Rule(
            message="predict asks the model of a task that finetune does not have; correct its task, or add that one to finetune",
            cel="self.predict.all(a, !has(a.task) || self.finetune.exists(b, b.name == a.task))",
            holds=lambda s: {one.task for one in s.predict} - {None} <= {task.name for task in s.finetune},
        ),
        Rule(
            message="finetune asks of model.family what it cannot learn: bert does no generation, marian nothing else; change "
            "task, or give a base",
            cel="self.finetune.all(a, has(a.base) || self.model.family in ['llama', 'gpt2'] || "
            "(a.task == 'generation') == (self.model.family == 'marian'))",
            holds=lambda s: all(
                s.model.family in ("llama", "gpt2") or (a.task == "generation") == (s.model.family == "marian")
                for a in s.finetune
                if a.base is None
            ),
        ),
        Rule(
            message="finetune has longer examples than the model has positions (sequenceLength, and with prefix prefixTokens); lower "
            "its sequenceLength, raise training.sequenceLength, or give a base",
            cel="self.finetune.all(a, has(a.base) || "
            "a.sequenceLength + (a.method == 'prefix' ? a.prefixTokens : 0) <= self.training.sequenceLength)",
            holds=lambda s: all(
                a.sequence_length + (a.prefix_tokens if a.method == "prefix" else 0) <= s.training.sequence_length
                for a in s.finetune
                if a.base is None
            ),
        ),
        Rule(
            message="finetune would change layers that adalora cannot, those of family gpt2; choose lora, or give a base",
            cel="self.model.family != 'gpt2' || self.finetune.all(a, has(a.base) || a.method != 'adalora')",
            holds=lambda s: s.model.family != "gpt2" or all(a.method != "adalora" for a in s.finetune if a.base is None),
        ),
        Rule(
            message="predict asks a model of family bert that has learned no task, which answers nothing; give its task",
            cel="self.model.family != 'bert' || self.predict.all(a, has(a.task))",
            holds=lambda s: s.model.family != "bert" or all(a.task is not None for a in s.predict),
        ),
        *map(_immutable, (*IMMUTABLE, "managedBy")),
    )

    storage: Storage = Field(description="Where everything that the job makes is kept.")
    corpus: Corpus = Field(description="The raw text, and how it is cleaned and deduplicated.")
    tokenizer: Tokenizer = Field(description="The tokenizer: one to train, or one that exists.")
    model: Model = Field(description="The model.")
    training: Training = Field(description="How the model is trained.")
    evaluation: Evaluation = Field(default=Evaluation(), description="What is measured and written at the end.")
    export: Export = Field(default=Export(), description="How the finished model is written.")
    finetune: list[Finetune] = Field(
        default=[], max_length=20, description="Tasks that the finished model is fine-tuned for."
    )
    predict: list[Predict] = Field(default=[], max_length=20, description="What the finished models are asked.")
    scheduling: Scheduling = Field(default=Scheduling(), description="Where the job's pods may run.")
    cost: Cost = Field(default=Cost(), description="What the job's GPUs cost, and how much it may spend.")
    suspend: bool = Field(default=False, description="Whether the job is halted; its finished stages and checkpoints stay.")
    managed_by: Annotated[str, Field(min_length=1, max_length=63)] | None = Field(
        default=None, description="Another controller that takes care of this job. Omit for this operator."
    )
    active_deadline_seconds: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="Seconds after which a job that is not finished fails."
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Seconds after which a finished job is deleted; its model stays in storage.",
    )


class PretrainJob(BaseModel):
    """From raw text to a trained, evaluated, exported language model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    apiVersion: Literal["pretrain.dev/v1alpha1"]  # noqa: N815 - the wire's own name
    kind: Literal["PretrainJob"]
    metadata: Metadata
    spec: PretrainJobSpec = Field(description="What should happen.")
    status: PretrainJobStatus = Field(default=PretrainJobStatus(), description="What was observed.")

    def job_file(self) -> dict[str, Any]:
        """The job with every default written out, as each stage program reads it. No status, nothing of the cluster."""
        return {
            "apiVersion": self.apiVersion,
            "kind": self.kind,
            "metadata": self.metadata.model_dump(exclude_none=True),
            "spec": self.spec.model_dump(mode="json", exclude_none=True),
        }


def load_job(path: Path) -> PretrainJob:
    """The PretrainJob in a YAML or JSON file. Raises UserError that names each field that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the file of a PretrainJob") from None
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())}); correct it") from None
    if len(documents) != 1:
        raise UserError(f"{path}: holds {len(documents)} documents; give a file with one PretrainJob")
    return parse_job(documents[0], str(path))


def check_in_cluster(job: PretrainJob) -> None:
    """Raises UserError, with the API server's sentence, if a job can run on one machine but not in a cluster."""
    for rule in IN_CLUSTER:
        if rule.holds is not None and not rule.holds(job.spec):
            raise UserError(f"spec: {rule.explained(job.spec)}")


def parse_job(data: Any, where: str) -> PretrainJob:
    """The PretrainJob in a parsed manifest. Raises UserError that names each field that is wrong."""
    return parse(PretrainJob, data, where)
