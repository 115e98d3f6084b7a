"""Files of every format to records, and what is said of those that cannot be read."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from pretrain_preprocess.config import Source
from pretrain_preprocess.labelled.example import Unusable
from pretrain_preprocess.labelled.records import read_records
from pretrain_preprocess.sources import SourceFile
from pretrain_stage.errors import UserError

from tests.preprocess.test_readers import as_csv, as_parquet, zstd

WANTED = {"textField": "text", "labelField": "label"}
RECORDS = [{"text": '中文，"引号"\n第二行', "label": "a"}, {"text": "second", "label": "b"}]


def read(content: bytes, path: str, form: str, wanted: dict[str, str] = WANTED) -> list[tuple[str, Any]]:
    source = Source.model_validate({"name": "mine", "uri": "unused", "format": form})
    file = SourceFile(source, "finetune[1].examples.uri", path, len(content), "", f"/data/{path}")
    found = read_records(file, io.BytesIO(content), wanted)
    return [(where, str(fields) if isinstance(fields, Unusable) else fields) for where, fields in found]


@pytest.mark.parametrize(
    ("pack", "end"), [(bytes, ""), (gzip.compress, ".gz"), (zstd, ".zst")], ids=["plain", "gzip", "zstd"]
)
def test_every_format_has_the_same_records_with_their_places(pack: Callable[[bytes], bytes], end: str) -> None:
    lines = "\ufeff" + "\n\n".join(json.dumps(one, ensure_ascii=False) for one in RECORDS)
    assert read(pack(lines.encode()), f"a.jsonl{end}", "jsonl") == [
        (f"/data/a.jsonl{end} line 1", RECORDS[0]),
        (f"/data/a.jsonl{end} line 3", RECORDS[1]),
    ]
    table = b"\xef\xbb\xbf" + as_csv([["text", "label"], *([one["text"], one["label"]] for one in RECORDS)])
    assert read(pack(table), f"a.csv{end}", "csv") == [
        (f"/data/a.csv{end} line 2", RECORDS[0]),
        (f"/data/a.csv{end} line 4", RECORDS[1]),
    ]


def test_parquet_with_lists_and_structs() -> None:
    rows = [{"words": ["a", "b"], "tags": ["O", "O"]}, {"words": ["c"], "tags": ["B-X"]}]
    columns = {
        "words": [one["words"] for one in rows],
        "tags": pa.array([one["tags"] for one in rows], pa.list_(pa.large_string())),
        "other": [1, 2],
    }
    assert read(as_parquet(**columns), "a.parquet", "parquet", {"wordsField": "words", "tagsField": "tags"}) == [
        ("/data/a.parquet row 1", rows[0]),
        ("/data/a.parquet row 2", rows[1]),
    ]
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert read(as_parquet(talk=[talk]), "a.parquet", "parquet", {"messagesField": "talk"}) == [
        ("/data/a.parquet row 1", {"talk": talk})
    ]


@pytest.mark.parametrize(
    ("path", "content", "place", "sentence"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2",
         '"{\\"text\\":" is not JSON (unexpected end of data); write one object on each line'),
        ("a.jsonl", b'\n["a"]\n', "line 2", '["a"] is no object; write one object on each line'),
        ("a.jsonl", b'{"text": "\xff"}', "line 1", "holds bytes that are no UTF-8; save the file as UTF-8"),
        ("a.jsonl", b'{"text": "\\ud800"}', "line 1", None),
        ("a.csv", b"text,label\ngood, but dear,x\n", "line 2",
         "3 cells for 2 columns; put what holds a comma or a line break in quotes"),
        ("a.csv", b"text,label\n\ngood\n", "line 3",
         "1 cells for 2 columns; put what holds a comma or a line break in quotes"),
        ("a.csv", b'text,label\n"a\nb",x\n"a"b,x\n', "line 4", "not CSV ('"),
        ("a.csv", b"text,label\n\xff,x\n", "line 2", "holds bytes that are no UTF-8; save the file as UTF-8"),
        ("a.parquet", as_parquet(text=pa.array([b"a", b"\xff"]).cast(pa.string(), safe=False), label=["x", "y"]), "row 2",
         "holds bytes that are no UTF-8; save the file as UTF-8"),
    ],
    ids=["no json", "list", "utf-8", "surrogate", "comma", "short", "quotes", "csv utf-8", "parquet utf-8"],
)  # fmt: skip
def test_a_record_that_cannot_be_read_has_its_place(path: str, content: bytes, place: str, sentence: str | None) -> None:
    where, said = read(content, path, path.partition(".")[2])[-1]
    assert where == f"/data/{path} {place}"
    assert isinstance(said, str)
    assert sentence is None or said.startswith(sentence)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("a.csv", as_csv([["body", "label"], ["a", "x"]]),
         "finetune[1].examples.textField: 'text' is not a field of /data/a.csv; it has body, label"),
        ("a.parquet", as_parquet(text=["a"], stars=[1]),
         "finetune[1].examples.labelField: 'label' is not a field of /data/a.parquet; it has text, stars"),
        ("a.csv", as_csv([["text", "label", "text"]]), "/data/a.csv: two columns are called 'text'; rename one"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 9_000)[:20],
         "/data/a.jsonl.gz: the compressed file is cut off or damaged (Compressed file ended before the end-of-stream marker was "
         "reached); fetch it again, or take it out of finetune[1].examples.uri"),
    ],
    ids=["csv column", "parquet column", "two columns", "cut off"],
)  # fmt: skip
def test_a_file_of_no_use_is_named(path: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(content, path, path.split(".")[1])
    assert str(error.value) == message


def test_a_parquet_file_that_is_cut_off() -> None:
    with pytest.raises(UserError, match=r"^/data/a\.parquet: the parquet file is cut off or damaged \(.*\); fetch it again"):
        read(as_parquet(text=["a"], label=["x"])[:60], "a.parquet", "parquet")


def test_an_empty_table_has_no_records() -> None:
    assert read(b"", "a.csv", "csv") == []
    assert read(b"text,label\n", "a.csv", "csv") == []
