"""The state of a DeepSpeed engine, copied to main memory and written to local disk from there, while training goes on.

DeepSpeed hands the contents of each file of a checkpoint to its checkpoint engine; the one here keeps them. What changes at any
time is copied at once. Parameters and what the optimizer keeps are nearly all of it, and nothing but the optimizer's next
step changes them: they may be copied behind the forward and backward passes before it, by another thread. Whoever starts
that step waits for `copied`.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine
from torch import Tensor, UntypedStorage, nn

CHANGED_BY_A_STEP = ("module", "optimizer", "optimizer_state_dict")
"""Parts of DeepSpeed's files that only an optimizer's step changes, but for buffers of the module."""


class HostMemory:
    """Buffers in main memory, one for each storage of an engine's state, used again by each checkpoint.

    pinned: whether a GPU shall write to them by itself. torch rounds those up to a power of two.
    """

    def __init__(self, pinned: bool) -> None:
        self.pinned = pinned
        self._buffers: list[UntypedStorage] = []

    def buffer(self, number: int, size: int) -> UntypedStorage:
        """The buffer for storage number `number` of the state, of `size` bytes. Numbers are asked for in order."""
        if number == len(self._buffers):
            self._buffers.append(self._allocated(size))
        elif self._buffers[number].nbytes() != size:
            self._buffers[number] = self._allocated(size)
        return self._buffers[number]

    def _allocated(self, size: int) -> UntypedStorage:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned).untyped_storage()


class HostCopy(CheckpointEngine):  # type: ignore[misc]
    """What DeepSpeed hands over to be saved: `files` by name, whole once `copied` is set.

    Tensors that share a storage share its copy: what torch.save writes of the copy is what it would write of the state itself.
    """

    def __init__(self, memory: HostMemory, module: nn.Module) -> None:
        super().__init__()
        self.memory = memory
        self.files: dict[str, Any] = {}
        self.copied = threading.Event()
        self._changing = {buffer.untyped_storage()._cdata for buffer in module.buffers()}
        self._copies: dict[int, tuple[UntypedStorage, UntypedStorage]] = {}
        """A storage and its copy, by the storage's address: which nobody else can have for as long as it is kept here."""
        self._later: set[int] = set()
        """Addresses of the storages that are still to be copied."""
        self._ready: Any = None
        """Set on the device when the state is what it shall be."""
        if memory.pinned:
            self._ready, self._device = torch.cuda.Event(), torch.cuda.current_device()  # type: ignore[no-untyped-call]

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        """Takes the contents of a file. All but large tensors is copied here."""
        found: dict[int, Any] = {}
        for part, value in state_dict.items():
            for tensor in _tensors(value):
                found[id(tensor)] = self._copy(tensor, at_once=part not in CHANGED_BY_A_STEP)
        # deepcopy leaves out what it believes to have copied before.
        self.files[Path(path).name] = copy.deepcopy(state_dict, found)
        if self._ready is not None:
            self._ready.record()

    def copy_rest(self) -> None:
        """Copies what may be copied later, and sets `copied`. Called once, by any thread."""
        try:
            if self._ready is None:
                for source, target in map(self._copies.__getitem__, self._later):
                    _bytes(target).copy_(_bytes(source))
            else:
                self._copy_by_device()
        finally:
            self._copies.clear()
            self.copied.set()

    def _copy_by_device(self) -> None:
        """Copies beside what training has the device do. A thread has a device of its own, so the process's is named."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            self._ready.wait(stream)
            for source, target in map(self._copies.__getitem__, self._later):
                _bytes(target).copy_(_bytes(source), non_blocking=True)
        stream.synchronize()

    def _copy(self, tensor: Tensor, at_once: bool) -> Tensor:
        """The same view of a copy of the tensor's storage."""
        source = tensor.untyped_storage()
        key = source._cdata
        if key not in self._copies:
            self._copies[key] = source, self.memory.buffer(len(self._copies), source.nbytes())
            self._later.add(key)
        target = self._copies[key][1]
        if key in self._later and (at_once or key in self._changing):
            self._later.remove(key)
            _bytes(target).copy_(_bytes(source))
        made = torch.empty(0, dtype=tensor.dtype)
        made.set_(target, tensor.storage_offset(), tensor.shape, tensor.stride())
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(made, tensor.requires_grad)
        return made.requires_grad_(tensor.requires_grad)

    # What DeepSpeed asks of a checkpoint engine besides. Files are written elsewhere, and committed elsewhere.

    def create(self, info: CheckpointCommitInfo) -> None:
        pass

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        pass

    def load(self, path: str, map_location: Any = None) -> Any:
        raise NotImplementedError(f"{path}: this one only saves")

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True


def _bytes(storage: UntypedStorage) -> Tensor:
    """A storage as a tensor of bytes. Unlike storages, tensors are copied without keeping Python from running other threads."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def write_hashed(state: Any, path: Path) -> tuple[int, str]:
    """Writes a file of a checkpoint to local disk. Returns its size and its SHA-256, taken on the way. Raises OSError."""
    with path.open("wb", buffering=0) as file:
        hashed = _Hashed(file)
        torch.save(state, hashed)  # type: ignore[arg-type]
        if hashed.failed is not None:
            raise hashed.failed
    return hashed.size, hashed.digest.hexdigest()


class _Hashed:
    """A file that is only written to. An error is kept: torch's writer cannot pass it on."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()
        self.failed: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.failed is None:
            try:
                self._write(memoryview(data))
            except OSError as error:
                self.failed = error
        return len(data)

    def flush(self) -> None:
        pass

    def _write(self, data: memoryview) -> None:
        self.digest.update(data)
        self.size += len(data)
        while data:
            data = data[self.file.write(data) :]


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries, lists and tuples. Others, inside of objects, are copied with these."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)
