"""Files of every format to documents. What is no document is yielded as the reason for that, to be counted.

A record that cannot be read costs that record. A file that is cut off or damaged costs the task: nobody could say how much
of it is missing, so it is refused by name.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, BinaryIO, TypeAlias

import orjson
import zstandard
from datatrove.data import Document
from pretrain_stage.errors import UserError

from pretrain_preprocess.blocks.extract import MARKUP
from pretrain_preprocess.config import Format
from pretrain_preprocess.sources import SourceFile

Record: TypeAlias = "Document | str"
"""A document, or the reason why there is none."""

BOM = b"\xef\xbb\xbf"
BUFFER_BYTES = 1 << 20
PARQUET_ROWS = 1_000
FIRST_RECORDS = 1_000
"""After so many of a file that are all wrong in the same way, the file is, or what the job says of it."""

HTML_TYPES = ("text/html", "application/xhtml+xml")
META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)
CHARSET = re.compile(r"charset=[\"']?([\w.:-]+)", re.IGNORECASE)
META_WITHIN = 4_096
"""Bytes. HTML demands the declaration within the first 1024; real pages take more."""
AS_BROWSERS_DO = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso-8859-1": "windows-1252",
    "ascii": "windows-1252",
    "big5": "big5hkscs",
}
"""Encodings that are read as a superset, by the WHATWG encoding standard."""

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)
"""What decompression raises where a file is not whole."""

csv.field_size_limit(sys.maxsize)


def read(file: SourceFile, raw: BinaryIO) -> Iterator[Record]:
    """The records of one file. `raw` is the file as it lies there, compressed or not, and seekable for parquet.

    Raises UserError that names the file if it is cut off, damaged, or of another format.
    """
    reader = READERS[file.source.format]
    try:
        yield from reader(file, raw)
    except DAMAGE as error:
        raise damaged(file, "compressed", error) from None


def read_jsonl(file: SourceFile, raw: BinaryIO) -> Iterator[Record]:
    """One JSON object a line; empty lines are nothing. Raises UserError if no line is JSON or no object has the text's field,
    which is known after FIRST_RECORDS of them or at the end of the file.
    """
    source = file.source
    objects = texts = broken = 0
    names: Iterable[str] = ()
    for number, line in enumerate(decompressed(file, raw)):
        content = line.removeprefix(BOM) if number == 0 else line
        if not content or content.isspace():
            continue
        try:
            record = orjson.loads(content)
        except orjson.JSONDecodeError:
            broken += 1
            if broken == FIRST_RECORDS and not objects:
                raise UserError(
                    f"{file.uri}: not one of its first {FIRST_RECORDS} lines is JSON; correct {file.field} or its format"
                ) from None
            yield "broken_json" if is_utf8(content) else "undecodable"
            continue
        objects += 1
        if not isinstance(record, dict):
            yield "not_an_object"
            continue
        texts += source.text_field in record
        names = record
        if not texts and objects == FIRST_RECORDS:
            break
        yield make(file, number, record.get(source.text_field), record.get(source.id_field) if source.id_field else None)
    if objects and not texts:
        raise no_such_field(file, names, source.text_field, "textField")


def read_csv(file: SourceFile, raw: BinaryIO) -> Iterator[Record]:
    """One record a row, columns named by the first. Raises UserError if the text's column is not among them."""
    text = io.TextIOWrapper(decompressed(file, raw), "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from read_rows(file, csv.reader(text, strict=True))
    finally:
        text.detach()  # or it would close the file, which is not ours


def read_rows(file: SourceFile, rows: Iterator[list[str]]) -> Iterator[Record]:
    """The rows of a table, the first of which names the columns."""
    header = next(rows, None)
    if header is None:
        return
    text_at, id_at = column(file, header, file.source.text_field, "textField"), None
    if file.source.id_field:
        id_at = column(file, header, file.source.id_field, "idField")
    number = -1
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield "broken_csv"
            continue
        if not row:
            continue
        if text_at >= len(row):
            yield "no_text_field"
        elif not is_whole(row[text_at]):
            yield "undecodable"
        else:
            yield make(file, number, row[text_at], row[id_at] if id_at is not None and id_at < len(row) else None)


def read_parquet(file: SourceFile, raw: BinaryIO) -> Iterator[Record]:
    """One record a row. Raises UserError if the text's column is missing or holds no text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = file.source
    number = 0
    try:
        table = pq.ParquetFile(raw)
        names = table.schema_arrow.names
        column(file, names, source.text_field, "textField")
        wanted = [source.text_field]
        if source.id_field:
            column(file, names, source.id_field, "idField")
            wanted.append(source.id_field)
        for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=wanted):
            texts = cells(file, batch.column(source.text_field))
            ids = batch.column(source.id_field).to_pylist() if source.id_field else [None] * len(texts)
            for text, identifier in zip(texts, ids, strict=True):
                yield decode(file, number, text, identifier)
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, "parquet", error) from None


def cells(file: SourceFile, array: Any) -> list[bytes | None]:
    """The values of a text column, undecoded, so that one bad value costs no other. Raises UserError for other columns."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        found: list[bytes | None] = array.cast(pa.large_binary()).to_pylist()
    except pa.ArrowNotImplementedError:
        raise UserError(
            f"{file.field.removesuffix('uri')}textField: column {file.source.text_field!r} of {file.uri} holds {array.type}, "
            "not text; name a column with text"
        ) from None
    return found


def read_text(file: SourceFile, raw: BinaryIO) -> Iterator[Record]:
    """Plain text: the whole file, each line, or each paragraph (lines between empty ones) is a document."""
    stream = decompressed(file, raw)
    pieces: Iterator[bytes]
    match file.source.documents:
        case "file":
            pieces = iter([stream.read()])
        case "line":
            pieces = (line for line in stream if not line.isspace())
        case "paragraph":
            pieces = paragraphs(stream)
    for number, piece in enumerate(pieces):
        yield decode(file, number, piece.removeprefix(BOM).strip(b"\r\n"), None)


def paragraphs(lines: IO[bytes]) -> Iterator[bytes]:
    """Lines joined up to the next empty one."""
    paragraph: list[bytes] = []
    for line in lines:
        if not line.isspace():
            paragraph.append(line)
        elif paragraph:
            yield b"".join(paragraph)
            paragraph = []
    if paragraph:
        yield b"".join(paragraph)


def read_html(file: SourceFile, raw: BinaryIO) -> Iterator[Record]:
    """One page a file."""
    page = decode_html(decompressed(file, raw).read(), declared=None)
    yield "undecodable" if page is None else make(file, 0, page, None, **{MARKUP: "html"})


def read_warc(file: SourceFile, raw: BinaryIO) -> Iterator[Record]:
    """The pages of a crawl: responses of type HTML (WARC), and the texts made of them (WET). Other records are nothing."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    stream = decompressed(file, raw)
    try:
        for number, record in enumerate(ArchiveIterator(stream)):
            if record.rec_type == "conversion":
                yield read_conversion(file, number, record)
            elif record.rec_type == "response" and is_page(record):
                yield read_response(file, number, record)
    except ArchiveLoadFailed as error:
        raise UserError(f"{file.uri}: not a WARC file ({error}); correct {file.field} or its format") from None
    stream.read()  # warcio takes the EOFError of a file that is cut off for its end; here it comes again


def is_page(record: Any) -> bool:
    """Whether a response brought an HTML page."""
    headers = record.http_headers
    return headers is not None and (headers.get_header("Content-Type") or "").lower().startswith(HTML_TYPES)


def read_response(file: SourceFile, number: int, record: Any) -> Record:
    """A page as it was answered. Raises EOFError if the file ends inside it."""
    if record.http_headers.get_statuscode() != "200":
        return "http_status"
    content = record.content_stream().read()
    if record.raw_stream.limit:
        raise EOFError(f"it ends {record.raw_stream.limit} bytes before the end of record {number}")
    found = CHARSET.search(record.http_headers.get_header("Content-Type"))
    page = decode_html(content, declared=found.group(1) if found else None)
    if page is None:
        return "undecodable"
    return make(
        file, number, page, record.rec_headers.get_header("WARC-Record-ID"), **warc_names(record), **{MARKUP: "html"}
    )


def read_conversion(file: SourceFile, number: int, record: Any) -> Record:
    """The text of a page. Raises EOFError if the file ends inside it."""
    content = record.content_stream().read()
    if record.raw_stream.limit:
        raise EOFError(f"it ends {record.raw_stream.limit} bytes before the end of record {number}")
    return decode(file, number, content, record.rec_headers.get_header("WARC-Record-ID"), **warc_names(record))


def warc_names(record: Any) -> dict[str, str]:
    """Address and date of a page, as far as the record has them."""
    names = {"url": "WARC-Target-URI", "date": "WARC-Date"}
    return {key: value for key, header in names.items() if (value := record.rec_headers.get_header(header))}


READERS: dict[Format, Callable[[SourceFile, BinaryIO], Iterator[Record]]] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "csv": read_csv,
    "text": read_text,
    "html": read_html,
    "warc": read_warc,
}


def make(file: SourceFile, number: int, text: object, identifier: object, **metadata: str) -> Record:
    """The document, or why there is none. number: its place in the file, from 0, which also is its id if it has none."""
    if text is None:
        return "no_text_field"
    if not isinstance(text, str):
        return "text_not_string"
    if not text or text.isspace():
        return "empty"
    return Document(
        text=text,
        id=f"{file.source.name}/{file.path}#{number}" if identifier in (None, "") else str(identifier),
        metadata={"source": file.source.name, "file": file.path, "record": number, **metadata},
    )


def decode(file: SourceFile, number: int, data: bytes | None, identifier: object, **metadata: str) -> Record:
    """The document whose text is UTF-8 in `data`, or why there is none."""
    try:
        return make(file, number, None if data is None else data.decode("utf-8"), identifier, **metadata)
    except UnicodeDecodeError:
        return "undecodable"


def decode_html(content: bytes, declared: str | None) -> str | None:
    """A page as text: by its byte order mark, else the first that fits of the encoding in the HTTP header, the one in its
    own <meta>, and UTF-8. None if none fits.
    """
    for mark, encoding in ((BOM, "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return _try(content, encoding)
    in_page = META_CHARSET.search(content[:META_WITHIN])
    candidates = (declared, in_page.group(1).decode("ascii") if in_page else None, "utf-8")
    return next((page for name in candidates if name and (page := _try(content, name)) is not None), None)


def _try(content: bytes, encoding: str) -> str | None:
    """The content in that encoding, None if it does not fit or nobody knows the encoding."""
    try:
        name = codecs.lookup(encoding).name
        return content.decode(AS_BROWSERS_DO.get(name, name))
    except (UnicodeDecodeError, LookupError):
        return None


def decompressed(file: SourceFile, raw: BinaryIO) -> IO[bytes]:
    """The content, by the end of the file's name."""
    name = file.path.lower()
    if name.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), BUFFER_BYTES)
    if name.endswith(".zst"):
        return io.BufferedReader(ZstdContent(raw), BUFFER_BYTES)
    return raw


class ZstdContent(io.RawIOBase):
    """The content of a Zstandard file of any number of frames. zstandard's own reader ends without a word where the file is
    cut off; this one raises EOFError.
    """

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__()
        self._raw = raw
        self._content = b""
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._content:
            data = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
            data = data or self._raw.read(BUFFER_BYTES)
            if not data:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("it ends inside a frame")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._content = self._frame.decompress(data)
        size = min(len(buffer), len(self._content))
        buffer[:size] = self._content[:size]
        self._content = self._content[size:]
        return size


def damaged(file: SourceFile, what: str, error: Exception) -> UserError:
    """The error for a file of which nobody could say how much is missing."""
    cause = str(error).split("\n", 1)[0]
    return UserError(
        f"{file.uri}: the {what} file is cut off or damaged ({cause}); fetch it again, or take it out of {file.field}"
    )


def column(file: SourceFile, names: list[str], wanted: str, field: str) -> int:
    """The place of a column. Raises UserError that names those that exist."""
    if wanted not in names:
        raise no_such_field(file, names, wanted, field)
    return names.index(wanted)


def no_such_field(file: SourceFile, names: Iterable[str], wanted: str, field: str) -> UserError:
    """The error for a field that the records of a file do not have."""
    return UserError(
        f"{file.field.removesuffix('uri')}{field}: {wanted!r} is not a field of {file.uri}; it has {', '.join(names) or 'none'}"
    )


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def is_whole(text: str) -> bool:
    """Whether no byte had to be escaped to make it text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
