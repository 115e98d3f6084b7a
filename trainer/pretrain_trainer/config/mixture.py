"""What training must know of spec.corpus.sources: how much of each it is to see. Preprocessing declares and checks the section."""

from __future__ import annotations

from pretrain_stage.section import Section
from pydantic import ConfigDict, Field


class SourceShare(Section):
    """How much of a source is trained on: a weight among the sources, so many passes over it, or neither."""

    model_config = ConfigDict(extra="ignore")

    name: str
    weight: float | None = None
    epochs: float | None = None


class CorpusShares(Section):
    """The sources of the corpus."""

    model_config = ConfigDict(extra="ignore")

    sources: list[SourceShare] = Field(default=[])
