"""Files of every format to documents, and what is said of those that are none."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pretrain_preprocess.config import Source
from pretrain_preprocess.readers import FIRST_RECORDS, ZstdContent, decode_html, read
from pretrain_preprocess.sources import SourceFile
from pretrain_stage.errors import UserError

TEXTS = ["The first document.", '中文，"引号"\n第二行。', "Третий\tdocument  with  blanks"]


def read_file(content: bytes, path: str = "part.jsonl", **fields: Any) -> list[Any]:
    source = Source.model_validate({"name": "web", "uri": "unused", **fields})
    file = SourceFile(source, "corpus.sources[3].uri", path, len(content), "", f"/data/{path}")
    return list(read(file, io.BytesIO(content)))


def texts(records: list[Any]) -> list[str]:
    return [record if isinstance(record, str) else record.text for record in records]


def jsonl(records: list[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def as_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def as_parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=1_000)
    return buffer.getvalue()


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


@pytest.mark.parametrize(
    ("pack", "end"),
    [
        (bytes, ""),
        (gzip.compress, ".gz"),
        (zstd, ".zst"),
        (lambda content: gzip.compress(content[:30]) + gzip.compress(content[30:]), ".gz"),
        (lambda content: zstd(content[:30]) + zstd(b"") + zstd(content[30:]), ".zst"),
    ],
    ids=["plain", "gzip", "zstd", "two gzip members", "three zstd frames"],
)
def test_jsonl_csv_and_text_may_be_compressed(pack: Callable[[bytes], bytes], end: str) -> None:
    assert texts(read_file(pack(jsonl([{"text": text} for text in TEXTS])), f"a.jsonl{end}")) == TEXTS
    table = as_csv([["n", "text"], *([str(n), text] for n, text in enumerate(TEXTS))])
    assert texts(read_file(pack(table), f"a.csv{end}", format="csv")) == TEXTS
    assert texts(read_file(pack(TEXTS[1].encode()), f"a.txt{end}", format="text")) == [TEXTS[1]]


def test_parquet() -> None:
    many = [f"document {number}" for number in range(2_500)]
    assert texts(read_file(as_parquet(text=many, n=range(2_500)), "a.parquet", format="parquet")) == many
    encoded = pa.array(TEXTS).dictionary_encode()
    assert texts(read_file(as_parquet(text=encoded), "a.parquet", format="parquet")) == TEXTS
    large = pa.array(TEXTS, pa.large_string())
    assert texts(read_file(as_parquet(body=large), "a.parquet", format="parquet", textField="body")) == TEXTS


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("file", ["one\ntwo\n\n\nthree"]),
        ("line", ["one", "two", "three"]),
        ("paragraph", ["one\ntwo", "three"]),
    ],
)
def test_what_a_document_of_plain_text_is(documents: str, expected: list[str]) -> None:
    content = "\ufeffone\r\ntwo\r\n\r\n \r\nthree\r\n".encode()
    found = texts(read_file(content, "a.txt", format="text", documents=documents))
    assert [text.replace("\r", "").replace("\n \n", "\n\n") for text in found] == expected


def test_id_and_origin_follow_a_document() -> None:
    content = jsonl([{"text": "a", "key": 7}, {"text": "b"}, {"text": "c", "key": "x", "other": [1]}])
    found = read_file(content, "deep/part.jsonl", idField="key")
    assert [(record.id, record.metadata) for record in found] == [
        ("7", {"source": "web", "file": "deep/part.jsonl", "record": 0}),
        ("web/deep/part.jsonl#1", {"source": "web", "file": "deep/part.jsonl", "record": 1}),
        ("x", {"source": "web", "file": "deep/part.jsonl", "record": 2}),
    ]
    assert [record.id for record in read_file(content, "part.jsonl")] == [f"web/part.jsonl#{number}" for number in range(3)]
    table = as_csv([["key", "text"], ["7", "a"], ["", "b"]])
    assert [record.id for record in read_file(table, "a.csv", format="csv", idField="key")] == ["7", "web/a.csv#1"]
    columns = as_parquet(key=[7, None], text=["a", "b"])
    found = read_file(columns, "a.parquet", format="parquet", idField="key")
    assert [record.id for record in found] == ["7", "web/a.parquet#1"]


def test_a_bad_line_of_json_costs_that_line() -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "good"}',
        b'{"text": "cut off',
        b'{"text": "\xff\xfe"}',
        b'{"text": "half of a pair \\ud800"}',
        b"[1, 2]",
        b'{"other": 1}',
        b'{"text": null}',
        b'{"text": 3}',
        b'{"text": " \\n"}',
        b"",
        b"   ",
        b'{"text": "last"}',
    ]
    assert texts(read_file(b"\n".join(lines))) == [
        "good",
        "broken_json",
        "undecodable",
        "broken_json",
        "not_an_object",
        "no_text_field",
        "no_text_field",
        "text_not_string",
        "empty",
        "last",
    ]


def test_a_bad_row_of_csv_costs_that_row() -> None:
    content = b'\xef\xbb\xbfid,text\n1,good\n2,\xff\xfe\n3\n\n4,\n5,"a ""quoted"" one"\n6,"bad"quote\n7,last\n'
    assert texts(read_file(content, "a.csv", format="csv")) == [
        "good",
        "undecodable",
        "no_text_field",
        "empty",
        'a "quoted" one',
        "broken_csv",
        "last",
    ]


def test_a_bad_value_in_parquet_costs_that_value() -> None:
    broken = pa.array([b"good", b"\xff\xfe", None, b"", b"last"], pa.binary()).view(pa.string())
    found = texts(read_file(as_parquet(text=broken), "a.parquet", format="parquet"))
    assert found == ["good", "undecodable", "no_text_field", "empty", "last"]


def test_an_undecodable_text_costs_that_text() -> None:
    assert texts(read_file(b"good\n\xff\nlast\n", "a.txt", format="text", documents="line")) == [
        "good",
        "undecodable",
        "last",
    ]
    assert texts(read_file("汉字".encode("gbk"), "a.txt", format="text")) == ["undecodable"]


def test_very_long_csv_fields_are_read() -> None:
    long = "x" * 300_000
    assert texts(read_file(as_csv([["text"], [long]]), "a.csv", format="csv")) == [long]


@pytest.mark.parametrize(
    ("content", "path", "fields"),
    [
        (jsonl([{"body": "a", "url": "b"}] * 3), "a.jsonl", {}),
        (jsonl([{"body": "a", "url": "b"}] * 2 * FIRST_RECORDS), "a.jsonl", {}),
        (as_csv([["body", "url"], ["a", "b"]]), "a.csv", {"format": "csv"}),
        (as_parquet(body=["a"], url=["b"]), "a.parquet", {"format": "parquet"}),
    ],
    ids=["jsonl", "long jsonl", "csv", "parquet"],
)
def test_a_field_that_is_not_there_is_named_with_those_that_are(content: bytes, path: str, fields: dict[str, str]) -> None:
    message = rf"^corpus\.sources\[3\]\.textField: 'text' is not a field of /data/{path}; it has body, url$"
    with pytest.raises(UserError, match=message):
        read_file(content, path, **fields)
    if path != "a.jsonl":  # there an id may be missing in some objects
        with pytest.raises(UserError, match=r"^corpus\.sources\[3\]\.idField: 'id' is not a field of .*body, url$"):
            read_file(content, path, **fields, textField="body", idField="id")


def test_a_column_without_text_is_named() -> None:
    with pytest.raises(
        UserError, match=r"sources\[3\]\.textField: column 'text' of /data/a\.parquet holds list<.*>, not text"
    ):
        read_file(as_parquet(text=[["a"], ["b"]]), "a.parquet", format="parquet")


def test_a_file_of_another_format_is_named() -> None:
    rows = b"id,text\n" * (FIRST_RECORDS + 1)
    with pytest.raises(
        UserError, match=r"/data/part\.jsonl: not one of its first 1000 lines is JSON; correct corpus\.sources\[3\]"
    ):
        read_file(rows)
    with pytest.raises(
        UserError, match=r"/data/a\.warc: not a WARC file .* correct corpus\.sources\[3\]\.uri or its format"
    ):
        read_file(b"no header\n\n", "a.warc", format="warc")
    with pytest.raises(UserError, match=r"/data/a\.parquet: the parquet file is cut off or damaged .*magic bytes"):
        read_file(rows, "a.parquet", format="parquet")


LINES = jsonl([{"text": f"document {number} of many, long enough to fill blocks"} for number in range(20_000)])
PARQUET = as_parquet(text=[f"document {number}" for number in range(5_000)])


def damaged(content: bytes, kind: str) -> bytes:
    middle = len(content) // 2
    return content[:middle] if kind == "cut" else content[:middle] + bytes(64) + content[middle + 64 :]


@pytest.mark.parametrize("kind", ["cut", "damaged"])
@pytest.mark.parametrize(
    ("content", "path", "fields"),
    [
        (gzip.compress(LINES), "a.jsonl.gz", {}),
        (zstandard.ZstdCompressor(write_checksum=True).compress(LINES), "a.jsonl.zst", {}),
        (PARQUET, "a.parquet", {"format": "parquet"}),
    ],
    ids=["gzip", "zstd", "parquet"],
)
def test_a_cut_or_damaged_file_is_named(content: bytes, path: str, fields: dict[str, str], kind: str) -> None:
    with pytest.raises(
        UserError, match=rf"^/data/{path}: the (compressed|parquet) file is cut off or damaged .*fetch it again"
    ):
        read_file(damaged(content, kind), path, **fields)


@pytest.mark.parametrize("missing", [1, 4, 100])
def test_a_file_that_lacks_its_last_bytes_is_named(missing: int) -> None:
    for pack, end in ((gzip.compress, "gz"), (zstd, "zst")):
        with pytest.raises(UserError, match=rf"a\.jsonl\.{end}: the compressed file is cut off"):
            read_file(pack(LINES)[:-missing], f"a.jsonl.{end}")


def test_a_file_that_is_not_compressed_at_all_is_named() -> None:
    for end in ("gz", "zst"):
        with pytest.raises(UserError, match=rf"a\.jsonl\.{end}: the compressed file is cut off or damaged"):
            read_file(LINES, f"a.jsonl.{end}")


@given(frames=st.lists(st.binary(max_size=300), max_size=5), chunk=st.integers(1, 50))
def test_zstd_frames_are_read_one_after_another(frames: list[bytes], chunk: int) -> None:
    class Slowly(io.BytesIO):
        """Gives few bytes at a time, so that frames end anywhere."""

        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(chunk)

    content = b"".join(zstd(frame) for frame in frames)
    assert io.BufferedReader(ZstdContent(Slowly(content))).read() == b"".join(frames)


PAGE = "<html><head><meta charset='{}'><title>网页</title></head><body><p>正文，第一段。</p></body></html>"


@pytest.mark.parametrize(
    ("encoding", "declared", "in_header"),
    [
        ("utf-8", "utf-8", None),
        ("utf-8", "", None),
        ("gb18030", "gb2312", None),
        ("gb18030", "", "GBK"),
        ("gb18030", "utf-8", "gb2312"),
        ("utf-16", "", None),
        ("utf-8-sig", "gb2312", "iso-8859-1"),
        ("big5", "big5", None),
        ("utf-8", "no-such-encoding", None),
    ],
)
def test_the_encoding_of_a_page_is_found(encoding: str, declared: str, in_header: str | None) -> None:
    page = PAGE.format(declared).replace("网页", "頁")  # Big5 knows traditional characters only
    page = page if encoding != "big5" else page.replace("第一段", "第一")
    assert decode_html(page.encode(encoding), in_header) == page


def test_a_page_in_no_known_encoding_is_none() -> None:
    assert decode_html(b"<html>\xff\xff\x81</html>", None) is None
    assert decode_html(PAGE.format("").encode("gbk"), None) is None


def test_html_files_are_marked_for_extraction() -> None:
    (record,) = read_file(PAGE.format("gbk").encode("gbk"), "a.html", format="html")
    assert record.text == PAGE.format("gbk")
    assert record.metadata == {"source": "web", "file": "a.html", "record": 0, "markup": "html"}


def warc(*records: tuple[str, str, str, bytes], compress: bool = True) -> bytes:
    """A WARC file (ISO 28500), each record a gzip member of its own. records: type, address, content type, content."""
    members = []
    for number, (kind, url, content_type, content) in enumerate(records):
        block = content
        if kind == "response":
            status = "404 Not Found" if url.endswith("/gone") else "200 OK"
            block = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n\r\n".encode() + content
            content_type = "application/http; msgtype=response"
        head = (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-01T00:00:00Z\r\n"
            f"WARC-Record-ID: <urn:uuid:{number}>\r\nContent-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
        )
        members.append(head.encode() + block + b"\r\n\r\n")
    return b"".join(gzip.compress(member) if compress else member for member in members)


CRAWL = (
    ("response", "http://a/", "text/html; charset=gb2312", PAGE.format("").encode("gbk")),
    ("response", "http://a/picture", "image/png", b"\x89PNG"),
    ("response", "http://a/gone", "text/html", b"<html>not here</html>"),
    ("response", "http://a/odd", "text/html", b"<html>\xff\xff\x81</html>"),
    ("resource", "http://a/file", "text/plain", b"no page"),
    ("conversion", "http://a/text", "text/plain", "网页的文字".encode()),
    ("response", "http://b/", "application/xhtml+xml", PAGE.format("").encode()),
)


@pytest.mark.parametrize("compress", [True, False])
def test_a_crawl_gives_its_pages(compress: bool) -> None:
    path = "a.warc.gz" if compress else "a.warc"
    found = read_file(warc(*CRAWL, compress=compress), path, format="warc")
    assert texts(found) == [PAGE.format(""), "http_status", "undecodable", "网页的文字", PAGE.format("")]
    first, plain = found[0], found[3]
    assert first.id == "<urn:uuid:0>"
    assert first.metadata == {
        "source": "web",
        "file": path,
        "record": 0,
        "url": "http://a/",
        "date": "2024-05-01T00:00:00Z",
        "markup": "html",
    }
    assert "markup" not in plain.metadata


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("compress", [True, False])
def test_a_crawl_that_is_cut_off_is_named(compress: bool, kept: float) -> None:
    page = "".join(f"<p>{number} {number * 7919}</p>" for number in range(9_000)).encode()
    content = warc(*(("response", f"http://a/{n}", "text/html", page) for n in range(4)), compress=compress)
    path = "a.warc.gz" if compress else "a.warc"
    with pytest.raises(UserError, match=rf"^/data/{path}: the compressed file is cut off|^/data/{path}: it ends"):
        read_file(content[: int(len(content) * kept)], path, format="warc")


def test_bad_records_are_counted_by_reason(tmp_path: Path) -> None:
    content = b'{"text": "a"}\n' * 90 + b"broken\n" * 7 + b'{"text": "\xff"}\n' * 3
    assert Counter(texts(read_file(content))) == {"a": 90, "broken_json": 7, "undecodable": 3}
