"""Jobs for the tests: one that is right, and what can be wrong with it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

ABSENT = object()
"""As a value: the field is taken away."""


def job(spec: dict[str, Any] | None = None) -> dict[str, Any]:
    """A job that is right, with fields of its spec changed: `job({"training.nodes": 2})`."""
    return changed(_right(), spec or {})


def changed(manifest: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """A copy of the manifest with fields of its spec set, or taken away, by path."""
    manifest = copy.deepcopy(manifest)
    for path, value in spec.items():
        *parents, last = path.split(".")
        section = manifest["spec"]
        for step in parents:
            section = section.setdefault(step, {})
        if value is ABSENT:
            section.pop(last, None)
        else:
            section[last] = value
    return manifest


def _right() -> dict[str, Any]:
    return {
        "apiVersion": "pretrain.dev/v1alpha1",
        "kind": "PretrainJob",
        "metadata": {"name": "right"},
        "spec": {
            "storage": {"uri": "s3://models/right", "endpointURL": "http://s3:8333", "credentialsSecretRef": {"name": "s3"}},
            "corpus": {"sources": [{"name": "web", "uri": "s3://raw/web/*.jsonl"}], "tasks": 4},
            "tokenizer": {"train": {"vocabSize": 1000}},
            "model": {"preset": "tiny"},
            "training": {"tokens": 1_000_000, "globalBatchTokens": 4096, "sequenceLength": 512},
        },
    }


@dataclass(frozen=True)
class Case:
    """One fault: the changed fields, and the sentence that both the API server and the command line must say."""

    name: str
    spec: dict[str, Any]
    sentence: str


HEADS = "heads must divide hiddenSize, of family llama into parts of even size, for rotary positions turn pairs; change one of them"
OBJECTIVE = (
    "training.objective does not fit model.family: causal-lm is for llama and gpt2, masked-lm for bert, span-corruption for "
    "marian; change one of them"
)
METRIC = (
    "metric does not fit task: classification has loss, accuracy, macro-f1 and micro-f1, token-classification entity-f1 as "
    "well, generation has loss, bleu, rouge-l, exact-match and token-f1; change one of them"
)
FITTING = (
    "finetune asks of model.family what it cannot learn: bert does no generation, marian nothing else; change task, or give a "
    "base"
)
POSITIONS = (
    "finetune has longer examples than the model has positions (sequenceLength, and with prefix prefixTokens); lower its "
    "sequenceLength, raise training.sequenceLength, or give a base"
)
UNLIKE_LLAMA = {"hiddenSize": 24, "layers": 2, "heads": 8}
"""A shape whose heads are of odd size."""


def task(fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """A task to fine-tune for that is right, with some of its fields changed."""
    right = {"name": "mood", "task": "classification", "examples": {"uri": "s3://raw/mood/*.jsonl"}}
    return right | (fields or {})


def prediction(fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a model is asked, right but for the fields that are changed."""
    return {"name": "new", "uri": "s3://raw/new.jsonl"} | (fields or {})


BROKEN_RULES = (
    Case(
        "folder with s3 options",
        {"storage": {"uri": "/data", "region": "eu-west-1"}},
        "endpointURL, region and credentialsSecretRef apply to s3:// only; remove them or use an s3:// uri",
    ),
    Case(
        "same source twice",
        {"corpus.sources": [{"name": "web", "uri": "s3://raw/a"}, {"name": "web", "uri": "s3://raw/b"}]},
        "sources must have different names; rename one",
    ),
    Case(
        "more pods than tasks",
        {"corpus.tasks": 2, "corpus.parallelism": 3},
        "parallelism must not exceed tasks; lower parallelism or raise tasks",
    ),
    Case(
        "a weight and epochs",
        {"corpus.sources": [{"name": "web", "uri": "s3://raw/a", "weight": 1, "epochs": 2}]},
        "give weight or epochs, not both",
    ),
    Case(
        "a source without a weight",
        {"corpus.sources": [{"name": "a", "uri": "s3://raw/a", "weight": 1}, {"name": "b", "uri": "s3://raw/b"}]},
        "a source has a weight, so those without epochs need one too; give them one, or remove it",
    ),
    Case("same block twice", {"corpus.clean": ["pii", "pii"]}, "clean names a block twice; name each once"),
    Case(
        "a block behind augment",
        {"corpus.clean": ["augment", "pii"]},
        "augment must be the last block of clean; move it to the end",
    ),
    Case(
        "more changes than words",
        {"corpus.augment": {"delete": 0.6, "swap": 0.5}},
        "delete, swap, synonym and noise must not exceed 1 in sum; lower one of them",
    ),
    Case(
        "synonyms that are not given",
        {"corpus.augment": {"synonym": 0.1}},
        "synonym needs synonyms; give some, or set synonym to 0",
    ),
    Case(
        "a budget without a price",
        {"cost": {"budget": 100}},
        "budget needs pricePerGPUHour; add the price, or remove the budget",
    ),
    Case(
        "stop words of pieces",
        {"tokenizer": {"train": {"algorithm": "bpe", "stopWords": ["zh"]}}},
        "maxDocumentShare and stopWords take words out of a vocabulary of words; remove them, or set algorithm to word",
    ),
    Case("no tokenizer", {"tokenizer": {}}, "give exactly one of train and uri"),
    Case(
        "two tokenizers", {"tokenizer": {"train": {}, "uri": "s3://t/tokenizer.json"}}, "give exactly one of train and uri"
    ),
    Case("no model", {"model": {"layers": 2}}, "give a preset, or hiddenSize, layers and heads"),
    Case(
        "marian with a norm of its own",
        {
            "model": {"family": "marian", "hiddenSize": 64, "layers": 2, "heads": 8, "normEps": 1e-6},
            "training.objective": "span-corruption",
        },
        "normEps of family marian is 1e-5; remove normEps, or change family",
    ),
    Case(
        "muon with divided matrices",
        {"training.optimizer": {"name": "muon"}, "training.deepspeed": {"zeroStage": 1}},
        "optimizer muon needs whole matrices, which deepspeed.zeroStage above 0 divides; set zeroStage to 0, or choose adamw",
    ),
    Case(
        "l1 of divided weights",
        {"training.optimizer": {"l1": 1e-6}, "training.deepspeed": {"zeroStage": 3}},
        "optimizer.l1 needs whole weights, which deepspeed.zeroStage 3 divides; lower zeroStage, or set l1 to 0",
    ),
    Case(
        "heads do not divide",
        {"model": {"hiddenSize": 100, "layers": 2, "heads": 8}},
        HEADS,
    ),
    Case(
        "heads of odd size",
        {"model": UNLIKE_LLAMA},
        HEADS,
    ),
    Case(
        "heads of another family do not divide",
        {"model": {"family": "bert", "hiddenSize": 100, "layers": 2, "heads": 8}, "training.objective": "masked-lm"},
        HEADS,
    ),
    Case(
        "a preset of another family",
        {"model": {"family": "gpt2", "preset": "tiny"}},
        "preset, kvHeads and ropeTheta belong to family llama; remove them, or change family",
    ),
    Case(
        "rotary positions of another family",
        {"model": {**UNLIKE_LLAMA, "family": "gpt2", "ropeTheta": 10_000}},
        "preset, kvHeads and ropeTheta belong to family llama; remove them, or change family",
    ),
    Case(
        "dropout of llama",
        {"model.dropout": 0.1},
        "family llama has no dropout and no encoder; remove dropout and encoderLayers, or change family",
    ),
    Case(
        "an encoder beside a decoder alone",
        {"model": {**UNLIKE_LLAMA, "family": "gpt2", "encoderLayers": 2}},
        "encoderLayers belongs to family marian; remove it",
    ),
    Case(
        "an epsilon that the family has no option for",
        {"model": {**UNLIKE_LLAMA, "family": "marian", "normEps": 1e-6}, "training.objective": "span-corruption"},
        "normEps of family marian is 1e-5; remove normEps, or change family",
    ),
    Case("masks for a decoder", {"training.objective": "masked-lm"}, OBJECTIVE),
    Case("next tokens for an encoder", {"model": {**UNLIKE_LLAMA, "family": "bert"}}, OBJECTIVE),
    Case(
        "pairs of sentences for an encoder with a decoder",
        {"model": {**UNLIKE_LLAMA, "family": "marian"}, "training.objective": "masked-lm+next-sentence"},
        OBJECTIVE,
    ),
    Case(
        "no examples left to train on",
        {"finetune": [task({"examples": {"uri": "s3://raw/a", "validationFraction": 0.5, "testFraction": 0.5}})]},
        "validationFraction and testFraction must leave examples to train on; lower one of them",
    ),
    Case(
        "batch of examples does not divide",
        {"finetune": [task({"batchSize": 32, "processes": 3})]},
        "batchSize must be a multiple of microBatchSize and the number of processes; change one of them",
    ),
    Case(
        "batch of examples does not divide by micro-batch",
        {"finetune": [task({"batchSize": 8, "gpus": 2, "microBatchSize": 8})]},
        "batchSize must be a multiple of microBatchSize and the number of processes; change one of them",
    ),
    Case(
        "muon on parts of matrices",
        {"training.optimizer": {"name": "muon"}, "training.deepspeed": {"zeroStage": 1}},
        "optimizer muon needs whole matrices, which deepspeed.zeroStage above 0 divides; set zeroStage to 0, or choose adamw",
    ),
    Case(
        "L1 of parts of weights",
        {"training.optimizer": {"l1": 0.1}, "training.deepspeed": {"zeroStage": 3}},
        "optimizer.l1 needs whole weights, which deepspeed.zeroStage 3 divides; lower zeroStage, or set l1 to 0",
    ),
    Case(
        "processes and GPUs of a task",
        {"finetune": [task({"gpus": 2, "processes": 4})]},
        "gpus and processes differ; with gpus omit processes, there is one process a GPU",
    ),
    Case(
        "adalora that would grow",
        {"finetune": [task({"method": "adalora", "lora": {"rank": 16}})]},
        "method adalora needs lora.initialRank of at least lora.rank; change one of them",
    ),
    Case(
        "adalora where ranks stay",
        {"finetune": [task({"method": "adalora", "zeroStage": 0})]},
        "method adalora cannot take ranks away with zeroStage 3, nor with 0 and bf16; set zeroStage to 2",
    ),
    Case("a metric of texts for labels", {"finetune": [task({"metric": "bleu"})]}, METRIC),
    Case("a metric of tags for labels", {"finetune": [task({"metric": "entity-f1"})]}, METRIC),
    Case("a metric of labels for texts", {"finetune": [task({"task": "generation", "metric": "accuracy"})]}, METRIC),
    Case(
        "answers of an encoder",
        {
            "model": {**UNLIKE_LLAMA, "family": "bert"},
            "training.objective": "masked-lm",
            "finetune": [task({"task": "generation"})],
        },
        FITTING,
    ),
    Case(
        "labels of an encoder with a decoder",
        {
            "model": {**UNLIKE_LLAMA, "family": "marian"},
            "training.objective": "span-corruption",
            "finetune": [task()],
        },
        FITTING,
    ),
    Case("examples longer than the model", {"finetune": [task({"sequenceLength": 513})]}, POSITIONS),
    Case(
        "examples longer than the model with a prefix",
        {"finetune": [task({"sequenceLength": 512, "method": "prefix"})]},
        POSITIONS,
    ),
    Case(
        "adalora in layers of another kind",
        {"model": {**UNLIKE_LLAMA, "family": "gpt2"}, "finetune": [task({"method": "adalora"})]},
        "finetune would change layers that adalora cannot, those of family gpt2; choose lora, or give a base",
    ),
    Case(
        "a question to an encoder",
        {
            "model": {**UNLIKE_LLAMA, "family": "bert"},
            "training.objective": "masked-lm",
            "predict": [prediction()],
        },
        "predict asks a model of family bert that has learned no task, which answers nothing; give its task",
    ),
    Case(
        "same task twice",
        {"finetune": [task(), task({"method": "lora"})]},
        "finetune must name tasks differently; rename one",
    ),
    Case(
        "same prediction twice",
        {"predict": [prediction(), prediction({"uri": "s3://raw/other"})]},
        "predict must name predictions differently; rename one",
    ),
    Case(
        "a prediction of no task",
        {"finetune": [task()], "predict": [prediction({"task": "names"})]},
        "predict asks the model of a task that finetune does not have; correct its task, or add that one to finetune",
    ),
    Case(
        "heads do not divide the preset's width",
        {"model": {"preset": "tiny", "heads": 7}},
        HEADS,
    ),
    Case(
        "the preset's heads do not divide the width",
        {"model": {"preset": "tiny", "hiddenSize": 100}},
        HEADS,
    ),
    Case(
        "kvHeads do not divide the preset's heads",
        {"model": {"preset": "tiny", "kvHeads": 3}},
        "kvHeads must divide heads; change one of them",
    ),
    Case(
        "kvHeads do not divide heads",
        {"model": {"hiddenSize": 64, "layers": 1, "heads": 4, "kvHeads": 3}},
        "kvHeads must divide heads; change one of them",
    ),
    Case(
        "sequence does not divide batch",
        {"training.sequenceLength": 500},
        "sequenceLength must divide globalBatchTokens; change one of them",
    ),
    Case(
        "processes and GPUs",
        {"training.gpusPerNode": 2, "training.processesPerNode": 4},
        "gpusPerNode and processesPerNode differ; with GPUs omit processesPerNode, there is one process a GPU",
    ),
    Case(
        "batch does not divide by nodes",
        {"training.nodes": 3},
        "globalBatchTokens must be sequenceLength times a multiple of microBatchSize and the number of processes; "
        "change one of them",
    ),
    Case(
        "batch does not divide by micro-batch",
        {"training.nodes": 2, "training.gpusPerNode": 2, "training.microBatchSize": 4},
        "globalBatchTokens must be sequenceLength times a multiple of microBatchSize and the number of processes; "
        "change one of them",
    ),
    Case(
        "fewer tokens than a step",
        {"training.tokens": 4095},
        "tokens must be at least globalBatchTokens; one step needs that many",
    ),
    Case(
        "nothing held out",
        {"corpus.heldOutFraction": 0},
        "corpus.heldOutFraction must be above 0; validation and evaluation need held-out documents",
    ),
    Case(
        "model without room for the vocabulary",
        {"model.vocabSize": 999},
        "model.vocabSize must hold tokenizer.train.vocabSize and exceed it by less than 1024; change one of them, "
        "or omit model.vocabSize",
    ),
    Case(
        "model with a vocabulary far too large",
        {"model.vocabSize": 2024},
        "model.vocabSize must hold tokenizer.train.vocabSize and exceed it by less than 1024; change one of them, "
        "or omit model.vocabSize",
    ),
    Case(
        "toleration of nothing",
        {"scheduling.tolerations": [{"effect": "NoSchedule"}]},
        "a toleration without key needs operator Exists; add a key, or set operator to Exists",
    ),
    Case(
        "toleration with a value too many",
        {"scheduling.tolerations": [{"key": "gpu", "operator": "Exists", "value": "a100"}]},
        "a toleration with operator Exists has no value; remove the value, or set operator to Equal",
    ),
    Case(
        "no label key",
        {"scheduling.nodeSelector": {"a/b/c": "d"}},
        "nodeSelector has a key that no label can have; correct it",
    ),
)
"""Cross-field rules: Python and the API server refuse with one sentence."""

FOLDERS = (
    Case(
        "folder as storage",
        {"storage": {"uri": "/data"}},
        "storage.uri must be an s3:// uri in a cluster; pods share no folder",
    ),
    Case(
        "folder as source",
        {"corpus.sources": [{"name": "web", "uri": "/data"}]},
        "corpus.sources must be s3:// uris in a cluster; pods share no folder",
    ),
    Case(
        "file as tokenizer",
        {"tokenizer": {"uri": "/data/tokenizer.json"}},
        "tokenizer.uri must be an s3:// uri in a cluster; pods share no folder",
    ),
    Case(
        "folder of a model to go on from",
        {"training.initFrom": {"uri": "/data/model"}},
        "training.initFrom.uri must be an s3:// uri in a cluster; pods share no folder",
    ),
    Case(
        "folder of examples",
        {"finetune": [task(), task({"name": "names", "examples": {"uri": "/data/names"}})]},
        "finetune needs s3:// uris of examples and base in a cluster; pods share no folder",
    ),
    Case(
        "folder of a base model",
        {"finetune": [task({"base": {"uri": "/data/model"}})]},
        "finetune needs s3:// uris of examples and base in a cluster; pods share no folder",
    ),
    Case(
        "folder of what is asked",
        {"predict": [prediction({"uri": "/data/new.jsonl"})]},
        "predict needs s3:// uris in a cluster; pods share no folder",
    ),
    Case(
        "a tracker without a key",
        {"training.tracking": {"wandb": {"project": "small"}}},
        "training.tracking.wandb needs apiKeySecretRef in a cluster unless its mode is offline; give it, or set the mode",
    ),
)
"""Right on one machine, refused in a cluster."""

BROKEN_FIELDS: tuple[Case, ...] = (
    Case("unknown field", {"training.sequence": 512}, "training.sequence"),
    Case("unknown section", {"finetuning": {}}, "finetuning"),
    Case("unknown preset", {"model.preset": "llama2-7"}, "model.preset"),
    Case("missing tokens", {"training.tokens": ABSENT}, "training.tokens"),
    Case("no source", {"corpus.sources": []}, "corpus.sources"),
    Case("no storage", {"storage": ABSENT}, "storage"),
    Case("learning rate of 0", {"training.optimizer.learningRate": 0}, "training.optimizer.learningRate"),
    Case("beta of 1", {"training.optimizer.beta1": 1}, "training.optimizer.beta1"),
    Case("negative nodes", {"training.nodes": -1}, "training.nodes"),
    Case("fractional tokens", {"training.tokens": 10_000.5}, "training.tokens"),
    Case("text as number", {"training.nodes": "two"}, "training.nodes"),
    Case("number as text", {"storage.uri": 5}, "storage.uri"),
    Case("ZeRO 4", {"training.deepspeed.zeroStage": 4}, "training.deepspeed.zeroStage"),
    Case("no quantity", {"corpus.resources.memory": "4 GB"}, "corpus.resources.memory"),
    Case("no bucket", {"storage.uri": "s3://"}, "storage.uri"),
    Case("too long a uri", {"storage.uri": "s3://models/" + "a" * 1100}, "storage.uri"),
    Case("no language code", {"corpus.language.keep": ["english"]}, "corpus.language.keep"),
    Case("no secret name", {"storage.credentialsSecretRef.name": "../other"}, "storage.credentialsSecretRef.name"),
    Case("no label value", {"scheduling.nodeSelector": {"gpu": "a b"}}, "scheduling.nodeSelector.gpu"),
    Case("unknown block", {"corpus.clean": ["pi"]}, "corpus.clean"),
    Case("unknown family", {"model.family": "t5"}, "model.family"),
    Case("unknown objective", {"training.objective": "masked"}, "training.objective"),
    Case("unknown method", {"finetune": [task({"method": "qlora"})]}, "finetune"),
    Case("too long a name of a task", {"finetune": [task({"name": "a" * 21})]}, "finetune"),
    Case("too many tasks", {"finetune": [task({"name": f"t{number}"}) for number in range(21)]}, "finetune"),
    Case("too many prompts", {"evaluation.prompts": ["a"] * 101}, "evaluation.prompts"),
)
"""Faults of one field: Python and the API server each name its path."""

CHANGES: dict[str, Any] = {
    "storage": {"uri": "s3://models/other"},
    "corpus.sources": [{"name": "wiki", "uri": "s3://raw/wiki"}],
    "corpus.clean": ["normalize"],
    "corpus.normalize": {"caseFold": True},
    "corpus.language": {"keep": ["de"]},
    "corpus.quality": {"minWords": 1},
    "corpus.pii": {"email": False},
    "corpus.augment": {"copies": 2},
    "corpus.deduplicate": {"method": "exact"},
    "corpus.heldOutFraction": 0.1,
    "corpus.maxBadRecordFraction": 0.1,
    "corpus.tasks": 7,
    "tokenizer": {"uri": "s3://t/tokenizer.json"},
    "model": {"preset": "small"},
    "training.objective": "span-corruption",
    "training.masking": {"fraction": 0.3},
    "training.initFrom": {"uri": "s3://models/before"},
    "training.sequenceLength": 256,
    "training.globalBatchTokens": 8192,
    "training.optimizer.name": "adam",
    "training.precision": "fp32",
    "training.seed": 43,
    "training.deepspeed": {"zeroStage": 1},
    "training.backend": None,
}
"""Another value for each immutable field; None where the field has one value only so far."""

MUTABLE: dict[str, Any] = {
    "suspend": True,
    "activeDeadlineSeconds": 3600,
    "ttlSecondsAfterFinished": 60,
    "scheduling": {"nodeSelector": {"gpu": "a100"}},
    "cost": {"pricePerGPUHour": 2.5, "budget": 1000},
    "corpus.parallelism": 4,
    "corpus.resources": {"cpu": "2"},
    "training.tokens": 2_000_000,
    "training.optimizer": {"learningRate": 1e-3},
    "training.schedule": {"warmupSteps": 5},
    "training.microBatchSize": 2,
    "training.nodes": 2,
    "training.processesPerNode": 2,
    "training.gpusPerNode": 8,
    "training.activationCheckpointing": True,
    "training.compile": True,
    "training.maxEpochs": 5,
    "training.resources": {"cpu": "2"},
    "training.checkpoints": {"everySteps": 5},
    "training.validation": {"everySteps": 5},
    "training.tensorboard": True,
    "training.tracking": {"mlflow": {"trackingURI": "https://mlflow.example", "experiment": "small"}},
    "training.peakTeraflops": 312,
    "training.maxRestarts": 3,
    "training.faults": {"stepLimitSeconds": 60},
    "evaluation": {"prompts": ["Once upon a time"]},
    "export": {"precision": "bf16"},
    "finetune": [task({"gpus": 2})],
    "predict": [prediction({"tasks": 2})],
}
"""Another value for fields that may change."""
