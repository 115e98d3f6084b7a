"""The stage tokenize: documents to token files, as datatrove writes them, by split and by source.

tokens/train/<source>/<index>.ds             tokens, uint16 or uint32 little-endian; each document ends with the end-of-text token
tokens/train/<source>/<index>.ds.index       uint64: where each document ends, in tokens
tokens/train/<source>/<index>.ds.metadata    tokenizer|bytes of a token, number of tokens, the same for people
tokens/train/<source>/<index>.ds.documents.parquet    which documents these are (origins.py)
tokens/train/<source>/<index>.ds.marks       where words and sentences begin (marks.py), for objectives that ask for it
tokens/held-out/<source>/<index>.ds          the same for the documents kept from training

A task that has nothing of a source for a split leaves no files for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.tokens.tokenizer import TokenizedFile
from pydantic import JsonValue
from tokenizers import Encoding, Tokenizer

from pretrain_preprocess import origins
from pretrain_preprocess.documents import TEXT_BYTES, read_documents
from pretrain_preprocess.origins import AUGMENTED, OriginWriter
from pretrain_preprocess.split import is_held_out
from pretrain_preprocess.stages import corpus_stage
from pretrain_preprocess.task import Outcome, Task
from pretrain_preprocess.tokenizer import PATH

BATCH_CHARACTERS = 4_000_000
"""Text that is tokenized at once, on all cores: enough to keep them busy, little enough for a small pod's memory."""

MARKS = ".marks"
SPLITS = ("train", "held-out")
TOTALS = ("tokens", "documents", "bytes")
COUNTS = {"train": (*TOTALS, "characters", "copies"), "held-out": (*TOTALS, "characters", "words")}
"""What is counted of each source. Copies that augment has made are among the documents."""

Placed = tuple[str, Document]
"""A document with its split."""


def run(task: Task) -> Outcome:
    """One shard of documents to a token file for each split and source."""
    file = next(file for file in task.inputs["tokenizer"].outputs if file.path == PATH)
    tokenizer = load(task.bring(file))
    facts = task.inputs["tokenizer"].facts
    end_of_text = int(str(facts["end_of_text_id"]))
    dtype = token_type(int(str(facts["vocab_size"])))
    needs_marks = task.spec.training.needs_marks
    files: dict[tuple[str, str], TokenFile] = {}
    for batch in batches(placed(task)):
        for (split, document), encoding in zip(batch, encode(tokenizer, batch, needs_marks), strict=True):
            key = split, document.metadata["source"]
            if key not in files:
                files[key] = TokenFile(task, *key, dtype, needs_marks)
            files[key].write(document, encoding, end_of_text)
    outputs = [output for file in files.values() for output in file.close()]
    return Outcome(
        tuple(outputs),
        {
            **facts_of(files, [source.name for source in task.spec.corpus.sources]),
            "dtype": dtype,
            "tokenizer_sha256": str(facts["sha256"]),
        },
    )


def placed(task: Task) -> Iterator[Placed]:
    """The documents of the task's shard with their splits; behind each that is trained on, its copies, if there are to be any."""
    corpus = task.spec.corpus
    for document in read_documents(task, corpus_stage(task.spec)):
        split = SPLITS[is_held_out(document.text, corpus.held_out_fraction)]
        yield split, document
        task.tally.keep(document.metadata[TEXT_BYTES])
        if corpus.augments and split == "train":
            from pretrain_preprocess.augment import copies  # it imports spaCy

            for copy in copies(document, corpus.augment):
                yield split, copy


def encode(tokenizer: Tokenizer, batch: list[Placed], with_places: bool) -> list[Encoding]:
    """The tokens of each document; where they lie in its text takes more time, so only if it is asked for."""
    texts = [document.text for _, document in batch]
    encodings: list[Encoding] = (tokenizer.encode_batch if with_places else tokenizer.encode_batch_fast)(
        texts, add_special_tokens=False
    )
    return encodings


class TokenFile:
    """The tokens of one task for one split and source, and what is in them."""

    def __init__(self, task: Task, split: str, source: str, dtype: str, with_marks: bool) -> None:
        self._split = split
        self._folder = task.scratch / "tokens" / split / source
        self._folder.mkdir(parents=True)
        self._name = f"{task.index:05d}.ds"
        self._path = f"tokens/{split}/{source}"
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._tokens = TokenizedFile(
            str(self._folder),
            self._name,
            tokenizer_name_or_path=PATH,
            save_final_metadata=True,
            token_size=self._dtype.itemsize,
        )
        self._origins = OriginWriter(self._folder / (self._name + origins.SUFFIX))
        self._marks: BinaryIO | None = None
        if with_marks:
            self._marks = (self._folder / (self._name + MARKS)).open("wb")
        self.counts: Counter[str] = Counter()

    def write(self, document: Document, encoding: Encoding, end_of_text: int) -> None:
        """The next document."""
        ids = np.array([*encoding.ids, end_of_text], self._dtype)
        self._tokens.write_bytes(ids.tobytes())
        self._origins.write(document, len(self._tokens))
        if self._marks is not None:
            # Imported where it is needed: spaCy and jieba take seconds.
            from pretrain_preprocess.blocks.language import LANGUAGE
            from pretrain_preprocess.marks import mark

            ends = [end for _, end in encoding.offsets]
            self._marks.write(mark(document.text, ends, document.metadata.get(LANGUAGE)).tobytes())
        text = document.text
        self.counts.update(tokens=len(ids), documents=1, bytes=document.metadata[TEXT_BYTES], characters=len(text))
        self.counts["copies"] += AUGMENTED in document.metadata
        if "words" in COUNTS[self._split]:
            self.counts["words"] += words_of(text)

    def close(self) -> Iterator[tuple[Path, str]]:
        """The finished files, with their paths below the storage URI."""
        self._tokens.close()
        self._origins.close()
        if self._marks is not None:
            self._marks.close()
        for path in sorted(self._folder.iterdir()):
            yield path, f"{self._path}/{path.name}"


def facts_of(files: Mapping[tuple[str, str], TokenFile], sources: Iterable[str]) -> dict[str, JsonValue]:
    """What is in the files, in all and by source: train_tokens, held_out_documents and so on."""
    total: Counter[str] = Counter({name(split, count): 0 for split in SPLITS for count in TOTALS})
    found: dict[str, JsonValue] = {}
    for source in sources:
        counts = {split: files[split, source].counts if (split, source) in files else Counter() for split in SPLITS}
        mine = {name(split, count): counts[split][count] for split in SPLITS for count in COUNTS[split]}
        total.update({key: number for key, number in mine.items() if key in total})
        found[source] = dict(mine)
    return {**total, "sources": found}


def name(split: str, count: str) -> str:
    """What a count of a split is called among the facts."""
    return f"{split.replace('-', '_')}_{count}"


def words_of(text: str) -> int:
    """Words that are no punctuation. Chinese ones by segmentation: rjieba alone, which is ready in an instant."""
    import rjieba

    return sum(1 for word in rjieba.cut(text) if any(map(str.isalnum, word)))


def load(path: Path) -> Tokenizer:
    """The tokenizer, set up to turn text into tokens and nothing else: a given file may ask for truncation and padding, and
    text that spells a special token is text.
    """
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_type(vocab_size: int) -> str:
    """The smallest type that holds all ids."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def batches(documents: Iterable[Placed]) -> Iterator[list[Placed]]:
    """Documents in groups of about BATCH_CHARACTERS."""
    batch: list[Placed] = []
    characters = 0
    for split, document in documents:
        batch.append((split, document))
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
