"""The tokens of a source in a split, memory-mapped: shards in the order of their names, read as one stream.

Shards are datatrove's `.ds` files: little-endian uint16 or uint32, documents one after the other, each closed by the
end-of-text token. Those of a folder are mapped where they lie; those of S3 are copied to the node first, once. Either way
every byte is checked against the manifest of the stage tokenize before training reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pretrain_stage.manifest import File, Manifest
from pretrain_stage.scratch import private_folder
from pretrain_stage.storage import Storage, file_sha256, verify

TRAIN, HELD_OUT = "tokens/train/", "tokens/held-out/"


@dataclass(frozen=True)
class TokenStream:
    """The tokens of some shards, one after the other."""

    shards: tuple[NDArray[np.unsignedinteger], ...]
    ends: NDArray[np.int64]
    """The position in the stream at which each shard ends."""

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Tokens from `start` up to `stop`, which may lie in different shards."""
        pieces = []
        for shard in range(int(np.searchsorted(self.ends, start, side="right")), len(self.shards)):
            first = int(self.ends[shard]) - len(self.shards[shard])
            pieces.append(self.shards[shard][max(0, start - first) : stop - first])
            if stop <= self.ends[shard]:
                break
        return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, np.int64)


def open_stream(paths: Sequence[Path], dtype: str) -> TokenStream:
    """The stream of those shards. dtype: uint16 or uint32."""
    shards = tuple(
        np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r") if path.stat().st_size else np.empty(0, dtype)
        for path in paths
    )
    return TokenStream(shards, np.cumsum([len(shard) for shard in shards], dtype=np.int64))


def counted(lengths: Sequence[int]) -> TokenStream:
    """A stream of shards of those lengths that has no tokens to read."""
    return TokenStream((), np.cumsum(lengths, dtype=np.int64))


def shard_files(tokenize: Manifest, split: str, source: str | None = None, suffix: str = ".ds") -> list[File]:
    """The token files of a split, in order, of one source or of all. split: TRAIN or HELD_OUT.

    suffix: of other files beside them.
    """
    folder = split if source is None else f"{split}{source}/"
    return sorted(
        (file for file in tokenize.outputs if file.path.startswith(folder) and file.path.endswith(suffix)),
        key=lambda file: file.path,
    )


def token_cache(storage: Storage, node: int) -> Path:
    """Where a training node keeps token files of S3: through restarts, until training is finished."""
    return private_folder(storage) / f"tokens-{node}"


def shard_path(storage: Storage, file: File, cache: Path) -> Path:
    """Where this node reads a token file: in the storage folder itself, or in its cache."""
    return storage.local_path(file.path) or cache / f"{file.sha256}.ds"


def bring(storage: Storage, files: Sequence[File], cache: Path) -> None:
    """Makes those files ready on this node: copies them to the cache if the storage is no folder, and verifies them.

    Raises CorruptError that names the first file that is not what the manifest says.
    """
    for file in files:
        if storage.local_path(file.path) is not None:
            verify(storage, file.path, file.size, file.sha256)
        elif not _cached(shard_path(storage, file, cache), file):
            verify(storage, file.path, file.size, file.sha256, shard_path(storage, file, cache))


def _cached(path: Path, file: File) -> bool:
    return path.exists() and path.stat().st_size == file.size and file_sha256(path) == file.sha256
