"""Looks at checkpoints in storage without the trainer's code: what is committed must be whole."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass

import torch
from pretrain_stage.storage import Storage

from tests.faults.schedule import Damage

WEIGHTS = "model_states.pt"


@dataclass(frozen=True)
class Committed:
    """A checkpoint with its marker. wrong: what of it is not as its manifest says; None if all is."""

    folder: str
    step: int
    files: tuple[str, ...]
    """Names of the rank files, sorted."""
    wrong: str | None


def committed(storage: Storage) -> list[Committed]:
    """All checkpoints that have a marker, oldest first."""
    folders = sorted(
        {entry.path.rpartition("/")[0] for entry in storage.entries("checkpoints") if entry.path.endswith("/COMMITTED")}
    )
    found = [_looked_at(storage, folder) for folder in folders]
    return sorted(found, key=lambda one: (one.step, one.folder))


def _looked_at(storage: Storage, folder: str) -> Committed:
    marker, text = (storage.read(f"{folder}/{name}") for name in ("COMMITTED", "manifest.json"))
    step = int(folder.rpartition("/")[2].split("-")[1])
    if marker is None or text is None:
        return Committed(folder, step, (), "manifest.json is missing")
    if hashlib.sha256(text).hexdigest() not in marker.decode():
        return Committed(folder, step, (), "manifest.json is not what COMMITTED says")
    manifest = json.loads(text)
    wrong = None
    for file in manifest["files"]:
        data = storage.read(f"{folder}/{file['name']}")
        if data is None:
            wrong = f"{file['name']} is missing"
        elif (len(data), hashlib.sha256(data).hexdigest()) != (file["size"], file["sha256"]):
            wrong = f"{file['name']} is not what manifest.json says"
    return Committed(folder, manifest["step"], tuple(sorted(file["name"] for file in manifest["files"])), wrong)


def damage(storage: Storage, fault: Damage) -> Committed | None:
    """Damages the newest committed checkpoint, and returns it; None where there is no older one to fall back to."""
    whole = [one for one in committed(storage) if one.wrong is None]
    if len({one.step for one in whole}) < 2:
        return None
    newest = whole[-1]
    number = int(fault.file * len(newest.files))
    path = f"{newest.folder}/{newest.files[number]}"
    data = storage.read(path)
    assert data is not None
    at = int(fault.part * len(data))
    match fault.how:
        case "flip":
            storage.write(path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        case "truncate":
            storage.write(path, data[:at])
        case "remove":
            storage.delete([path])
        case "swap":
            other = storage.read(f"{newest.folder}/{newest.files[(number + 1) % len(newest.files)]}")
            assert other is not None
            storage.write(path, other)
    return newest


def late_commits(storage: Storage) -> tuple[str, ...]:
    """Commits in the log of an attempt after a later one had begun."""
    slots = sorted(entry.path for entry in storage.entries("checkpoints/log"))
    newest, found = 0, []
    for slot in slots:
        line = json.loads(storage.read(slot) or b"{}")
        if line["kind"] == "commit" and line["attempt"] < newest:
            found.append(f"{slot}: attempt {line['attempt']} committed {line['folder']} after attempt {newest} had begun")
        newest = max(newest, line["attempt"])
    return tuple(found)


def weights_digest(storage: Storage, folder: str) -> str:
    """SHA-256 over the weights of the checkpoint that a finished training names: names, shapes and numbers, not the file's layout."""
    (path,) = (entry.path for entry in storage.entries(folder) if entry.path.endswith(WEIGHTS))
    data = storage.read(path)
    assert data is not None
    weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)["module"]
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
