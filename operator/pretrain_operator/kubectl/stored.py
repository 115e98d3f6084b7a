"""`checkpoints`: what a job has committed to its storage, read from there with the user's own credentials.

The cluster's Secret is not read: whoever may list a job need not be allowed to read its storage.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from pretrain_stage import config
from pretrain_stage.errors import CorruptError, StorageError
from pretrain_stage.section import parse
from pretrain_stage.storage import Entry, Storage, open_storage, verify
from pretrain_trainer import checkpoint
from pretrain_trainer.checkpoint import CheckpointManifest, Folder, RankFile

from pretrain_operator.check import size
from pretrain_operator.kubectl.connection import Body, Cluster
from pretrain_operator.kubectl.plain import plain
from pretrain_operator.kubectl.refusal import ClusterError

CONNECT_SECONDS = 5.0
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Stored:
    """One checkpoint, as far as it is there."""

    step: int
    tokens: int | None
    size: int
    """Bytes of all its files."""
    time: datetime | None
    """When it was committed, or last written to."""
    processes: int | None
    loss: float | None
    fault: str
    """Why it does not verify; empty if it does."""


def print_checkpoints(
    cluster: Cluster, name: str, namespace: str, endpoint: str | None, *, deep: bool, as_json: bool
) -> None:
    """Prints the job's checkpoints, the newest first. deep: reads every byte. Raises StorageError with what to do."""
    storage = storage_of(cluster.job(name, namespace), namespace, endpoint)
    found = [one for place in checkpoint.folders(storage) if (one := stored(storage, place, deep=deep)) is not None]
    if as_json:
        print(json.dumps({"storage": storage.uri, "checkpoints": [_as_json(one) for one in found]}, indent=2))
        return
    if not found:
        print(f"no checkpoints in {storage.uri}/{checkpoint.ROOT}", file=sys.stderr)
        return
    for line in table(found):
        print(line)
    for one in found:
        if one.fault:
            print(f"note: step {one.step}: {plain(one.fault)}", file=sys.stderr)


def stored(storage: Storage, place: Folder, *, deep: bool) -> Stored | None:
    """One checkpoint: by its marker, its manifest and the sizes of its files; `deep` by their SHA-256 too.

    None for a folder without files: some servers keep the name of one whose last file was deleted.
    """
    there = {entry.path: entry for entry in storage.entries(str(place))}
    if not there:
        return None
    bytes_there = sum(entry.size for entry in there.values())
    times = [entry.modified for entry in there.values()]
    try:
        manifest = checkpoint.read_checkpoint(storage, place)
    except CorruptError as error:
        return Stored(place.step, None, bytes_there, max(times, default=None), None, None, str(error))
    fault = next((wrong for file in manifest.files if (wrong := _fault(storage, manifest, file, there, deep=deep))), "")
    marker = there.get(f"{manifest.folder}/{checkpoint.MARKER}")
    loss = manifest.measures.get("loss")
    return Stored(
        place.step, manifest.tokens, bytes_there, marker.modified if marker else None, manifest.world_size, loss, fault
    )


def table(found: list[Stored]) -> list[str]:
    """The checkpoints as lines of text."""
    rows = [("STEP", "TOKENS", "SIZE", "TIME", "PROCESSES", "LOSS", "VERIFIED"), *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(one: Stored) -> tuple[str, ...]:
    return (
        str(one.step),
        "" if one.tokens is None else f"{one.tokens:,}",
        size(one.size),
        "" if one.time is None else f"{one.time.astimezone():%Y-%m-%d %H:%M:%S}",
        "" if one.processes is None else str(one.processes),
        "" if one.loss is None else f"{one.loss:.4f}",
        "no" if one.fault else "yes",
    )


def _fault(storage: Storage, manifest: CheckpointManifest, file: RankFile, there: dict[str, Entry], *, deep: bool) -> str:
    """What is wrong with a file of a checkpoint."""
    path = f"{manifest.folder}/{file.name}"
    entry = there.get(path)
    if entry is None:
        return f"{storage.uri}/{path}: missing"
    if entry.size != file.size:
        return f"{storage.uri}/{path}: {entry.size} bytes, its manifest says {file.size}"
    if deep:
        try:
            verify(storage, path, file.size, file.sha256)
        except CorruptError as error:
            return str(error)
    return ""


def _as_json(one: Stored) -> dict[str, Any]:
    return {
        "step": one.step,
        "tokens": one.tokens,
        "bytes": one.size,
        "time": None if one.time is None else one.time.isoformat(),
        "processes": one.processes,
        "loss": one.loss,
        "verified": not one.fault,
        "fault": one.fault or None,
    }


def storage_of(job: Body, namespace: str, endpoint: str | None) -> Storage:
    """The storage of a job in a cluster, as it can be reached from here. Raises StorageError if it cannot."""
    uri = str(job["spec"]["storage"]["uri"])
    if not uri.startswith("s3://"):
        raise ClusterError(f"spec.storage.uri: {uri} is a folder of some pod; only s3:// can be read from here")
    return reachable_storage(job["spec"]["storage"], namespace, endpoint)


def reachable_storage(storage: dict[str, Any], namespace: str, endpoint: str | None) -> Storage:
    """What `spec.storage` of a job in that namespace says is in S3. Raises StorageError if it cannot be reached from here."""
    section = parse(config.Storage, storage, "spec.storage")
    if endpoint is not None:
        section = parse(config.Storage, storage | {"endpointURL": endpoint}, "--endpoint")
    if section.endpoint_url is not None:
        _check_credentials(section, namespace)
        _check_endpoint(section.endpoint_url, namespace, given=endpoint is not None)
    return open_storage(section)


def _check_credentials(section: config.Storage, namespace: str) -> None:
    """Without credentials a service that is not AWS would be asked for nothing in vain, for a minute."""
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not os.environ.get(name)]
    if not missing:
        return
    secret = section.credentials_secret_ref
    take = (
        ""
        if secret is None
        else (
            f"; the job's are in Secret {secret.name}, and who may read it can take them from there: "
            + "; ".join(
                f"export {name}=$(kubectl -n {namespace} get secret {secret.name} -o jsonpath='{{.data.{name}}}' | base64 -d)"
                for name in missing
            )
        )
    )
    raise StorageError(f"storage: {' and '.join(missing)} not set in the environment, needed to read {section.uri}{take}")


def _check_endpoint(url: str, namespace: str, *, given: bool) -> None:
    """Raises StorageError, with the way in, unless something answers at the address."""
    field = "--endpoint" if given else "spec.storage.endpointURL"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    except ValueError:
        raise StorageError(f"{field}: {url} is no address; correct it") from None
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise StorageError(
            f"{field}: {url} does not answer from here ({why}); {_way_in(host, port, parts.scheme, namespace)}",
            temporary=True,
        ) from None


def _way_in(host: str, port: int, scheme: str, own: str) -> str:
    """How to reach an address that may be one inside the cluster. own: namespace of the job, where a bare name is looked for."""
    labels = host.removesuffix(".cluster.local").removesuffix(".svc").split(".")
    inside = host.endswith((".svc", ".svc.cluster.local")) or "." not in host
    if not inside or host == "localhost":
        return "check that it runs and that this machine reaches it, or give another address with --endpoint"
    namespace = f"-n {labels[1]} " if len(labels) > 1 else f"-n {own} "
    return (
        f"it is an address inside the cluster: run `kubectl {namespace}port-forward service/{labels[0]} {port}:{port}` beside this, "
        f"and add --endpoint {scheme}://127.0.0.1:{port}"
    )
