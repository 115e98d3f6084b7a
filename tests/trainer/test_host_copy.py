"""The copy of an engine's state, and the files that are written from it."""

from __future__ import annotations

import errno
import hashlib
import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_trainer.host_copy import HostCopy, HostMemory, write_hashed
from torch import nn


class Net(nn.Module):
    """A parameter, and a buffer that a pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).view(2, 3))
        self.register_buffer("seen", torch.zeros(2))


def copied(state: dict[str, Any], module: nn.Module | None = None) -> Any:
    copy = HostCopy(HostMemory(pinned=False), module or Net())
    copy.save(state, "folder/file.pt")
    copy.copy_rest()
    assert copy.copied.is_set()
    return copy.files["file.pt"]


def written(state: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def test_what_is_written_is_what_would_be_of_the_state_itself(tmp_path: Path) -> None:
    """Views of one storage, a parameter, an empty tensor, tied ones, and what is no tensor."""
    net, flat = Net(), torch.randn(1000)
    state = {
        "module": net.state_dict(),
        "optimizer": {"groups": [flat[:400], flat[400:].view(20, 30).T], "master": net.weight, "none": torch.empty(0)},
        "tied": (flat, flat),
        "settings": OrderedDict(rate=0.1, names=["a", "b"]),
    }
    size, sha256 = write_hashed(copied(state, net), tmp_path / "file.pt")
    data = (tmp_path / "file.pt").read_bytes()
    assert data == written(state)
    assert (size, sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_what_a_pass_may_change_is_copied_at_once_and_the_rest_until_the_update() -> None:
    net, ours, settings = Net(), torch.ones(3), {"rate": [0.1]}
    copy = HostCopy(HostMemory(pinned=False), net)
    copy.save({"module": net.state_dict(), "ours": ours, "settings": settings, "lists": [net.weight]}, "file.pt")
    net.get_buffer("seen").fill_(7)
    ours.fill_(7)
    settings["rate"][0] = 7
    assert not copy.copied.is_set()
    copy.copy_rest()
    state = copy.files["file.pt"]
    assert state["module"]["seen"].tolist() == [0, 0]
    assert state["ours"].tolist() == [1, 1, 1]
    assert state["settings"] == {"rate": [0.1]}
    with torch.no_grad():
        net.weight.fill_(7)
    assert state["module"]["weight"].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert state["module"]["weight"].data_ptr() == state["lists"][0].data_ptr()


def test_tensors_that_are_made_only_to_be_saved_are_told_apart() -> None:
    """Those of the first file are gone when the second comes, and its tensors may lie where they lay."""
    copy = HostCopy(HostMemory(pinned=False), Net())
    for file in range(20):
        copy.save({"client": [torch.full((50,), float(file)) for _ in range(20)]}, f"{file}.pt")
    copy.copy_rest()
    for file in range(20):
        assert all((tensor == file).all() for tensor in copy.files[f"{file}.pt"]["client"])


def test_memory_is_used_again() -> None:
    memory, state = HostMemory(pinned=False), {"optimizer": [torch.ones(10), torch.zeros(5)]}
    places = []
    for _ in range(2):
        copy = HostCopy(memory, Net())
        copy.save(state, "file.pt")
        copy.copy_rest()
        places.append([tensor.data_ptr() for tensor in copy.files["file.pt"]["optimizer"]])
        state["optimizer"] = [tensor + 1 for tensor in state["optimizer"]]
    assert places[0] == places[1]
    copy = HostCopy(memory, Net())
    copy.save({"optimizer": [torch.ones(30)]}, "file.pt")
    copy.copy_rest()
    assert copy.files["file.pt"]["optimizer"][0].tolist() == [1] * 30


def test_a_full_disk_is_an_error_of_the_disk() -> None:
    with pytest.raises(OSError, match="No space left") as told:
        write_hashed({"a": torch.ones(100_000)}, Path("/dev/full"))
    assert told.value.errno == errno.ENOSPC
