"""Whether a child still is what the job asks for, after the job was edited.

A child carries two digests of the spec fields that it was made from: of what its programs read (content), and of what its
pods ask for (pods). It also carries the generation of the job: while that is the same nothing was edited, whatever a newer
operator would render, so an upgrade restarts nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pretrain_operator.api import GROUP, PretrainJob
from pretrain_operator.stages import Stage

DIGEST = f"{GROUP}/spec-digest"
GENERATION = f"{GROUP}/generation"

PREPROCESSING = ("storage", "corpus", "tokenizer")
TRAINING = (*PREPROCESSING, "model", "training")
READ_BY = {"train": TRAINING, "evaluate": (*TRAINING, "evaluation")}
"""Sections that a stage depends on, directly or by what it continues from; what is not listed belongs to the groups below."""
FOR_ENGINES = {"corpus": ("parallelism", "resources"), "training": ("resources", "maxRestarts")}
"""Fields of those sections that no program reads."""


def marks(job: PretrainJob, stage: Stage, generation: int | None) -> dict[str, str]:
    """What a child is marked with. generation: that of the job in the cluster; None for a job from a file."""
    return {DIGEST: spec_digest(job, stage)} | ({} if generation is None else {GENERATION: str(generation)})


def spec_digest(job: PretrainJob, stage: Stage) -> str:
    """The two digests of a stage, as one string: content, then pods."""
    spec = job.spec.model_dump(mode="json", exclude_none=True, by_alias=True)
    content = {name: _without(spec[name], FOR_ENGINES.get(name, ())) for name in _sections(stage)}
    pods = [spec["scheduling"], stage.resources.model_dump(mode="json")]
    return f"{_short(content)}-{_short(pods)}"


def content_changed(marked: str | None, wanted: str) -> bool:
    """Whether what the programs read was edited: then even a finished stage must run again."""
    return marked is not None and marked.split("-")[0] != wanted.split("-")[0]


def changed(marked: str | None, wanted: str) -> bool:
    """Whether anything was edited that a child which still runs must be made anew for."""
    return marked is not None and marked != wanted


def _sections(stage: Stage) -> tuple[str, ...]:
    if stage.name in READ_BY:
        return READ_BY[stage.name]
    return (*TRAINING, "evaluation", "export") if stage.name in ("export", "report") else PREPROCESSING


def _without(section: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name not in fields}


def _short(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]
