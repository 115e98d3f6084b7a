"""From places in the training text to documents, against the tokens that training would read there."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pretrain_stage.config import read_job
from pretrain_stage.errors import CorruptError, UserError
from pretrain_stage.manifest import Manifest, put_output, read_manifest
from pretrain_stage.storage import Storage
from pretrain_trainer.config.batch import Batch
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.objective import CausalLM
from pretrain_trainer.tokens import TokenStream
from pretrain_trainer.trace import WINDOW, pieces_of, spans_of, taken_by, trace

from tests.trainer.conftest import Site
from tests.trainer.jobs import SAMPLES, STEPS


@pytest.mark.parametrize("seed", range(20))
def test_every_token_of_a_sample_is_a_documents(seed: int) -> None:
    """Each token is a number that says whose it is; shards and documents may be empty, or longer than several samples."""
    chance = random.Random(seed)
    shards, tables, number = [], [], 0
    for _ in range(chance.randrange(1, 5)):
        lengths = [chance.choice((1, 2, 5, 40)) for _ in range(chance.choice((0, 1, 2, 9)))]
        shards.append(
            np.concatenate([np.full(length, number + i) for i, length in enumerate(lengths)] or [np.empty(0, int)])
        )
        names = [str(number + i) for i in range(len(lengths))]
        ends = np.cumsum(lengths, dtype=np.int64)
        tables.append(pa.table({"source": names, "file": names, "record": ends, "id": names, "end": ends}))
        number += len(lengths)
    stream = TokenStream(tuple(shards), np.cumsum([len(shard) for shard in shards]))
    length = chance.choice((1, 3, 8))
    places = list(range(max(0, len(stream) - 1) // length))
    found: list[list[int]] = [[] for _ in places]
    offsets: list[list[int]] = [[] for _ in places]
    for span in spans_of(places, length, [len(shard) for shard in shards]):
        for piece in pieces_of(span, tables[span.shard], tables[span.shard]["end"].to_numpy()):
            assert piece.tokens > 0
            found[span.sample] += [int(piece.id)] * piece.tokens
            offsets[span.sample] += range(piece.first, piece.first + piece.tokens)
    assert found == [stream.read(place * length, place * length + length + WINDOW).tolist() for place in places]
    text = np.concatenate(shards).tolist()
    assert offsets == [
        [at - text.index(text[at]) for at in range(place * length, place * length + length + WINDOW)] for place in places
    ]


def test_a_sample_reads_as_many_tokens_as_training_does() -> None:
    stream = TokenStream((np.arange(100, dtype=np.uint16),), np.array([100]))
    (sample,) = CausalLM(stream, 8, seed=1).at(range(1))
    assert len({*sample.inputs["tokens"].tolist(), *sample.targets["tokens"].tolist()}) == 8 + WINDOW


def test_ranks_take_what_the_batch_says() -> None:
    batch = Batch(samples=24, micro=3, accumulation=4, world_size=2, steps=9, sequence_length=8)
    for step in range(3):
        for rank in range(2):
            for micro_step in range(4):
                first = batch.first_sample(step, rank, micro_step)
                assert {taken_by(batch, index) for index in range(first, first + 3)} == {(rank, micro_step)}


@pytest.mark.parametrize("step", [0, -1, STEPS + 1])
def test_a_step_that_is_none_is_refused(site: Site, step: int) -> None:
    job = read_job(site.write(), TrainerSpec)
    with pytest.raises(
        UserError, match=rf"--step: {step}, but the training of little has {STEPS} steps; .* from 1 to {STEPS}"
    ):
        trace(job, site.storage, step)


def test_tokens_without_a_list_of_documents_are_named(site: Site) -> None:
    with pytest.raises(
        UserError, match=r"tokens/train/0000\d\.ds\.documents\.parquet: missing; delete stages/tokenize\.json"
    ):
        trace(read_job(site.write(), TrainerSpec), site.storage, 1)


def test_a_damaged_list_is_named(site: Site, tmp_path: Path) -> None:
    """And a whole one is read: its documents are those of each sample."""
    list_documents(site.storage, tmp_path)
    job = read_job(site.write(), TrainerSpec)
    samples = trace(job, site.storage, STEPS).samples
    assert [sample.index for sample in samples] == list(range((STEPS - 1) * SAMPLES, STEPS * SAMPLES))
    assert {piece.id for sample in samples for piece in sample.documents} == {"all of shard 0", "all of shard 1"}
    path = site.path("tokens/train/00001.ds.documents.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"00001\.ds\.documents\.parquet: not what its manifest says; delete it"):
        trace(job, site.storage, STEPS)


def list_documents(storage: Storage, folder: Path) -> None:
    """A list for each token file, as of one document, in the manifest too."""
    manifest = read_manifest(storage, "tokenize")
    assert manifest is not None
    outputs = list(manifest.outputs)
    for shard in range(2):
        tokens = f"tokens/train/{shard:05d}.ds"
        end = (storage.size(tokens) or 0) // 2
        row = {"source": ["topics"], "file": ["a"], "record": [0], "id": [f"all of shard {shard}"], "end": [end]}
        pq.write_table(pa.table(row), folder / "list")
        outputs.append(put_output(storage, folder / "list", f"{tokens}.documents.parquet"))
    changed: Manifest = manifest.model_copy(update={"outputs": tuple(outputs)})
    storage.write("stages/tokenize.json", changed.model_dump_json().encode())
