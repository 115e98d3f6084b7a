"""Files with labelled examples to records, each with its place for messages. What cannot be read is told there, not counted."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import orjson
from pretrain_stage.errors import UserError

from pretrain_preprocess.labelled.example import Unusable, shown
from pretrain_preprocess.readers import (
    BOM,
    DAMAGE,
    PARQUET_ROWS,
    damaged,
    decompressed,
    is_utf8,
    is_whole,
    no_such_field,
)
from pretrain_preprocess.sources import SourceFile

NO_UTF8 = "holds bytes that are no UTF-8; save the file as UTF-8"


class Record(NamedTuple):
    """One record: where it is, and its fields, or why they cannot be read."""

    where: str
    fields: Mapping[str, Any] | Unusable


def read_records(file: SourceFile, raw: BinaryIO, wanted: Mapping[str, str]) -> Iterator[Record]:
    """The records of one file, in its order. `raw` is the file as it lies there, compressed or not.

    wanted: for each field of the job (textField) the name that it gives. Raises UserError that names the file if it is cut
    off or damaged, or a table without one of these columns.
    """
    match file.source.format:
        case "jsonl":
            records = _read_jsonl(file, raw)
        case "csv":
            records = _read_csv(file, raw, wanted)
        case other:
            assert other == "parquet", f"a rule of the section allows no format {other}"
            records = _read_parquet(file, raw, wanted)
    try:
        yield from records
    except DAMAGE as error:
        raise damaged(file, "compressed", error) from None


def _read_jsonl(file: SourceFile, raw: BinaryIO) -> Iterator[Record]:
    """One JSON object a line; empty lines are nothing."""
    for number, line in enumerate(decompressed(file, raw), start=1):
        content = line.removeprefix(BOM) if number == 1 else line
        if content and not content.isspace():
            yield Record(f"{file.uri} line {number}", _parsed(content))


def _parsed(line: bytes) -> Mapping[str, Any] | Unusable:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if not is_utf8(line):
            return Unusable(NO_UTF8)
        cause = str(error).partition(": line")[0]
        return Unusable(f"{shown(line.decode().strip())} is not JSON ({cause}); write one object on each line")
    if not isinstance(record, dict):
        return Unusable(f"{shown(record)} is no object; write one object on each line")
    return record


def _read_csv(file: SourceFile, raw: BinaryIO, wanted: Mapping[str, str]) -> Iterator[Record]:
    """One record a row, columns named by the first."""
    text = io.TextIOWrapper(decompressed(file, raw), "utf-8-sig", errors="surrogateescape", newline="")
    try:
        rows = csv.reader(text, strict=True)
        header = next(rows, None)
        if header is None:
            return
        _columns(file, header, wanted)
        while True:
            where = f"{file.uri} line {rows.line_num + 1}"
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(where, Unusable(f"not CSV ({error}); write a quote within quotes twice"))
                continue
            if row:
                yield Record(where, _row(header, row))
    finally:
        text.detach()  # or it would close the file, which is not ours


def _row(header: list[str], row: list[str]) -> Mapping[str, Any] | Unusable:
    if len(row) != len(header):
        return Unusable(f"{len(row)} cells for {len(header)} columns; put what holds a comma or a line break in quotes")
    if not all(map(is_whole, row)):
        return Unusable(NO_UTF8)
    return dict(zip(header, row, strict=True))


def _read_parquet(file: SourceFile, raw: BinaryIO, wanted: Mapping[str, str]) -> Iterator[Record]:
    """One record a row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        table = pq.ParquetFile(raw)
        _columns(file, table.schema_arrow.names, wanted)
        for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=list(wanted.values())):
            for row in range(batch.num_rows):
                number += 1
                yield Record(f"{file.uri} row {number}", _cells(batch, row))
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, "parquet", error) from None


def _cells(batch: Any, row: int) -> Mapping[str, Any] | Unusable:
    try:
        return {name: batch.column(name)[row].as_py() for name in batch.schema.names}
    except UnicodeDecodeError:
        return Unusable(NO_UTF8)


def _columns(file: SourceFile, names: list[str], wanted: Mapping[str, str]) -> None:
    """Raises UserError if a table lacks a column, with those that it has, or has two of that name."""
    for field, name in wanted.items():
        if name not in names:
            raise no_such_field(file, names, name, field)
        if names.count(name) > 1:
            raise UserError(f"{file.uri}: two columns are called {name!r}; rename one")
