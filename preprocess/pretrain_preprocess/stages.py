"""The stages of preprocessing: what each reads, what of the job decides its output, and where its work is written down.

Only names, configuration and digests: nothing heavy is imported before a stage is known to have work to do.

    clean ─┬─────────────────────────────────────────────────────────────► tokenizer ─► tokenize ─► vocabulary
           ├─ exact-signatures ─ exact-find ─ exact-filter ──────────────►
           └─ minhash-signatures ─ minhash-buckets ─ minhash-cluster ─ minhash-filter ─►
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import JsonValue

from pretrain_preprocess.config import PreprocessSpec


@dataclass(frozen=True)
class Stage:
    """One stage. `module` is the module of this package whose `run(task)` does one task of it."""

    name: str
    module: str
    about: str
    """For --help."""
    revision: int
    """Raised when the code makes something else of the same input."""
    inputs: Callable[[PreprocessSpec], tuple[str, ...]]
    """The stages whose outputs it reads."""
    config: Callable[[PreprocessSpec], JsonValue]
    """What of the job decides its output, besides the inputs."""
    tasks: Callable[[PreprocessSpec], int] = lambda spec: spec.corpus.tasks


def corpus_stage(spec: PreprocessSpec) -> str:
    """The stage whose documents become tokens."""
    method = spec.corpus.deduplicate.method
    return "clean" if method == "none" else f"{method}-filter"


def _clean_config(spec: PreprocessSpec) -> JsonValue:
    """Where the sources lie is not part of it: their listing is an input of its own. Nor is how often training sees them."""
    corpus = spec.corpus
    options = {name: getattr(corpus, name) for name in corpus.blocks if name != "extract"}
    return {
        "tasks": corpus.tasks,
        "clean": list(corpus.blocks),
        "options": {name: section.model_dump(mode="json") for name, section in options.items()},
        "sources": [source.model_dump(mode="json", exclude={"uri", "weight", "epochs"}) for source in corpus.sources],
    }


def _tasks_config(spec: PreprocessSpec) -> JsonValue:
    return {"tasks": spec.corpus.tasks}


def _minhash_config(spec: PreprocessSpec) -> JsonValue:
    return {"tasks": spec.corpus.tasks, "minhash": spec.corpus.deduplicate.minhash.model_dump(mode="json")}


def _tokenizer_config(spec: PreprocessSpec) -> JsonValue:
    if spec.tokenizer.train is None:
        return {"end_of_text": spec.tokenizer.end_of_text}
    return {
        "train": spec.tokenizer.train.model_dump(mode="json"),
        "held_out_fraction": spec.corpus.held_out_fraction,
        "tasks": spec.corpus.tasks,
    }


def _tokenize_config(spec: PreprocessSpec) -> JsonValue:
    corpus = spec.corpus
    config: dict[str, JsonValue] = {"tasks": corpus.tasks, "held_out_fraction": corpus.held_out_fraction}
    if spec.training.needs_marks:
        config["marks"] = True
    if corpus.augments:
        config["augment"] = corpus.augment.model_dump(mode="json")
    return config


def _one(spec: PreprocessSpec) -> int:
    return 1


STAGES = MappingProxyType(
    {
        stage.name: stage
        for stage in (
            Stage(
                "clean",
                "clean",
                "reads the sources, passes each document through the blocks of corpus.clean",
                revision=2,
                inputs=lambda spec: (),
                config=_clean_config,
            ),
            Stage(
                "exact-signatures",
                "exact",
                "a hash of each document's text",
                revision=1,
                inputs=lambda spec: ("clean",),
                config=_tasks_config,
            ),
            Stage(
                "exact-find",
                "exact",
                "which documents have an earlier one's hash",
                revision=1,
                inputs=lambda spec: ("exact-signatures",),
                config=_tasks_config,
                tasks=_one,
            ),
            Stage(
                "exact-filter",
                "duplicates",
                "drops them",
                revision=1,
                inputs=lambda spec: ("clean", "exact-find"),
                config=_tasks_config,
            ),
            Stage(
                "minhash-signatures",
                "minhash",
                "the MinHash signature of each document",
                revision=1,
                inputs=lambda spec: ("clean",),
                config=_minhash_config,
            ),
            Stage(
                "minhash-buckets",
                "groups",
                "pairs of documents whose signatures agree in one band; a task is a band",
                revision=1,
                inputs=lambda spec: ("minhash-signatures",),
                config=_minhash_config,
                tasks=lambda spec: spec.corpus.deduplicate.minhash.buckets,
            ),
            Stage(
                "minhash-cluster",
                "groups",
                "groups of near duplicates, of which all but the first document go",
                revision=1,
                inputs=lambda spec: ("minhash-buckets",),
                config=_minhash_config,
                tasks=_one,
            ),
            Stage(
                "minhash-filter",
                "duplicates",
                "drops them",
                revision=1,
                inputs=lambda spec: ("clean", "minhash-cluster"),
                config=_minhash_config,
            ),
            Stage(
                "tokenizer",
                "tokenizer",
                "trains the tokenizer, or takes over the given one",
                revision=2,
                inputs=lambda spec: (corpus_stage(spec),) if spec.tokenizer.train is not None else (),
                config=_tokenizer_config,
                tasks=_one,
            ),
            Stage(
                "tokenize",
                "tokens",
                "documents to tokens, training and held-out",
                revision=3,
                inputs=lambda spec: (corpus_stage(spec), "tokenizer"),
                config=_tokenize_config,
            ),
            Stage(
                "vocabulary",
                "vocabulary",
                "a report of what the tokenizer makes of the text",
                revision=1,
                inputs=lambda spec: ("tokenizer", "tokenize"),
                config=lambda spec: {},
                tasks=_one,
            ),
        )
    }
)
