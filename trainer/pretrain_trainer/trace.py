"""From a step of training to the documents that it is trained on. Runs no training, and imports no torch.

Which source a sample is from (mixture.py), in which order they come (order.py) and what the objective makes of them are pure
functions of the job and its tokens, so they can be told of any step: one long done, or one that is still to come. Samples that
are left out since a spike of the loss (watch/rollback.py) are named in the commit log. Which document a token belongs to, the
stage tokenize has left beside the tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pretrain_stage.config import Job
from pretrain_stage.errors import CorruptError, UserError
from pretrain_stage.manifest import File
from pretrain_stage.storage import Storage

from pretrain_trainer import commit_log
from pretrain_trainer.config.batch import Batch
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.mixture import Place
from pretrain_trainer.objectives import objective_of
from pretrain_trainer.objectives.objective import Objective
from pretrain_trainer.objectives.special import SpecialTokens
from pretrain_trainer.plan import Plan, make_plan
from pretrain_trainer.text import Text, text_files
from pretrain_trainer.tokens import TRAIN, TokenStream, bring, counted
from pretrain_trainer.watch.rollback import past

DOCUMENTS = ".documents.parquet"
"""How the file is called that lists the documents of a token file, after the name of that."""
READERS = 8
"""Files that are read at once."""


@dataclass(frozen=True)
class Piece:
    """The part of a document that lies in a sample."""

    source: str
    file: str
    record: int
    id: str
    first: int
    """The first of its tokens that the sample has, counted from 0 in the document."""
    tokens: int


@dataclass(frozen=True)
class Sample:
    """One sequence of a step."""

    index: int
    """Its global index: how many samples came before it since training began."""
    sample: int
    """Its place in the text of all sources, one behind the other, in samples."""
    epoch: int
    """Passes over the text of its source that were complete before it."""
    rank: int
    """The process that takes it, of as many as the job asks for now."""
    micro_step: int
    """In which micro-batch of that process's step, from 0."""
    documents: tuple[Piece, ...]


@dataclass(frozen=True)
class Trace:
    """The batch of one step."""

    name: str
    storage: str
    step: int
    steps: int
    sequence_length: int
    samples: tuple[Sample, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Span:
    """Tokens of one sample that lie in one token file, `first` up to `stop`, counted in the file."""

    sample: int
    shard: int
    first: int
    stop: int


def trace(job: Job[TrainerSpec], storage: Storage, step: int) -> Trace:
    """The samples of a step (from 1) with the documents in them, in the order of their global indices.

    Raises UserError if there is no such step, or the tokens are not there yet; CorruptError if a list of documents is not what
    its manifest says.
    """
    plan = make_plan(job, storage, job.spec.training.world_size)
    batch = plan.batch
    if not 1 <= step <= batch.steps:
        raise UserError(
            f"--step: {step}, but the training of {job.metadata.name} has {batch.steps} steps; give one from 1 to {batch.steps}"
        )
    end = commit_log.last(storage).entry
    skipped = end.skipped if end is not None else ()
    indices = [past(skipped, number) for number in range((step - 1) * batch.samples, step * batch.samples)]
    places = plan.mixture.places(indices)
    with TemporaryDirectory() as cache:
        texts = open_texts(plan, storage, Path(cache), sorted({place.source for place in places}))
        pieces = documents_of(plan, storage, texts, list(zip(indices, places, strict=True)))
    samples = (
        Sample(index, plan.mixture.number(place), place.epoch, *taken_by(batch, index), documents=tuple(found))
        for index, place, found in zip(indices, places, pieces, strict=True)
    )
    return Trace(job.metadata.name, storage.uri, step, batch.steps, batch.sequence_length, tuple(samples))


@dataclass(frozen=True)
class Traced:
    """The text of a source, as far as tracing needs it, and the token files that it lies in."""

    text: Text
    files: tuple[File, ...]


def open_texts(plan: Plan, storage: Storage, cache: Path, sources: Sequence[int]) -> dict[int, Traced]:
    """The texts of those sources. Tokens are not read, only counted; what an objective chooses samples by is."""
    objective, facts = _objective(plan), plan.inputs.token_facts
    found = {}
    for source in sources:
        name = plan.mixture.names[source]
        files = text_files(plan.inputs.tokenize, TRAIN, name, documents=objective.documents, marks=objective.marks)
        bring(storage, files.index + files.marks, cache)
        tokens = counted([file.size // np.dtype(facts.dtype).itemsize for file in files.tokens])
        found[source] = Traced(files.described(storage, cache, tokens), files.tokens)
    return found


def _objective(plan: Plan) -> Objective:
    return objective_of(plan.job.spec.training, SpecialTokens(plan.inputs.tokenizer_facts))


def taken_by(batch: Batch, index: int) -> tuple[int, int]:
    """The rank that takes the sample at a global index, and in which of its micro-steps: Batch.first_sample, turned round."""
    micro_step, rank = divmod(index % batch.samples // batch.micro, batch.world_size)
    return rank, micro_step


def documents_of(
    plan: Plan, storage: Storage, texts: Mapping[int, Traced], samples: Sequence[tuple[int, Place]]
) -> list[list[Piece]]:
    """The documents in each of those samples, given by global index and place."""
    objective = _objective(plan)
    spans: list[tuple[Span, str]] = []
    for number, (index, place) in enumerate(samples):
        traced = texts[place.source]
        for part in objective.parts(traced.text, place.sample, plan.mixture.chance(index)):
            spans += ((span, traced.files[span.shard].path) for span in spans_of(number, part, traced.text.tokens))

    def read(path: str) -> dict[Span, list[Piece]]:
        """The pieces that lie in one token file. Its list of documents may be large, so only these are kept."""
        table = read_documents(plan, storage, path)
        ends = table["end"].to_numpy()
        return {span: list(pieces_of(span, table, ends)) for span, file in spans if file == path}

    files = sorted({path for _, path in spans})
    with ThreadPoolExecutor(READERS) as readers:
        pieces = dict(zip(files, readers.map(read, files), strict=True))
    found: list[list[Piece]] = [[] for _ in samples]
    for span, path in spans:
        found[span.sample] += pieces[path][span]
    return found


def spans_of(sample: int, part: range, tokens: TokenStream) -> Iterator[Span]:
    """Where a part of the text lies, as TokenStream reads it."""
    for shard in range(int(np.searchsorted(tokens.ends, part.start, side="right")), len(tokens.ends)):
        begin = int(tokens.ends[shard - 1]) if shard else 0
        length = int(tokens.ends[shard]) - begin
        if begin >= part.stop:
            break
        if length:
            yield Span(sample, shard, max(part.start - begin, 0), min(part.stop - begin, length))


def pieces_of(span: Span, table: pa.Table, ends: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Piece]:
    """The documents of a token file that share tokens with the span."""
    begin, last = np.searchsorted(ends, [span.first, span.stop - 1], side="right").tolist()
    start = int(ends[begin - 1]) if begin else 0
    for row in table.slice(begin, last - begin + 1).to_pylist():
        first, stop = max(start, span.first), min(row["end"], span.stop)
        yield Piece(row["source"], row["file"], row["record"], row["id"], first - start, stop - first)
        start = row["end"]


def read_documents(plan: Plan, storage: Storage, tokens: str) -> pa.Table:
    """The list of the documents in a token file, verified."""
    path = tokens + DOCUMENTS
    file: File | None = next((file for file in plan.inputs.tokenize.outputs if file.path == path), None)
    data = storage.read(path)
    if file is None or data is None:
        raise UserError(
            f"{storage.uri}/{path}: missing; delete stages/tokenize.json to make the tokens again, and it with them"
        )
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise CorruptError(
            f"{storage.uri}/{path}: not what its manifest says; delete it, and stages/tokenize.json, to make it again"
        )
    return pq.read_table(pa.BufferReader(data))
