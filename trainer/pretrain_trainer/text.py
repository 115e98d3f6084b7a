"""The training text of one source: its tokens, and where its documents, sentences and words begin.

Beside each token file lies `.index`, where its documents end (uint64), and, if the objective asks for it, `.marks`: uint8 for each
token, with WORD on the first token of a word and SENTENCE on that of a sentence. All are mapped, none is read whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pretrain_stage.errors import UserError
from pretrain_stage.manifest import File, Manifest
from pretrain_stage.storage import Storage

from pretrain_trainer.tokens import TokenStream, open_stream, shard_files, shard_path

WORD, SENTENCE = 1, 2
"""Marks: bits."""
INDEX, MARKS = ".ds.index", ".ds.marks"
AT_ONCE = 1024
"""Marks that are read at once in search of a sentence."""


@dataclass(frozen=True)
class Text:
    """The text of a source, of one split."""

    name: str
    tokens: TokenStream
    ends: tuple[NDArray[np.unsignedinteger], ...] = ()
    """Where in each token file its documents end; empty if nobody asks."""
    marks: TokenStream | None = None
    """A mark for each token; None if nobody asks."""

    def __len__(self) -> int:
        return len(self.tokens)

    def words(self, part: range) -> NDArray[np.bool_]:
        """Which of those tokens begin a word."""
        return (self._marks(part.start, part.stop) & WORD).astype(bool)

    def document_at(self, position: int) -> range:
        """The document that the token at a position belongs to, its end-of-text token included."""
        file = int(np.searchsorted(self.tokens.ends, position, side="right"))
        first = int(self.tokens.ends[file - 1]) if file else 0
        number = int(np.searchsorted(self.ends[file], position - first, side="right"))
        start = int(self.ends[file][number - 1]) if number else 0
        return range(first + start, first + int(self.ends[file][number]))

    def sentences(self, part: range) -> NDArray[np.int64]:
        """Where in a part of the text sentences begin."""
        return part.start + np.flatnonzero(self._marks(part.start, part.stop) & SENTENCE)

    def next_sentence(self, part: range) -> int | None:
        """Where the first sentence begins in a part of the text."""
        for start in range(part.start, part.stop, AT_ONCE):
            found = self.sentences(range(start, min(start + AT_ONCE, part.stop)))
            if len(found):
                return int(found[0])
        return None

    def last_sentence(self, part: range) -> int | None:
        """Where the last sentence begins in a part of the text."""
        for stop in range(part.stop, part.start, -AT_ONCE):
            found = self.sentences(range(max(stop - AT_ONCE, part.start), stop))
            if len(found):
                return int(found[-1])
        return None

    def _marks(self, start: int, stop: int) -> NDArray[np.int64]:
        assert self.marks is not None, "the objective asks for marks"
        return self.marks.read(start, stop)


@dataclass(frozen=True)
class TextFiles:
    """The files of a source in a split: tokens, and where documents end and words begin, if somebody asks."""

    name: str
    tokens: tuple[File, ...]
    index: tuple[File, ...]
    marks: tuple[File, ...]

    @property
    def all(self) -> tuple[File, ...]:
        return self.tokens + self.index + self.marks

    def open(self, storage: Storage, cache: Path, dtype: str) -> Text:
        """The text, of files that are on this node."""
        tokens = open_stream([shard_path(storage, file, cache) for file in self.tokens], dtype)
        return self.described(storage, cache, tokens)

    def described(self, storage: Storage, cache: Path, tokens: TokenStream) -> Text:
        """The text with those tokens."""
        ends = tuple(np.memmap(shard_path(storage, file, cache), "<u8", "r") for file in self.index)
        marks = [shard_path(storage, file, cache) for file in self.marks]
        return Text(self.name, tokens, ends, open_stream(marks, "uint8") if marks else None)


def text_files(tokenize: Manifest, split: str, source: str, *, documents: bool, marks: bool) -> TextFiles:
    """The files of a source in a split. Raises UserError if the stage tokenize did not make those that are asked for."""
    files = [tuple(shard_files(tokenize, split, source, suffix)) for suffix in (".ds", INDEX, MARKS)]
    for found, suffix, asked in zip(files[1:], (INDEX, MARKS), (documents, marks), strict=True):
        if asked and len(found) != len(files[0]):
            raise UserError(
                f"{split}{source}/*{suffix}: missing, and the objective asks for them; delete stages/tokenize.json to make the tokens "
                "again, and them with these"
            )
    return TextFiles(source, files[0], files[1] if documents else (), files[2] if marks else ())
