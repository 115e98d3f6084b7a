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
from pretrain_operator.stages import EVALUATE, EXAMPLES, EXPORT, FINETUNE, PREDICT, REPORT, TRAINING, Stage, what_and_entry

DIGEST = f"{GROUP}/spec-digest"
GENERATION = f"{GROUP}/generation"

OF_TOKENS = ("storage", "corpus", "tokenizer")
OF_THE_MODEL = (*OF_TOKENS, "model", "training")
OF_THE_EXPORT = (*OF_THE_MODEL, "evaluation", "export")
READ_BY = {
    EXAMPLES: ("storage",),
    TRAINING: OF_THE_MODEL,
    EVALUATE: (*OF_THE_MODEL, "evaluation"),
    EXPORT: OF_THE_EXPORT,
    FINETUNE: (*OF_THE_MODEL, "export"),
    PREDICT: (*OF_THE_MODEL, "export"),
    REPORT: (*OF_THE_EXPORT, "finetune", "predict"),
}
"""Sections that a stage depends on, directly or by what it continues from; what is not listed makes tokens. One that belongs to
an entry of finetune or predict depends on that entry too."""
FOR_ENGINES = {"corpus": ("parallelism", "resources"), "training": ("resources", "maxRestarts")}
"""Fields of those sections that no program reads."""


def marks(job: PretrainJob, stage: Stage, generation: int | None) -> dict[str, str]:
    """What a child is marked with. generation: that of the job in the cluster; None for a job from a file."""
    return {DIGEST: spec_digest(job, stage)} | ({} if generation is None else {GENERATION: str(generation)})


def spec_digest(job: PretrainJob, stage: Stage) -> str:
    """The two digests of a stage, as one string: content, then pods."""
    spec = job.spec.model_dump(mode="json", exclude_none=True, by_alias=True)
    what, entry = what_and_entry(stage.name)
    sections = READ_BY.get(what if entry is None or what in (EXAMPLES, PREDICT) else FINETUNE, OF_TOKENS)
    content = {name: _without(spec[name], FOR_ENGINES.get(name, ())) for name in sections}
    if entry is not None:
        content["entry"] = _entry(spec, what, entry)
    pods = [spec["scheduling"], stage.resources.model_dump(mode="json")]
    return f"{_short(content)}-{_short(pods)}"


def content_changed(marked: str | None, wanted: str) -> bool:
    """Whether what the programs read was edited: then even a finished stage must run again."""
    return marked is not None and marked.split("-")[0] != wanted.split("-")[0]


def changed(marked: str | None, wanted: str) -> bool:
    """Whether anything was edited that a child which still runs must be made anew for."""
    return marked is not None and marked != wanted


def _entry(spec: Mapping[str, Any], what: str, name: str) -> list[Any]:
    """The entry that a stage belongs to, and that of the task whose model it asks."""
    if what != PREDICT:
        return [one for one in spec["finetune"] if one["name"] == name]
    asked = [_without(one, ("parallelism",)) for one in spec["predict"] if one["name"] == name]
    return [*asked, *(one for one in spec["finetune"] if one["name"] in [each.get("task") for each in asked])]


def _without(section: Any, fields: tuple[str, ...]) -> Any:
    return {name: value for name, value in section.items() if name not in fields} if fields else section


def _short(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]
