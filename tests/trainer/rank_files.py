"""A file of a checkpoint as one process brings it to storage, for tests that need no engine."""

from __future__ import annotations

from pathlib import Path

from pretrain_stage.storage import Storage, file_sha256
from pretrain_trainer.checkpoint import Folder, RankFile


def put_rank_file(storage: Storage, place: Folder, source: Path, rank: int) -> RankFile:
    """Uploads one file of a checkpoint that is being made."""
    file = RankFile(name=source.name, size=source.stat().st_size, sha256=file_sha256(source), rank=rank)
    storage.upload(source, f"{place}/{file.name}")
    return file
