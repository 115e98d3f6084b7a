"""Jobs small enough to be run many times on a cluster of two cores: all stages, two tasks, two training nodes on CPU."""

from __future__ import annotations

from typing import Any

from tests.e2e.s3 import BUCKET, ClusterS3
from tests.operator.jobs import changed

STEPS = 24
CHECKPOINT_STEPS = 6
STAGES = (
    *("preflight", "clean", "exact-signatures", "exact-find", "exact-filter", "tokenizer", "tokenize"),
    *("vocabulary", "train", "evaluate", "export", "report"),
)
PREPROCESSING = {"cpu": "50m", "memory": "1Gi"}
TRAINING = {"cpu": "50m", "memory": "2Gi"}


def tiny_job(s3: ClusterS3, namespace: str, name: str = "tiny", spec: dict[str, Any] | None = None) -> dict[str, Any]:
    """The manifest of a job with its own prefix in the bucket; `spec` changes fields by path, as in tests.operator.jobs."""
    manifest = {
        "apiVersion": "pretrain.dev/v1alpha1",
        "kind": "PretrainJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "storage": s3.section(f"{namespace}/{name}"),
            "corpus": {
                "sources": [
                    {"name": "zh", "uri": f"s3://{BUCKET}/raw/zh-*.jsonl.gz", "idField": "id"},
                    {"name": "en", "uri": f"s3://{BUCKET}/raw/en.txt", "format": "text", "documents": "line"},
                ],
                "deduplicate": {"method": "exact"},
                "heldOutFraction": 0.05,
                "tasks": 2,
                "parallelism": 2,
                "resources": PREPROCESSING,
            },
            "tokenizer": {"train": {"algorithm": "bpe", "vocabSize": 1000}},
            "model": {"hiddenSize": 64, "layers": 2, "heads": 4, "kvHeads": 2, "tieEmbeddings": True},
            "training": {
                "tokens": STEPS * 1024,
                "sequenceLength": 64,
                "globalBatchTokens": 1024,
                "optimizer": {"learningRate": 3e-3},
                "schedule": {"kind": "cosine", "warmupSteps": 2},
                "precision": "fp32",
                "nodes": 2,
                "resources": TRAINING,
                "deepspeed": {"zeroStage": 1},
                "checkpoints": {"everySteps": CHECKPOINT_STEPS, "keepLast": 2},
                "validation": {"everySteps": 12, "maxSequences": 8},
            },
            "evaluation": {"prompts": ["中国"], "maxNewTokens": 8},
        },
    }
    return changed(manifest, spec or {})
