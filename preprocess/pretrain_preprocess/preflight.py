"""The stage preflight: in seconds, whether what the job needs is there. Always runs, and leaves nothing behind.

1. Storage can be listed, written, read, created exactly once, and deleted.
2. Each source has files, and its first record can be read and has the text field. Each task of finetune has files with examples.
3. A given tokenizer loads, has the end-of-text token, and fits model.vocabSize. A given one, and one to train, has the special
   tokens that the objective needs.
4. There is text enough for training.tokens within training.maxEpochs passes, as far as a sample tells.
"""

from __future__ import annotations

import contextlib
import io
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import obstore
from obstore.exceptions import BaseError
from pretrain_stage.config import Job
from pretrain_stage.errors import StorageError, UserError
from pretrain_stage.events import Events
from pretrain_stage.storage import Storage, open_storage
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from pretrain_preprocess.config import Learned, PreprocessSpec, Source
from pretrain_preprocess.outside import list_examples, read_tokenizer
from pretrain_preprocess.sources import SourceFile, list_source, source_storage

if TYPE_CHECKING:
    from obstore import ReadableFile

SAMPLE_BYTES = 8_000_000
"""Text that is read of each source."""
SAMPLE_FILES = 20
SAMPLE_MARGIN = 4
"""The files that were not read may hold so many times more text for their size than those that were."""
BYTES_PER_TOKEN = 4
"""Rough: byte-level BPE gives 3.5 to 4.5 bytes of text a token, English and Chinese alike (UTF-8), from 6,000 entries on."""


class ModelSize(BaseModel):
    """What preprocessing must know of spec.model."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel)

    vocab_size: int | None = None


class Trained(Learned):
    """What preflight must know of spec.training besides."""

    tokens: int | None = None
    max_epochs: int = 100


class PreflightSpec(PreprocessSpec):
    """The sections that preflight reads: those of preprocessing, and two sizes of training's."""

    model: ModelSize = Field(default=ModelSize())
    training: Trained = Trained()


@dataclass(frozen=True)
class Sample:
    """What the files of a source hold, and how much text the first of them have."""

    files: int
    file_bytes: int
    text_bytes: int
    """Text of the records that were read."""
    read_bytes: int
    """Bytes that these records take in their files, compressed as they lie there."""

    @property
    def text_in_all(self) -> int:
        """Bytes of text in all files, if they are like the first."""
        return int(self.file_bytes * self.text_bytes / self.read_bytes)


def preflight(job: Job[PreflightSpec]) -> None:
    """Raises UserError or StorageError for the first thing that is wrong; else tells what it found as a result."""
    spec = job.spec
    events = Events({**job.metadata.model_dump(exclude_none=True), "stage": "preflight", "index": 0})
    probe(open_storage(spec.storage))
    check_languages(spec)
    samples = {source.name: look_at(source, index, spec) for index, source in enumerate(spec.corpus.sources)}
    examples = {task.name: find_examples(place, spec) for place, task in enumerate(spec.finetune)}
    check_markup(spec, events)
    check_tokenizer(spec)
    tokens = sum(sample.text_in_all for sample in samples.values()) // BYTES_PER_TOKEN
    check_amount(spec, tokens, list(samples.values()), events)
    events.say(
        "result",
        f"storage, sources and tokenizer are there: {sum(s.files for s in samples.values())} files, "
        f"{sum(s.file_bytes for s in samples.values()):,} bytes, roughly {tokens:,} tokens before cleaning",
        facts={
            "source_bytes": {name: sample.file_bytes for name, sample in samples.items()},
            "source_files": {name: sample.files for name, sample in samples.items()},
            "example_bytes": examples,
            "tokens_estimate": tokens,
        },
    )


def probe(storage: Storage) -> None:
    """Does to an object what the job will do to many. Raises StorageError if the storage does not do its part."""
    path, data = f"preflight-{secrets.token_hex(8)}", secrets.token_bytes(16)
    first = storage.create(path, data)
    try:
        second = storage.create(path, b"")
        if not first or second or storage.read(path) != data:
            raise StorageError(
                f"storage.uri: {storage.uri} lets an object be created twice; use a service that knows conditional writes "
                "(If-None-Match), or parts of the job would overwrite each other"
            )
    finally:
        storage.delete([path])


def check_languages(spec: PreflightSpec) -> None:
    """Raises UserError for a language to keep that the detector does not know, or whose words cannot be found."""
    from pretrain_preprocess.blocks.language import known_languages
    from pretrain_preprocess.blocks.words import splitter

    corpus = spec.corpus
    if "language" not in corpus.clean:
        return
    known = known_languages()
    for language in corpus.language.keep:
        if language not in known:
            raise UserError(
                f"corpus.language.keep: {language!r} is no language that the detector knows; it knows {', '.join(sorted(known))}"
            )
        by_words = "quality" in corpus.clean or corpus.deduplicate.method == "minhash" or corpus.augments
        if by_words or spec.training.needs_marks:
            splitter(language)


def look_at(source: Source, index: int, spec: PreflightSpec) -> Sample:
    """The files of a source and its first records. Raises UserError if there are none, or the first ones cannot be used."""
    from pretrain_preprocess.readers import FIRST_RECORDS, read

    files = list_source(source, index, spec.storage)
    text_bytes = read_bytes = records = 0
    reasons: Counter[str] = Counter()
    for file in files[:SAMPLE_FILES]:
        with open_file(file, spec) as raw:
            for record in read(file, raw):
                records += 1
                if isinstance(record, str):
                    reasons[record] += 1
                else:
                    text_bytes += len(record.text.encode())
                if text_bytes >= SAMPLE_BYTES or records == reasons.total() == FIRST_RECORDS:
                    break
            read_bytes += raw.tell()
        if text_bytes >= SAMPLE_BYTES:
            break
    if not records:
        raise UserError(
            f"corpus.sources[{index}].uri: {source.uri}: no documents in {file.uri} and the {min(len(files), SAMPLE_FILES) - 1} files "
            "before it; check format and the files themselves"
        )
    if not text_bytes:
        found = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
        raise UserError(
            f"corpus.sources[{index}].uri: {source.uri}: none of the first {records} records can be used ({found}); correct format "
            "or textField, or mend the files"
        )
    return Sample(len(files), sum(file.size for file in files), text_bytes, max(1, read_bytes))


def find_examples(place: int, spec: PreflightSpec) -> int:
    """Bytes of the examples of a task. Raises UserError if there are no files, or none of their format can hold them."""
    from pretrain_preprocess.labelled.examples import check_format

    task = spec.finetune[place]
    check_format(task, f"finetune[{place}].examples")
    return list_examples(task, place, spec.storage).size


@contextlib.contextmanager
def open_file(file: SourceFile, spec: PreflightSpec) -> Iterator[BinaryIO]:
    """The file where it lies: of an object in S3 only what is read is fetched."""
    if not file.is_remote:
        with Path(file.uri).open("rb") as local:
            yield local
        return
    key = file.uri.removeprefix("s3://").partition("/")[2]
    try:
        yield io.BufferedReader(RemoteFile(obstore.open_reader(source_storage(file.uri, spec.storage).store, key)), 1 << 16)
    except BaseError as error:
        raise StorageError(
            f"{file.field}: cannot read {file.uri} ({str(error).splitlines()[0]}); check the credentials"
        ) from None


class RemoteFile(io.RawIOBase):
    """An object in S3 as a file of Python."""

    def __init__(self, reader: ReadableFile) -> None:
        super().__init__()
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()


def check_markup(spec: PreflightSpec, events: Events) -> None:
    """Warns of pages that would be trained on with their markup."""
    pages = [source.name for source in spec.corpus.sources if source.format in ("html", "warc")]
    if pages and "extract" not in spec.corpus.clean:
        events.warning(
            f"corpus.clean: has no block extract, so the pages of {', '.join(pages)} stay HTML; add it to train on their text"
        )


def check_tokenizer(spec: PreflightSpec) -> None:
    """Raises UserError if a tokenizer is of no use or lacks what the objective needs, or model.vocabSize is too small for it."""
    from pretrain_preprocess.special import check_objective
    from pretrain_preprocess.tokenizer import check_options, given_facts, load_given, vocabulary_size

    if spec.tokenizer.uri is not None:
        given = read_tokenizer(spec.tokenizer.uri, spec.storage)
        tokenizer = load_given(given, spec.tokenizer.end_of_text)
        check_objective(spec.training, given_facts(tokenizer), given.uri)
        size, what = vocabulary_size(tokenizer), f"the {given.uri} of tokenizer.uri"
    else:
        assert spec.tokenizer.train is not None, "a rule of the section demands train or uri"
        check_options(spec.tokenizer.train, spec.training)
        size, what = spec.tokenizer.train.vocab_size, "tokenizer.train.vocabSize"
    rows = spec.model.vocab_size
    if rows is not None and rows < size:
        raise UserError(
            f"model.vocabSize: {rows} does not hold the {size} entries of {what}; raise it to {size}, or omit it"
        )


def check_amount(spec: PreflightSpec, tokens: int, samples: Sequence[Sample], events: Events) -> None:
    """Raises UserError if there cannot be text enough for training, and warns if there hardly is."""
    wanted, epochs = spec.training.tokens, spec.training.max_epochs
    if wanted is None:
        return
    most = sum(sample.text_in_all for sample in samples) * epochs
    remedy = "give more text, lower training.tokens, or raise training.maxEpochs"
    if most * SAMPLE_MARGIN < wanted:
        raise UserError(
            f"training.tokens: {wanted:,} cannot come from about {most // epochs:,} bytes of text in {epochs} passes, at one token a "
            f"byte; {remedy}"
        )
    if tokens * epochs < wanted:
        events.warning(
            f"training.tokens: {wanted:,} may need more than {epochs} passes over roughly {tokens:,} tokens; {remedy}",
            tokens_estimate=tokens,
        )
