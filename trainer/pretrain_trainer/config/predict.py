"""spec.predict: what the finished models are asked, as stages."""

from __future__ import annotations

from typing import Annotated

from pretrain_stage.config import Uri
from pretrain_stage.finetune import ShortName
from pretrain_stage.section import Section
from pydantic import Field


class Predict(Section):
    """Records that a model answers."""

    name: ShortName = Field(description="Name of these predictions; it names the stage and its folder.")
    task: ShortName | None = Field(
        default=None,
        description="Task in finetune whose model is asked. Omit for the model that training left.",
    )
    uri: Uri = Field(
        description="JSON lines to answer: folder, file or pattern, on this machine or as s3://bucket/...; an s3 source uses the "
        "endpoint, region and credentials of spec.storage. Fields are named as in the task's examples, or prompt."
    )
    tasks: int = Field(default=1, ge=1, le=100_000, description="Shards that the files are split into.")
    parallelism: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="Tasks that run at the same time, each with the CPU and memory of training.resources, and with a GPU if the "
        "model was trained on some.",
    )
    batch_tokens: int = Field(
        default=8192, ge=1, le=10_000_000, description="Tokens that are computed at once, padding included."
    )
    max_new_tokens: int = Field(default=128, ge=1, le=65_536, description="Most tokens of an answer that is generated.")
    temperature: float = Field(default=0, ge=0, le=10, description="Sampling temperature; 0 takes the likeliest token.")
    top_k: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Sampling keeps so many of the likeliest tokens."
    )
    top_p: float = Field(
        default=1, gt=0, le=1, description="Sampling keeps the likeliest tokens with this probability in sum."
    )
    stop: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default=[], max_length=20, description="Texts at which an answer ends; they are not part of it."
    )
