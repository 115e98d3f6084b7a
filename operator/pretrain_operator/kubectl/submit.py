"""`submit`: PretrainJobs from files, server-side applied. The API server is the judge of what is in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pretrain_stage.errors import UserError

from pretrain_operator.api import GROUP, KIND, VERSION, check_in_cluster, parse_job
from pretrain_operator.kubectl import objects
from pretrain_operator.kubectl.connection import Body, Cluster, checked_name
from pretrain_operator.kubectl.plain import plain
from pretrain_operator.kubectl.refusal import ClusterError, Refusal, conflicting_fields, explained, refused_job

STDIN = Path("-")
LARGEST_FILE = 3 * 2**20
"""Bytes. The API server takes no larger request."""

OF_THE_CLUSTER = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")
"""Metadata that the API server writes: a job that it printed can be given back."""


@dataclass(frozen=True)
class Manifest:
    """One PretrainJob of a file."""

    where: str
    body: Body

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.body["metadata"]["namespace"])


def submit(
    cluster: Cluster,
    files: Sequence[Path],
    namespace: str | None,
    form: objects.Format | None,
    *,
    dry_run: bool,
    force: bool,
) -> list[Manifest]:
    """Applies all jobs of all files, and says what became of each; nothing is applied if one of them is refused.

    namespace: as given with -n. Returns what was applied. Raises ClusterError with every field that the API server refuses.
    """
    manifests = [manifest for file in files for manifest in read_manifests(file, namespace, cluster.namespace)]
    for manifest in manifests:
        _applied(cluster, manifest, dry_run=True, force=force)
    results = []
    for manifest in manifests:
        before = cluster.find_job(manifest.name, manifest.namespace)
        after = _applied(cluster, manifest, dry_run=dry_run, force=force)
        results.append(after)
        if form is None:
            outcome = _outcome(before, after)
            print(f"{KIND.lower()}.{GROUP}/{manifest.name} {outcome}{' (server dry run)' if dry_run else ''}")
    if form is not None:
        sys.stdout.write(objects.one(results[0], form) if len(results) == 1 else objects.many(results, form))
    sys.stdout.flush()
    return manifests


def read_manifests(file: Path, given: str | None, default: str) -> list[Manifest]:
    """The PretrainJobs in a YAML or JSON file, each with a name and namespace that a path may be made of.

    given: the namespace that was asked for. Raises UserError for what is no PretrainJob.
    """
    where = "standard input" if file == STDIN else str(file)
    documents = [_with_name(document, where, given, default) for document in _documents(file, where)]
    if not documents:
        raise UserError(f"{where}: is empty; give the file of a PretrainJob")
    return documents


def _documents(file: Path, where: str) -> Iterator[Any]:
    try:
        data = sys.stdin.buffer.read(LARGEST_FILE + 1) if file == STDIN else file.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: cannot be read ({error}); give the file of a PretrainJob") from None
    if len(data) > LARGEST_FILE:
        raise UserError(f"{where}: is larger than {LARGEST_FILE >> 20} MiB; give the file of a PretrainJob")
    try:
        for document in yaml.safe_load_all(text):
            if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
                yield from document["items"]
            elif document is not None:
                yield document
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where}: not YAML ({plain(str(error))}); correct it") from None


def _with_name(document: Any, where: str, given: str | None, default: str) -> Manifest:
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(document, dict) or kind != KIND:
        raise UserError(f"{where}: kind: {kind!r} is no {KIND}; apply other objects with kubectl")
    version = document.get("apiVersion")
    if version != f"{GROUP}/{VERSION}":
        raise UserError(f"{where}: apiVersion: {version!r} is not {GROUP}/{VERSION}; correct it")
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise UserError(f"{where}: metadata.name: missing; give the job a name")
    name = checked_name(metadata["name"], f"{where}: metadata.name")
    namespace = metadata.get("namespace") or given or default
    checked_name(str(namespace), f"{where}: metadata.namespace")
    if given is not None and namespace != given:
        raise UserError(f"--namespace: {given} was asked for, but {where} says metadata.namespace: {namespace}; change one")
    own = {key: value for key, value in metadata.items() if key not in OF_THE_CLUSTER}
    return Manifest(
        where,
        {key: value for key, value in document.items() if key != "status"}
        | {"metadata": {**own, "name": name, "namespace": namespace}},
    )


def _applied(cluster: Cluster, manifest: Manifest, *, dry_run: bool, force: bool) -> Body:
    answer = cluster.apply_job(manifest.body, dry_run=dry_run, force=force)
    if not isinstance(answer, Refusal):
        return answer
    if answer.status == 409 and conflicting_fields(answer):
        fields = ", ".join(f"{path} ({plain(owner)})" for path, owner in conflicting_fields(answer).items())
        raise ClusterError(
            f"{manifest.where}: {manifest.name} has fields that were set otherwise: {fields}; leave them out of the file, or take "
            "them over with --force-conflicts",
            status=409,
        )
    refused = refused_job(answer, manifest.where, _local_faults(manifest))
    raise refused if refused is not None else explained(answer, f"submit pretrainjob {manifest.name}", manifest.namespace)


def _local_faults(manifest: Manifest) -> str | None:
    """What the check without a cluster says of the manifest."""
    try:
        check_in_cluster(parse_job(manifest.body, manifest.where))
    except UserError as error:
        return str(error)
    return None


def _outcome(before: Body | None, after: Body) -> str:
    if before is None:
        return "created"
    return "unchanged" if before.get("spec") == after.get("spec") else "configured"
