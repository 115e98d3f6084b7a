"""Shards of documents between stages: one JSON object a line, Zstandard-compressed, the same bytes for the same documents.

corpus/<stage>/<index>.jsonl.zst    {"id": ..., "text": ..., "metadata": {"source": ..., "file": ..., "record": ..., "bytes": ...}}

source, file and record say where in the raw text a document comes from (readers.py); bytes is the size of its text.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
import zstandard
from datatrove.data import Document
from pretrain_stage.errors import UserError

from pretrain_preprocess.task import Task

ZSTD_LEVEL = 3
BUFFER_BYTES = 1 << 20
TEXT_BYTES = "bytes"
"""Key of a document's metadata: bytes of its text in UTF-8. Encoding each text again to count it would take the stage
exact-signatures a tenth of its time."""


def shard_path(stage: str, index: int) -> str:
    """Where a stage's shard lies below the storage URI."""
    return f"corpus/{stage}/{index:05d}.jsonl.zst"


class ShardWriter:
    """Writes documents to a file and counts them as kept; `documents` and `text_bytes` are by source."""

    def __init__(self, path: Path, task: Task) -> None:
        self._file = path.open("wb")
        self._stream = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).stream_writer(self._file)
        self._tally = task.tally
        self.documents: Counter[str] = Counter()
        self.text_bytes: Counter[str] = Counter()

    def write(self, document: Document) -> None:
        size = len(document.text.encode())
        line = {"id": document.id, "text": document.text, "metadata": {**document.metadata, TEXT_BYTES: size}}
        self._stream.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self._tally.keep(size)
        source = document.metadata["source"]
        self.documents[source] += 1
        self.text_bytes[source] += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._stream.close()  # type: ignore[no-untyped-call]
        self._file.close()


def read_shard(path: Path) -> Iterator[Document]:
    """The documents of a shard. The file was verified before, so it is whole."""
    with path.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_size=BUFFER_BYTES, read_across_frames=True)
        for line in io.BufferedReader(stream, BUFFER_BYTES):
            yield Document(**orjson.loads(line))


def read_documents(task: Task, stage: str, index: int | None = None) -> Iterator[Document]:
    """The documents that task `index` (this task's own by default) of an earlier stage kept; counts them as read.

    Raises UserError if they are not as many as that task counted.
    """
    number = task.index if index is None else index
    part = task.part(stage, number)
    path = task.bring(next(file for file in part.outputs if file.path == shard_path(stage, number)))
    tell = task.progress()
    total = part.counts.kept if index is None else task.inputs[stage].counts.kept
    read = 0
    for document in read_shard(path):
        read += 1
        task.tally.take(document.metadata[TEXT_BYTES])
        tell(task.tally.read, total, "documents")
        yield document
    if read != part.counts.kept:
        raise UserError(
            f"{task.storage.uri}/{shard_path(stage, number)}: holds {read} documents, but stage {stage} kept {part.counts.kept}; "
            f"delete stages/{stage}.json and stages/{stage}/ to run it again"
        )
    if path.is_relative_to(task.scratch):
        path.unlink()  # one downloaded shard at a time, for stages that read them all
