"""From places in the training text to documents, against the tokens that training would read there."""

from __future__ import annotations

import random
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pretrain_stage.config import read_job
from pretrain_stage.errors import CorruptError, UserError
from pretrain_stage.manifest import Manifest, put_output, read_manifest
from pretrain_stage.storage import Storage, open_folder
from pretrain_trainer import commit_log
from pretrain_trainer.config.batch import Batch
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.objectives import objective_of
from pretrain_trainer.objectives.special import SpecialTokens
from pretrain_trainer.plan import make_plan
from pretrain_trainer.text import text_files
from pretrain_trainer.tokens import TRAIN, TokenStream, counted, shard_files
from pretrain_trainer.trace import pieces_of, spans_of, taken_by, trace

from tests.trainer.conftest import Site
from tests.trainer.jobs import MODELS, SAMPLES, STEPS, prepare, write_job
from tests.trainer.texts import OBJECTIVES


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
    lengths = [len(shard) for shard in shards]
    stream = TokenStream(tuple(shards), np.cumsum(lengths))
    size = chance.choice((1, 3, 8))
    parts = [range(start, min(start + size + 1, len(stream))) for start in range(0, len(stream), size)]
    found: list[list[int]] = [[] for _ in parts]
    offsets: list[list[int]] = [[] for _ in parts]
    for number, part in enumerate(parts):
        for span in spans_of(number, part, counted(lengths)):
            for piece in pieces_of(span, tables[span.shard], tables[span.shard]["end"].to_numpy()):
                assert piece.tokens > 0
                found[span.sample] += [int(piece.id)] * piece.tokens
                offsets[span.sample] += range(piece.first, piece.first + piece.tokens)
    assert found == [stream.read(part.start, part.stop).tolist() for part in parts]
    text = np.concatenate(shards).tolist() if shards else []
    assert offsets == [[at - text.index(text[at]) for at in part] for part in parts]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_documents_are_those_that_the_samples_are_made_of(objective: str, tmp_path: Path) -> None:
    """Of two sources, by tokens: what training reads there is what the pieces hold."""
    storage = open_folder(tmp_path / "storage")
    documents = [topics[name] for name in sorted(topics)]
    prepare(storage, tmp_path, {"a": documents[:30], "b": documents[30:]})
    list_documents(storage, tmp_path)
    site = Site(tmp_path, storage)
    spec = site.job(objective=objective)
    spec["spec"] |= {
        "corpus": {"sources": [{"name": "a", "weight": 3}, {"name": "b", "weight": 1}]},
        "model": MODELS[objective],
    }
    job = read_job(write_job(tmp_path, spec), TrainerSpec)
    plan = make_plan(job, storage, 1)
    made = objective_of(job.spec.training, SpecialTokens(plan.inputs.tokenizer_facts))
    texts = [
        text_files(plan.inputs.tokenize, TRAIN, name, documents=True, marks=True).open(storage, tmp_path, "uint16")
        for name in plan.mixture.names
    ]
    files = {file.path: np.fromfile(site.path(file.path), np.uint16) for file in shard_files(plan.inputs.tokenize, TRAIN)}
    sources = []
    for sample in trace(job, storage, 3).samples:
        place = plan.mixture.places([sample.index])[0]
        assert (sample.sample, sample.epoch) == (plan.mixture.number(place), place.epoch)
        tokens: list[int] = []
        for piece in sample.documents:
            tokens += files[piece.id][piece.first : piece.first + piece.tokens].tolist()
        parts = made.parts(texts[place.source], place.sample, plan.mixture.chance(sample.index))
        assert tokens == [token for part in parts for token in texts[place.source].tokens.read(part.start, part.stop)]
        drawn = made.sample(texts[place.source], place.sample, plan.mixture.chance(sample.index))
        rows = [*drawn.inputs.values(), *drawn.targets.values()]
        assert set(tokens) <= {token for row in rows for token in np.atleast_1d(row).tolist()}
        sources.append(plan.mixture.names[place.source])
        assert {piece.id.split("/")[2] for piece in sample.documents} == {sources[-1]}
    assert sources.count("a") == 3 * sources.count("b")


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
        UserError, match=r"tokens/train/topics/0000\d\.ds\.documents\.parquet: missing; delete stages/tokenize\.json"
    ):
        trace(read_job(site.write(), TrainerSpec), site.storage, 1)


def test_a_damaged_list_is_named(site: Site, tmp_path: Path) -> None:
    """And a whole one is read: its documents are those of each sample."""
    list_documents(site.storage, tmp_path)
    job = read_job(site.write(), TrainerSpec)
    samples = trace(job, site.storage, STEPS).samples
    assert [sample.index for sample in samples] == list(range((STEPS - 1) * SAMPLES, STEPS * SAMPLES))
    assert {piece.id for sample in samples for piece in sample.documents} == {
        f"tokens/train/topics/0000{n}.ds" for n in (0, 1)
    }
    path = site.path("tokens/train/topics/00001.ds.documents.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"00001\.ds\.documents\.parquet: not what its manifest says; delete it"):
        trace(job, site.storage, STEPS)


def test_samples_that_were_left_out_are_no_steps(site: Site, tmp_path: Path) -> None:
    """Steps 5 and 6 were rolled back: the next that are trained are those behind them, and what was before stays."""
    list_documents(site.storage, tmp_path)
    job = read_job(site.write(), TrainerSpec)
    before = {step: trace(job, site.storage, step).samples for step in (4, 5, 7)}
    attempt = commit_log.begin(site.storage, None)
    commit_log.restore(site.storage, 4, "checkpoints/step-00000004", "0" * 64, ((4 * SAMPLES, 6 * SAMPLES - 1),), attempt)
    assert trace(job, site.storage, 4).samples == before[4]
    assert trace(job, site.storage, 5).samples == before[7] != before[5]


def list_documents(storage: Storage, folder: Path) -> None:
    """A list for each token file, as of one document that is called as the file, in the manifest too."""
    manifest = read_manifest(storage, "tokenize")
    assert manifest is not None
    outputs = list(manifest.outputs)
    for file in shard_files(manifest, TRAIN):
        row = {"source": ["topics"], "file": ["a"], "record": [0], "id": [file.path], "end": [file.size // 2]}
        pq.write_table(pa.table(row), folder / "list")
        outputs.append(put_output(storage, folder / "list", f"{file.path}.documents.parquet"))
    changed: Manifest = manifest.model_copy(update={"outputs": tuple(outputs)})
    storage.write("stages/tokenize.json", changed.model_dump_json().encode())
