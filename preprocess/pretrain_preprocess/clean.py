"""The stage clean: from source files to documents that passed every block.

read sources -> extract -> normalize -> language -> quality -> pii -> corpus/clean/<index>.jsonl.zst
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from pydantic import JsonValue

from pretrain_preprocess.blocks.block import Block
from pretrain_preprocess.blocks.extract import Extract
from pretrain_preprocess.blocks.language import Language
from pretrain_preprocess.blocks.normalize import Normalize
from pretrain_preprocess.blocks.pii import Pii
from pretrain_preprocess.blocks.quality import Quality
from pretrain_preprocess.config import Block as BlockName
from pretrain_preprocess.config import Corpus
from pretrain_preprocess.documents import ShardWriter, shard_path
from pretrain_preprocess.readers import read
from pretrain_preprocess.sources import opened
from pretrain_preprocess.task import Outcome, Task
from pretrain_preprocess.verdict import READ

BLOCKS: dict[BlockName, Callable[[Corpus], Block]] = {
    "extract": lambda corpus: Extract(),
    "normalize": lambda corpus: Normalize(corpus.normalize),
    "language": lambda corpus: Language(corpus.language),
    "quality": lambda corpus: Quality(corpus.quality, corpus.language.keep if "language" in corpus.clean else ()),
    "pii": lambda corpus: Pii(corpus.pii),
}


def run(task: Task) -> Outcome:
    """One task: the files that fall to it, through all blocks, into one shard."""
    corpus = task.spec.corpus
    blocks = [BLOCKS[name](corpus) for name in corpus.blocks]
    for block in blocks:
        block.dropped = task.tally.reasons(block.name)
    shard = task.scratch / "shard.jsonl.zst"
    with ShardWriter(shard, task) as writer:
        for document in pipeline([SourceReader(task), *blocks], task.index, task.tasks):
            writer.write(document)
    return Outcome(((shard, shard_path("clean", task.index)),), facts(blocks, writer, task))


def pipeline(steps: list[PipelineStep], rank: int, world_size: int) -> Iterator[Document]:
    """The documents that come out of the last step, each step fed by the one before, as datatrove's executors do it."""
    documents: Iterator[Document] = iter(())
    for step in steps:
        documents = step(documents, rank, world_size)
    return documents


class SourceReader(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """The first step: the documents in the task's files, in the order of the listing. Counts every record as read, and
    those that are no documents as dropped by reason. Bytes are those of the text as it was read, which may be HTML.
    """

    type = "reader"
    name = "sources"

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task
        self._files = task.listing.shard(task.index, task.tasks)
        self.size = sum(file.size for file in self._files)

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        tally, tell = self._task.tally, self._task.progress()
        dropped = tally.reasons(READ)
        done = 0
        for file in self._files:
            with opened(file, self._task.spec.storage, self._task.scratch) as raw:
                for record in read(file, raw):
                    tell(done + raw.tell(), self.size, "bytes")
                    if isinstance(record, str):
                        tally.take(0)
                        dropped[record] += 1
                    else:
                        tally.take(len(record.text.encode()))
                        yield record
            done += file.size


def facts(blocks: list[Block], writer: ShardWriter, task: Task) -> dict[str, JsonValue]:
    """What the manifest tells besides the counts."""
    found: dict[str, JsonValue] = {
        "source_bytes": sum(file.size for file in task.listing.shard(task.index, task.tasks)),
        "text_bytes": sum(writer.text_bytes.values()),
        "documents_by_source": dict(writer.documents),
        "text_bytes_by_source": dict(writer.text_bytes),
    }
    for block in blocks:
        if isinstance(block, Pii):
            found["addresses_replaced"] = dict(block.replaced)
        if isinstance(block, Quality):
            found["lines_dropped"] = dict(block.lines_dropped)
    return found
