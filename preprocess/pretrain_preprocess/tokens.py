"""The stage tokenize: documents to token files, as datatrove writes them, for training and for validation.

tokens/train/<index>.ds              tokens, uint16 or uint32 little-endian; each document ends with the end-of-text token
tokens/train/<index>.ds.index        uint64: where each document ends, in tokens
tokens/train/<index>.ds.metadata     tokenizer|bytes of a token, number of tokens, the same for people
tokens/train/<index>.ds.documents.parquet    which documents these are (origins.py)
tokens/held-out/<index>.ds           the same for the documents kept from training
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.tokens.tokenizer import TokenizedFile
from tokenizers import Tokenizer

from pretrain_preprocess import origins
from pretrain_preprocess.documents import TEXT_BYTES, read_documents
from pretrain_preprocess.origins import OriginWriter
from pretrain_preprocess.split import is_held_out
from pretrain_preprocess.stages import corpus_stage
from pretrain_preprocess.task import Outcome, Task
from pretrain_preprocess.tokenizer import PATH

BATCH_CHARACTERS = 4_000_000
"""Text that is tokenized at once, on all cores: enough to keep them busy, little enough for a small pod's memory."""

ENDINGS = ("", ".index", ".metadata", origins.SUFFIX)


@dataclass
class Split:
    """One of the two token files of a task, and what is in it."""

    name: str
    file: TokenizedFile
    origins: OriginWriter
    documents: int = 0
    text_bytes: int = 0

    def write(self, document: Document, ids: list[int], dtype: str) -> None:
        self.file.write_bytes(np.array(ids, np.dtype(dtype).newbyteorder("<")).tobytes())
        self.origins.write(document, len(self.file))
        self.documents += 1
        self.text_bytes += document.metadata[TEXT_BYTES]


def run(task: Task) -> Outcome:
    """One shard of documents to one token file for training and one for validation."""
    file = next(file for file in task.inputs["tokenizer"].outputs if file.path == PATH)
    tokenizer = load(task.bring(file))
    facts = task.inputs["tokenizer"].facts
    end_of_text = int(str(facts["end_of_text_id"]))
    dtype = token_type(int(str(facts["vocab_size"])))
    train, held_out = (open_split(name, task, dtype) for name in ("train", "held-out"))
    for batch in batches(read_documents(task, corpus_stage(task.spec))):
        encodings = tokenizer.encode_batch_fast([document.text for document in batch], add_special_tokens=False)
        for document, encoding in zip(batch, encodings, strict=True):
            split = held_out if is_held_out(document.text, task.spec.corpus.held_out_fraction) else train
            split.write(document, [*encoding.ids, end_of_text], dtype)
            task.tally.keep(document.metadata[TEXT_BYTES])
    outputs = []
    for split in (train, held_out):
        split.file.close()
        split.origins.close()
        name = f"{task.index:05d}.ds"
        outputs += [(task.scratch / split.name / (name + end), f"tokens/{split.name}/{name}{end}") for end in ENDINGS]
    return Outcome(
        tuple(outputs),
        {
            "train_tokens": len(train.file),
            "held_out_tokens": len(held_out.file),
            "train_documents": train.documents,
            "held_out_documents": held_out.documents,
            "train_bytes": train.text_bytes,
            "held_out_bytes": held_out.text_bytes,
            "dtype": dtype,
            "tokenizer_sha256": str(facts["sha256"]),
        },
    )


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


def open_split(name: str, task: Task, dtype: str) -> Split:
    """The token file of a task for one of the two parts."""
    folder = task.scratch / name
    folder.mkdir()
    file = f"{task.index:05d}.ds"
    return Split(
        name,
        TokenizedFile(
            str(folder),
            file,
            tokenizer_name_or_path=PATH,
            save_final_metadata=True,
            token_size=np.dtype(dtype).itemsize,
        ),
        OriginWriter(folder / f"{file}{origins.SUFFIX}"),
    )


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in groups of about BATCH_CHARACTERS."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
