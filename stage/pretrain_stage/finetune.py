"""spec.finetune: what preprocessing and training both read of it. Preprocessing splits and checks the examples, training learns them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pretrain_stage.config import Uri
from pretrain_stage.section import Rule, Section

FieldName = Annotated[str, Field(min_length=1, max_length=253)]
Label = Annotated[str, Field(min_length=1, max_length=253)]

ShortName = Annotated[str, Field(min_length=1, max_length=20, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS label, short enough to be part of the name of a stage, which is part of the names of pods."""

Task = Literal["classification", "token-classification", "generation"]
Method = Literal["full", "freeze", "lora", "adalora", "prefix", "adapter"]
Metric = Literal["loss", "accuracy", "macro-f1", "micro-f1", "entity-f1", "bleu", "rouge-l", "exact-match", "token-f1"]


class Examples(Section):
    """Labelled examples, and how they are split."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="validationFraction and testFraction must leave examples to train on; lower one of them",
            cel="self.validationFraction + self.testFraction < 1.0",
            holds=lambda s: s.validation_fraction + s.test_fraction < 1,
        ),
    )

    uri: Uri = Field(
        description="Folder, file or pattern (* within a folder, ** across folders), on this machine or as s3://bucket/...; "
        "an s3 source uses the endpoint, region and credentials of spec.storage."
    )
    format: Literal["jsonl", "parquet", "csv"] = Field(default="jsonl", description="Format of the files.")
    text_field: FieldName = Field(default="text", description="classification: the text.")
    label_field: FieldName = Field(default="label", description="classification: the label, a string or a whole number.")
    words_field: FieldName = Field(default="words", description="token-classification: the words, a list of strings.")
    tags_field: FieldName = Field(
        default="tags", description="token-classification: a tag for each word, in IOB2 (B-PER, I-PER, O) for entities."
    )
    prompt_field: FieldName = Field(default="prompt", description="generation: what is given.")
    answer_field: FieldName = Field(default="answer", description="generation: what is to be answered.")
    messages_field: FieldName | None = Field(
        default=None,
        description="generation: a list of messages with role (system, user, assistant) and content, in place of prompt and "
        "answer. All that the assistant says is learned.",
    )
    labels: list[Label] = Field(
        default=[],
        max_length=1_000,
        description="Labels (classification) or tags (token-classification) that may occur, and must. Omit for those found.",
    )
    validation_fraction: float = Field(
        default=0.1,
        gt=0,
        le=0.5,
        description="Share of the examples to choose the model by, taken by a hash of the example.",
    )
    test_fraction: float = Field(
        default=0.1, gt=0, le=0.5, description="Share of the examples to report figures on, taken by a hash of the example."
    )
    max_train_examples: int | None = Field(
        default=None, ge=1, le=1_000_000_000, description="Most examples to train on, chosen by hash. Omit for all."
    )
    too_long: Literal["truncate", "refuse"] = Field(
        default="truncate",
        description="What is done about examples longer than sequenceLength; they are counted either way.",
    )


class Base(Section):
    """A model that fine-tuning starts from, in place of the job's own."""

    uri: Uri = Field(
        description="Hugging Face folder in safetensors, with its tokenizer.json; on this machine, or s3://bucket/prefix."
    )


class Lora(Section):
    """Options of lora (Hu et al. 2021) and adalora (Zhang et al. 2023)."""

    rank: int = Field(default=8, ge=1, le=1_024, description="Rank of each update; adalora: mean rank at the end.")
    initial_rank: int = Field(default=12, ge=1, le=1_024, description="adalora: rank at the beginning.")
    alpha: float = Field(default=16, gt=0, le=10_000, description="Updates are scaled by alpha / rank.")
    dropout: float = Field(default=0, ge=0, lt=1, description="Dropout before each update.")


class Finetune(Section):
    """One task that the model is fine-tuned for."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="batchSize must be a multiple of microBatchSize and the number of processes; change one of them",
            cel="self.batchSize % ((self.gpus > 0 ? self.gpus : (has(self.processes) ? self.processes : 1)) * "
            "(has(self.microBatchSize) ? self.microBatchSize : 1)) == 0",
            holds=lambda s: s.batch_size % (s.world_size * (s.micro_batch_size or 1)) == 0,
        ),
        Rule(
            message="gpus and processes differ; with gpus omit processes, there is one process a GPU",
            cel="self.gpus == 0 || !has(self.processes) || self.processes == self.gpus",
            holds=lambda s: s.gpus == 0 or s.processes in (None, s.gpus),
        ),
        Rule(
            message="method adalora needs lora.initialRank of at least lora.rank; change one of them",
            cel="self.method != 'adalora' || self.lora.initialRank >= self.lora.rank",
            holds=lambda s: s.method != "adalora" or s.lora.initial_rank >= s.lora.rank,
        ),
        Rule(
            message="method adalora cannot take ranks away with zeroStage 3, nor with 0 and bf16; set zeroStage to 2",
            cel="self.method != 'adalora' || (self.zeroStage < 3 && (self.zeroStage > 0 || self.precision == 'fp32'))",
            holds=lambda s: s.method != "adalora" or (s.zero_stage < 3 and (s.zero_stage > 0 or s.precision == "fp32")),
        ),
        Rule(
            message="metric does not fit task: classification has loss, accuracy, macro-f1 and micro-f1, token-classification "
            "entity-f1 as well, generation has loss, bleu, rouge-l, exact-match and token-f1; change one of them",
            cel="!has(self.metric) || self.metric == 'loss' || (self.task == 'generation') == "
            "(self.metric in ['bleu', 'rouge-l', 'exact-match', 'token-f1']) && "
            "(self.metric != 'entity-f1' || self.task == 'token-classification')",
            holds=lambda s: (
                s.metric in (None, "loss")
                or (
                    (s.task == "generation") == (s.metric in ("bleu", "rouge-l", "exact-match", "token-f1"))
                    and (s.metric != "entity-f1" or s.task == "token-classification")
                )
            ),
        ),
    )

    name: ShortName = Field(description="Name of the task; it names stages, folders and figures.")
    task: Task = Field(
        description="classification (a label for a text), token-classification (a tag for each word) or generation (an answer "
        "to a prompt)."
    )
    examples: Examples = Field(description="Labelled examples, and how they are split.")
    base: Base | None = Field(default=None, description="The model to start from. Omit for the one that this job trains.")
    from_scratch: bool = Field(
        default=False, description="Whether to start from fresh weights of the same shape, to see what pretraining is worth."
    )
    method: Method = Field(
        default="full",
        description="What is trained: full (all), freeze (the last layers), lora, adalora, prefix (Li and Liang 2021) or adapter "
        "(a bottleneck behind each layer: Houlsby et al. 2019).",
    )
    trained_layers: int = Field(default=1, ge=0, le=1_000, description="freeze: layers that are trained, from the last.")
    lora: Lora = Field(default=Lora(), description="Options of lora and adalora.")
    prefix_tokens: int = Field(default=16, ge=1, le=1_024, description="prefix: virtual tokens before each text.")
    adapter_width: int = Field(default=32, ge=1, le=8_192, description="adapter: width of the bottleneck.")
    sequence_length: int = Field(default=256, ge=8, le=1_048_576, description="Most tokens of an example.")
    batch_size: int = Field(default=32, ge=1, le=1_000_000, description="Examples in an optimizer step, over all processes.")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="Examples a process holds at once. Omit for what stays within 8192 tokens.",
    )
    epochs: float = Field(default=3, gt=0, le=10_000, description="Passes over the training examples, at most.")
    learning_rate: float = Field(default=1e-4, gt=0, le=10, description="Highest learning rate.")
    weight_decay: float = Field(default=0.01, ge=0, le=10, description="Decoupled weight decay; matrices only.")
    warmup_fraction: float = Field(
        default=0.06, ge=0, lt=1, description="Share of the steps that warm up; then linear decay."
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout of the model, where its family has any.")
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="Arithmetic of model and gradients.")
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of new weights, data order and dropout.")
    validate_every_steps: int | None = Field(
        default=None, ge=1, le=10_000_000, description="Steps between validations. Omit for once an epoch."
    )
    metric: Metric | None = Field(
        default=None,
        description="Which validation metric chooses the model. Omit for macro-f1 (classification), entity-f1 "
        "(token-classification) or loss (generation).",
    )
    patience: int = Field(
        default=3, ge=1, le=1_000, description="Validations without a better metric after which fine-tuning ends early."
    )
    max_new_tokens: int = Field(default=128, ge=1, le=65_536, description="generation: most tokens of an answer.")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=2, description="What DeepSpeed's ZeRO shards, as in training.deepspeed.")
    gpus: int = Field(
        default=0,
        ge=0,
        le=64,
        description="GPUs; 0 trains on CPU. Fine-tuning runs in one pod, with the CPU and memory of training.resources.",
    )
    processes: int | None = Field(
        default=None, ge=1, le=256, description="Processes. Omit for one a GPU, or one without GPUs."
    )
    merge: bool = Field(
        default=True,
        description="lora, adalora: whether the export is a whole model with the updates merged into it, or base and updates "
        "apart. prefix and adapter cannot be merged.",
    )

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.gpus or self.processes or 1
