"""Which documents a token file holds, so that a step of training can be traced back to them (pretrain_trainer.trace).

tokens/train/<index>.ds.documents.parquet    a row for each document, in the order of the tokens:
    source    name of its source in the job
    file      its file, relative to the folder of the source
    record    its place among the file's records, from 0: line, row, paragraph or WARC record
    id        its own id, or source/file#record
    end       where it ends in the token file, in tokens, its end-of-text token included
    augmented of a copy that the block augment made, how often each operation was carried out, as JSON; else null
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document

SUFFIX = ".documents.parquet"
AUGMENTED = "augmented"
"""Key of a copy's metadata: how often each operation was carried out."""
SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("record", pa.int64()),
        ("id", pa.string()),
        ("end", pa.int64()),
        (AUGMENTED, pa.string()),
    ]
)
ROWS_AT_ONCE = 50_000
"""Rows that are held in memory: a few megabytes."""


class OriginWriter:
    """Writes the rows of one token file."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[tuple[str, str, int, str, int, str | None]] = []

    def write(self, document: Document, end: int) -> None:
        """The next document of the token file. end: in tokens from the beginning of the file."""
        origin = document.metadata
        done = json.dumps(origin[AUGMENTED]) if AUGMENTED in origin else None
        self._rows.append((origin["source"], origin["file"], origin["record"], document.id, end, done))
        if len(self._rows) == ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pa.array(column, kind) for column, kind in zip(zip(*self._rows, strict=True), SCHEMA.types, strict=True)
            ]
            self._file.write_batch(pa.record_batch(columns, schema=SCHEMA))
            self._rows.clear()
