"""Jobs whose Kubernetes objects are kept as files, so that a change of any of them is seen and read.

python -m tests.operator.golden     writes the files again
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pretrain_operator.api import PretrainJob, parse_job
from pretrain_operator.names import STAGE_LABEL
from pretrain_operator.render import as_yaml, render
from pretrain_operator.stages import Images

from tests.operator.jobs import job, prediction, task

FOLDER = Path(__file__).parent / "golden"
EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGES = Images(preprocess="registry.example/preprocess:1", trainer="registry.example/trainer:1")


def golden_jobs() -> dict[str, PretrainJob]:
    """The jobs, by the name of their file."""
    return {
        "tiny-cpu": parse_job(
            job(
                {
                    "storage": {"uri": "s3://models/tiny"},
                    "corpus.deduplicate": {"method": "none"},
                    "training.processesPerNode": 2,
                }
            ),
            "tiny-cpu",
        ),
        "llama2-7b": _example("llama2-7b"),
        "llama3-8b": _example("llama3-8b"),
        "course": parse_job(
            job(
                {
                    "corpus.deduplicate": {"method": "none"},
                    "training.gpusPerNode": 1,
                    "finetune": [
                        task({"gpus": 2}),
                        task({"name": "names", "task": "token-classification", "method": "lora", "processes": 2}),
                    ],
                    "predict": [
                        prediction({"task": "mood", "tasks": 4, "parallelism": 2}),
                        prediction({"name": "entities", "task": "names"}),
                        prediction({"name": "plain"}),
                    ],
                }
            )
            | {"metadata": {"name": "course"}},
            "course",
        ),
        "exact-in-a-cluster": parse_job(
            job(
                {
                    "corpus.deduplicate": {"method": "exact"},
                    "corpus.resources": {"cpu": "500m", "memory": "1.5Gi"},
                    "tokenizer": {"uri": "s3://models/tokenizer.json"},
                    "training.nodes": 2,
                    "suspend": True,
                    "scheduling": {
                        "nodeSelector": {"pool": "spot"},
                        "tolerations": [{"key": "spot", "value": "true", "effect": "NoExecute"}],
                        "topologyKey": "example.com/rack",
                    },
                }
            )
            | {
                "metadata": {
                    "name": "7b-with-a-name-that-is-longer-than-its-children-may-have",
                    "namespace": "research",
                    "uid": "0b8c7a5e-6f1d-4b7e-9a53-2f6f6d9c1e11",
                }
            },
            "exact-in-a-cluster",
        ),
    }


def golden_text(parsed: PretrainJob) -> str:
    """The objects of a job, as they stand in its file; of a large one the ConfigMap and a stage of each kind."""
    objects = render(parsed, IMAGES)
    if parsed.spec.corpus.tasks > 100:
        objects = [
            item for item in objects if item["metadata"]["labels"].get(STAGE_LABEL) in (None, "clean", "train", "evaluate")
        ]
    return as_yaml(objects)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, parsed in golden_jobs().items():
        (FOLDER / f"{name}.yaml").write_text(golden_text(parsed), encoding="utf-8")


def _example(name: str) -> PretrainJob:
    return parse_job(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")), name)


if __name__ == "__main__":
    main()
