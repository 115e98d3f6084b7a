"""From a step of training to the documents that it is trained on. Runs no training, and imports no torch.

The order of the samples is a pure function of the job and its tokens (order.py), so it can be told of any step: one long
done, or one that is still to come. Which document a token belongs to, the stage tokenize has left beside the tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pretrain_stage.config import Job
from pretrain_stage.errors import CorruptError, UserError
from pretrain_stage.manifest import File
from pretrain_stage.storage import Storage

from pretrain_trainer.config.batch import Batch
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.order import sample_order
from pretrain_trainer.plan import Plan, make_plan
from pretrain_trainer.tokens import TRAIN, shard_files

DOCUMENTS = ".documents.parquet"
"""How the file is called that lists the documents of a token file, after the name of that."""
WINDOW = 1
"""Tokens that a sample has besides its inputs: the last one is only predicted (objective.py)."""
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
    """Its place in the training text, in sequences."""
    epoch: int
    """Passes over the text that were complete before it."""
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
    indices = np.arange((step - 1) * batch.samples, step * batch.samples)
    places = sample_order(job.spec.training.seed, plan.samples_per_epoch, indices)
    pieces = documents_of(plan, storage, places.tolist())
    samples = (
        Sample(index, place, index // plan.samples_per_epoch, *taken_by(batch, index), documents=tuple(found))
        for index, place, found in zip(indices.tolist(), places.tolist(), pieces, strict=True)
    )
    return Trace(job.metadata.name, storage.uri, step, batch.steps, batch.sequence_length, tuple(samples))


def taken_by(batch: Batch, index: int) -> tuple[int, int]:
    """The rank that takes the sample at a global index, and in which of its micro-steps: Batch.first_sample, turned round."""
    micro_step, rank = divmod(index % batch.samples // batch.micro, batch.world_size)
    return rank, micro_step


def documents_of(plan: Plan, storage: Storage, places: Sequence[int]) -> list[list[Piece]]:
    """The documents in each of the sequences that begin at those places of the training text."""
    files = shard_files(plan.inputs.tokenize, TRAIN)
    width = np.dtype(plan.inputs.token_facts.dtype).itemsize
    spans: dict[int, list[Span]] = {}
    for span in spans_of(places, plan.batch.sequence_length, [file.size // width for file in files]):
        spans.setdefault(span.shard, []).append(span)

    def read(shard: int) -> list[tuple[int, list[Piece]]]:
        """By sample, the pieces that lie in one token file. Its list may be large, so only these are kept."""
        table = read_documents(plan, storage, files[shard].path)
        ends = table["end"].to_numpy()
        return [(span.sample, list(pieces_of(span, table, ends))) for span in spans[shard]]

    found: list[list[Piece]] = [[] for _ in places]
    with ThreadPoolExecutor(READERS) as readers:
        for in_shard in readers.map(read, sorted(spans)):
            for sample, pieces in in_shard:
                found[sample] += pieces
    return found


def spans_of(places: Sequence[int], sequence_length: int, shard_tokens: Sequence[int]) -> Iterator[Span]:
    """Where the tokens of each sequence lie, as tokens.TokenStream reads them. shard_tokens: length of each token file."""
    ends = np.cumsum(shard_tokens)
    for sample, place in enumerate(places):
        start = place * sequence_length
        stop = start + sequence_length + WINDOW
        for shard in range(int(np.searchsorted(ends, start, side="right")), len(ends)):
            begin = int(ends[shard]) - shard_tokens[shard]
            if begin >= stop:
                break
            if shard_tokens[shard]:
                yield Span(sample, shard, max(start - begin, 0), min(stop - begin, shard_tokens[shard]))


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
