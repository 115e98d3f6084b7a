"""spec.model, spec.training, spec.evaluation and spec.export."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pretrain_stage.config import SecretRef, Storage, Uri
from pretrain_stage.finetune import Finetune
from pretrain_stage.section import Rule, Section
from pretrain_stage.spans import spans_that_fill
from pydantic import ConfigDict, Field

from pretrain_trainer.config.mixture import CorpusShares
from pretrain_trainer.config.predict import Predict
from pretrain_trainer.config.presets import PRESETS, Dimensions

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", min_length=1, max_length=20)]


_GIVEN = "has(self.preset) || (has(self.hiddenSize) && has(self.layers) && has(self.heads))"


def _cel_of(field: str, dimension: str) -> str:
    """CEL for a dimension as given, or else as the preset has it."""
    presets = ", ".join(f"'{name}': {getattr(shape, dimension)}" for name, shape in PRESETS.items())
    return f"(has(self.{field}) ? self.{field} : {{{presets}}}[self.preset])"


class Model(Section):
    """The model: a preset, explicit dimensions, or a preset with some of them changed."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="give a preset, or hiddenSize, layers and heads",
            cel=_GIVEN,
            holds=lambda s: s.preset is not None or None not in (s.hidden_size, s.layers, s.heads),
        ),
        Rule(
            message="heads must divide hiddenSize, of family llama into parts of even size, for rotary positions turn pairs; "
            "change one of them",
            cel=f"!({_GIVEN}) || {_cel_of('hiddenSize', 'hidden_size')} % "
            f"((self.family == 'llama' ? 2 : 1) * {_cel_of('heads', 'heads')}) == 0",
            holds=lambda s: s.dimensions().hidden_size % ((2 if s.family == "llama" else 1) * s.dimensions().heads) == 0,
        ),
        Rule(
            message="kvHeads must divide heads; change one of them",
            cel=f"!({_GIVEN}) || !has(self.kvHeads) || {_cel_of('heads', 'heads')} % self.kvHeads == 0",
            holds=lambda s: s.dimensions().heads % s.dimensions().kv_heads == 0,
        ),
        Rule(
            message="preset, kvHeads and ropeTheta belong to family llama; remove them, or change family",
            cel="self.family == 'llama' || !(has(self.preset) || has(self.kvHeads) || has(self.ropeTheta))",
            holds=lambda s: s.family == "llama" or (s.preset, s.kv_heads, s.rope_theta) == (None, None, None),
        ),
        Rule(
            message="family llama has no dropout and no encoder; remove dropout and encoderLayers, or change family",
            cel="self.family != 'llama' || !(has(self.dropout) || has(self.encoderLayers))",
            holds=lambda s: s.family != "llama" or (s.dropout, s.encoder_layers) == (None, None),
        ),
        Rule(
            message="normEps of family marian is 1e-5; remove normEps, or change family",
            cel="self.family != 'marian' || !has(self.normEps)",
            holds=lambda s: s.family != "marian" or s.norm_eps is None,
        ),
        Rule(
            message="encoderLayers belongs to family marian; remove it",
            cel="self.family == 'marian' || !has(self.encoderLayers)",
            holds=lambda s: s.family == "marian" or s.encoder_layers is None,
        ),
    )

    family: Literal["llama", "gpt2", "bert", "marian"] = Field(
        default="llama",
        description="Model family: llama (decoder with RMSNorm, rotary positions, SwiGLU, grouped-query attention), gpt2 (decoder "
        "with learned positions and LayerNorm), bert (encoder) or marian (encoder and decoder with sinusoidal positions).",
    )
    preset: Literal["tiny", "small", "llama2-7b", "llama3-8b"] | None = Field(
        default=None, description="A published shape: tiny (demo), small (about 125M), llama2-7b, llama3-8b."
    )
    hidden_size: int | None = Field(default=None, ge=16, le=65_536, description="Width of the model.")
    intermediate_size: int | None = Field(
        default=None,
        ge=16,
        le=1_000_000,
        description="Width of the feed-forward layers. Omit for 8/3 of hiddenSize, rounded up to 16 (llama), or 4 times hiddenSize.",
    )
    layers: int | None = Field(default=None, ge=1, le=1_000, description="Layers; of marian, those of the decoder.")
    encoder_layers: int | None = Field(
        default=None, ge=1, le=1_000, description="marian: layers of the encoder. Omit for as many as layers."
    )
    heads: int | None = Field(default=None, ge=1, le=1_024, description="Attention heads.")
    kv_heads: int | None = Field(
        default=None, ge=1, le=1_024, description="Key and value heads (grouped-query attention). Omit for as many as heads."
    )
    rope_theta: float | None = Field(default=None, ge=1, le=1e9, description="Base of the rotary positions. Omit for 10000.")
    norm_eps: float | None = Field(
        default=None,
        ge=1e-12,
        le=0.1,
        description="Epsilon of the norms. Omit for 1e-5; bert: 1e-12. Of marian it is 1e-5 always.",
    )
    dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Dropout of embeddings and of what each layer adds, not of attention weights; drawn by sample, so that it is "
        "the same on any number of processes. Omit for 0.1; llama has none.",
    )
    init_std: float = Field(default=0.02, gt=0, le=1, description="Standard deviation of fresh weights.")
    tie_embeddings: bool | None = Field(
        default=None,
        description="Whether input and output embeddings are one matrix. Omit for the preset's choice, or false.",
    )
    vocab_size: int | None = Field(
        default=None,
        ge=16,
        le=1_100_000,
        description="Rows of the embedding. Omit for the tokenizer's size rounded up to 64; if given, it must hold the "
        "tokenizer and exceed it by less than 1024.",
    )

    def dimensions(self, training: Training | None = None) -> Dimensions:
        """The shape that follows from preset and explicit dimensions.

        training: what the number of positions and the heads follow from; without it, parameters of a model with learned
        positions cannot be counted.
        """
        preset = PRESETS.get(self.preset) if self.preset else None
        hidden = self.hidden_size or _of(preset, "hidden_size")
        heads = self.heads or _of(preset, "heads")
        llama = self.family == "llama"
        inner = -(-hidden * 8 // 3 // 16) * 16 if llama else 4 * hidden
        tied = bool(preset and preset.tie_embeddings) if self.tie_embeddings is None else self.tie_embeddings
        shape = Dimensions(
            hidden_size=hidden,
            intermediate_size=self.intermediate_size
            or (_of(preset, "intermediate_size") if preset and not self.hidden_size else inner),
            layers=self.layers or _of(preset, "layers"),
            heads=heads,
            kv_heads=self.kv_heads or (_of(preset, "kv_heads") if preset and not self.heads else heads),
            rope_theta=self.rope_theta or (preset.rope_theta if preset else 10_000.0),
            norm_eps=self.norm_eps or (preset.norm_eps if preset else 1e-12 if self.family == "bert" else 1e-5),
            tie_embeddings=tied,
            family=self.family,
            encoder_layers=(self.encoder_layers or self.layers or 0) if self.family == "marian" else 0,
            dropout=0.0 if llama else 0.1 if self.dropout is None else self.dropout,
            init_std=self.init_std,
        )
        if training is None:
            return shape
        if self.family != "marian":
            pairs = training.objective == "masked-lm+next-sentence"
            return replace(shape, positions=training.sequence_length, next_sentence=pairs)
        length, masking = training.sequence_length, training.masking
        decoder = spans_that_fill(length, masking.fraction, masking.mean_span).decoder
        return replace(shape, positions=max(length, decoder), decoder_share=decoder / length)


def _of(preset: Dimensions | None, name: str) -> int:
    assert preset is not None, "a rule of Model demands a preset or the dimension"
    return int(getattr(preset, name))


class Optimizer(Section):
    """The optimizer (Adam: Kingma and Ba 2015; AdamW: Loshchilov and Hutter 2019; Muon: Jordan et al. 2024)."""

    name: Literal["adamw", "adam", "muon"] = Field(
        default="adamw",
        description="adamw (decoupled weight decay), adam (weight decay as a part of the gradient) or muon (matrices of the layers "
        "by Muon, the rest by AdamW; with zeroStage 0).",
    )
    learning_rate: float = Field(default=3e-4, gt=0, le=10, description="Highest learning rate.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="Decay of the second moment.")
    eps: float = Field(default=1e-8, gt=0, le=1, description="Added to the denominator.")
    weight_decay: float = Field(default=0.1, ge=0, le=10, description="Decoupled weight decay; matrices only, no norms.")
    l1: float = Field(
        default=0,
        ge=0,
        le=10,
        description="Weight of the sum of absolute weights of matrices in the loss, which is reported without it; with zeroStage 0 to 2.",
    )
    gradient_clipping: float = Field(
        default=1.0, ge=0, le=1_000, description="Largest norm of the gradient; 0 switches it off."
    )


class Schedule(Section):
    """The learning rate over the steps."""

    kind: Literal["constant", "linear", "cosine", "wsd"] = Field(
        default="cosine", description="constant, linear, cosine, or wsd (warm-up, stable, decay: Hu et al. 2024)."
    )
    warmup_steps: int = Field(default=0, ge=0, le=10_000_000, description="Steps of linear warm-up.")
    decay_fraction: float = Field(default=0.1, gt=0, le=1, description="wsd: share of the steps that decay, at the end.")
    min_ratio: float = Field(default=0.1, ge=0, le=1, description="Last learning rate, as a share of the highest.")


class Masking(Section):
    """What masked-lm and span-corruption take away."""

    fraction: float = Field(default=0.15, gt=0, lt=1, description="Share of the tokens that are asked for.")
    whole_words: bool = Field(
        default=True, description="masked-lm: whether words are masked as a whole; Chinese words are found by segmentation."
    )
    mean_span: float = Field(default=3, ge=1, le=100, description="span-corruption: mean length of a span, in tokens.")


class InitFrom(Section):
    """A model that training goes on from."""

    uri: Uri = Field(
        description="Hugging Face folder in safetensors whose shape and tokenizer are the job's; on this machine, or "
        "s3://bucket/prefix."
    )


class DeepSpeed(Section):
    """Options of DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=2, description="What ZeRO shards: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters."
    )


class Checkpoints(Section):
    """When a checkpoint is written, and how many stay."""

    every_steps: int = Field(default=500, ge=1, le=10_000_000, description="Steps between checkpoints.")
    keep_last: int = Field(default=3, ge=1, le=1_000, description="Committed checkpoints that are kept: the newest ones.")
    keep_every_steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Keeps besides these every checkpoint whose step is a multiple of this, for good.",
    )
    keep_best: bool = Field(default=False, description="Keeps besides these the one with the lowest validation loss.")


class LossSpike(Section):
    """What is done when the loss of single steps stands far above those before them."""

    action: Literal["alert", "rollback", "ignore"] = Field(
        default="alert",
        description="alert says and counts it; rollback also goes back to an earlier checkpoint and leaves out the samples since then, "
        "at most three times; ignore does nothing.",
    )
    rollback_checkpoints: int = Field(
        default=1,
        ge=1,
        le=100,
        description="rollback: to which checkpoint before the spike, counted from the newest; to the oldest if fewer are kept.",
    )


class Faults(Section):
    """What is done about faults that training sees itself."""

    step_limit_seconds: int | None = Field(
        default=None,
        ge=5,
        le=86_400,
        description="Longest time of a step; then stacks are written, and the group ends and starts again. Omit for 3 times the 95th "
        "percentile of the steps before it, and 20 s; the first step has 15 minutes.",
    )
    replica_check_steps: int = Field(
        default=100,
        ge=0,
        le=10_000_000,
        description="Steps between comparisons of the weights that all processes should hold alike, also compared before each checkpoint; "
        "a difference ends the attempt. 0 switches it off.",
    )
    loss_spike: LossSpike = Field(
        default=LossSpike(), description="What is done when the loss of single steps stands far above those before them."
    )


class Validation(Section):
    """Loss on the held-out documents during training."""

    every_steps: int = Field(default=500, ge=1, le=10_000_000, description="Steps between validations; one more at the end.")
    max_sequences: int = Field(default=256, ge=1, le=1_000_000, description="Held-out sequences that are used each time.")


class TrainingResources(Section):
    """What each training pod asks for besides GPUs."""

    cpu: Quantity = Field(default="1", description="CPU request of each pod, as a Kubernetes quantity.")
    memory: Quantity = Field(default="8Gi", description="Memory request and limit of each pod, as a Kubernetes quantity.")


TrackerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", min_length=1, max_length=128)]


class WeightsAndBiases(Section):
    """A project of Weights & Biases."""

    project: TrackerName = Field(description="Project that the run belongs to; made if need be.")
    entity: TrackerName | None = Field(default=None, description="User or team. Omit for the key's own.")
    mode: Literal["online", "offline"] = Field(
        default="online", description="online sends; offline writes files under reports/wandb/, for `wandb sync`."
    )
    api_key_secret_ref: SecretRef | None = Field(
        default=None, description="Secret with WANDB_API_KEY. Omit where mode is offline, or outside of a cluster."
    )


class MLflow(Section):
    """An experiment on an MLflow tracking server."""

    tracking_uri: Annotated[str, Field(pattern=r"^https?://[^\s@/?#]+(/[^\s@?#]*)?$")] = Field(
        alias="trackingURI",
        max_length=1024,
        description="Address of the server, without credentials in it; the first training pod calls it.",
    )
    experiment: Annotated[str, Field(pattern=r"^[^\x00-\x1f]+$")] = Field(
        min_length=1, max_length=256, description="Experiment that the run belongs to; made if need be."
    )
    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    )


class Tracking(Section):
    """Experiment trackers."""

    wandb: WeightsAndBiases | None = Field(default=None, description="Weights & Biases.")
    mlflow: MLflow | None = Field(default=None, description="MLflow.")


class Training(Section):
    """How the model is trained."""

    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            message="sequenceLength must divide globalBatchTokens; change one of them",
            cel="self.globalBatchTokens % self.sequenceLength == 0",
            holds=lambda s: s.global_batch_tokens % s.sequence_length == 0,
        ),
        Rule(
            message="gpusPerNode and processesPerNode differ; with GPUs omit processesPerNode, there is one process a GPU",
            cel="self.gpusPerNode == 0 || !has(self.processesPerNode) || self.processesPerNode == self.gpusPerNode",
            holds=lambda s: s.gpus_per_node == 0 or s.processes_per_node in (None, s.gpus_per_node),
        ),
        Rule(
            message="globalBatchTokens must be sequenceLength times a multiple of microBatchSize and the number of processes; "
            "change one of them",
            cel="(self.globalBatchTokens / self.sequenceLength) % (self.nodes * (self.gpusPerNode > 0 ? self.gpusPerNode : "
            "(has(self.processesPerNode) ? self.processesPerNode : 1)) * (has(self.microBatchSize) ? self.microBatchSize : 1)) == 0",
            holds=lambda s: (s.global_batch_tokens // s.sequence_length) % (s.world_size * (s.micro_batch_size or 1)) == 0,
        ),
        Rule(
            message="optimizer muon needs whole matrices, which deepspeed.zeroStage above 0 divides; set zeroStage to 0, or choose adamw",
            cel="self.optimizer.name != 'muon' || self.deepspeed.zeroStage == 0",
            holds=lambda s: s.optimizer.name != "muon" or s.deepspeed.zero_stage == 0,
        ),
        Rule(
            message="optimizer.l1 needs whole weights, which deepspeed.zeroStage 3 divides; lower zeroStage, or set l1 to 0",
            cel="self.optimizer.l1 == 0.0 || self.deepspeed.zeroStage < 3",
            holds=lambda s: s.optimizer.l1 == 0 or s.deepspeed.zero_stage < 3,
        ),
        Rule(
            message="tokens must be at least globalBatchTokens; one step needs that many",
            cel="self.tokens >= self.globalBatchTokens",
            holds=lambda s: s.tokens >= s.global_batch_tokens,
        ),
    )

    objective: Literal["causal-lm", "masked-lm", "masked-lm+next-sentence", "span-corruption"] = Field(
        default="causal-lm",
        description="What is learned: causal-lm (the next token; llama, gpt2), masked-lm (masked tokens; bert), "
        "masked-lm+next-sentence (also whether two sentences follow each other; bert) or span-corruption (spans that were "
        "taken out; marian).",
    )
    masking: Masking = Field(default=Masking(), description="What masked-lm and span-corruption take away.")
    init_from: InitFrom | None = Field(
        default=None, description="A model to go on from (continual pretraining). Omit for fresh weights."
    )
    tokens: int = Field(
        ge=1, le=1_000_000_000_000_000, description="Tokens to train on; text is repeated if there is less of it."
    )
    sequence_length: int = Field(default=2048, ge=8, le=1_048_576, description="Tokens in a sample.")
    global_batch_tokens: int = Field(ge=8, le=1_000_000_000, description="Tokens in an optimizer step, over all processes.")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="Sequences a process holds at once. Omit for the largest that divides the batch and stays within 8192 tokens.",
    )
    optimizer: Optimizer = Field(default=Optimizer(), description="The optimizer.")
    schedule: Schedule = Field(default=Schedule(), description="The learning rate over the steps.")
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="Arithmetic of model and gradients.")
    activation_checkpointing: bool = Field(
        default=False, description="Whether activations are computed again in the backward pass, to save memory."
    )
    compile: bool = Field(default=False, description="Whether the layers are compiled (torch.compile); slower to start.")
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of weights and data order.")
    max_epochs: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Most passes over the training text that tokens may need before the job is refused.",
    )
    nodes: int = Field(default=1, ge=1, le=10_000, description="Training pods; on one machine, groups of processes.")
    gpus_per_node: int = Field(default=0, ge=0, le=64, description="GPUs of each node; 0 trains on CPU.")
    processes_per_node: int | None = Field(
        default=None, ge=1, le=256, description="Processes of each node. Omit for one a GPU, or one without GPUs."
    )
    resources: TrainingResources = Field(default=TrainingResources(), description="What each training pod asks for.")
    deepspeed: DeepSpeed = Field(default=DeepSpeed(), description="Options of DeepSpeed.")
    checkpoints: Checkpoints = Field(default=Checkpoints(), description="When a checkpoint is written, and how many stay.")
    faults: Faults = Field(default=Faults(), description="What is done about faults that training sees itself.")
    validation: Validation = Field(default=Validation(), description="Loss on held-out documents during training.")
    tensorboard: bool = Field(default=False, description="Whether TensorBoard files are written under reports/.")
    tracking: Tracking | None = Field(
        default=None, description="Experiment trackers that are told of training. None of them can slow or stop it."
    )
    peak_teraflops: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Peak of each device, on CPU of each process, in 10^12 dense bf16 operations per second, for the metric of "
        "model FLOPs utilization. Omit for the datasheet's, where the device is known.",
    )
    backend: Literal["PyTorchJob"] = Field(default="PyTorchJob", description="The Kubernetes resource that runs training.")
    max_restarts: int = Field(
        default=20, ge=0, le=10_000, description="Restarts of the training group before the job fails."
    )

    @property
    def processes(self) -> int:
        """Processes of each node."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.nodes * self.processes


class Evaluation(Section):
    """What is measured and written at the end."""

    prompts: list[Annotated[str, Field(min_length=1, max_length=4_096)]] = Field(
        default=[], max_length=100, description="Texts to continue. Omit to use the beginnings of held-out documents."
    )
    max_new_tokens: int = Field(default=64, ge=1, le=65_536, description="Tokens of each continuation.")
    temperature: float = Field(default=0.8, ge=0, le=10, description="Sampling temperature; 0 takes the likeliest token.")
    top_p: float = Field(
        default=0.95, gt=0, le=1, description="Sampling keeps the likeliest tokens with this probability in sum."
    )


class Export(Section):
    """How the finished model is written."""

    format: Literal["huggingface"] = Field(
        default="huggingface", description="huggingface: safetensors, config, tokenizer, card."
    )
    precision: Literal["bf16", "fp32"] = Field(default="fp32", description="Number format of the exported weights.")


class TrainerSpec(Section):
    """The sections of a job that training reads."""

    model_config = ConfigDict(extra="ignore")

    storage: Storage
    model: Model
    training: Training
    corpus: CorpusShares = Field(default=CorpusShares())
    evaluation: Evaluation
    export: Export
    finetune: list[Finetune] = Field(default=[])
    predict: list[Predict] = Field(default=[])
