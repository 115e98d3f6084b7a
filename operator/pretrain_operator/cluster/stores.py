"""What the operator knows of the cluster: objects by kind and name, kept by lists and watches, and by its own writes.

Nothing is read from the API server to decide about a job. An object is replaced by a newer version only, whichever way each
came; a deleted one does not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pretrain_operator.conditions import is_true
from pretrain_operator.names import JOB_LABEL
from pretrain_operator.observed import Body, Observed
from pretrain_operator.resources import CONFIG_MAPS, JOBS, PODS, PRETRAIN_JOBS, PYTORCH_JOBS, STORED, Resource

Key = tuple[str, str]
"""Namespace and name."""

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MOST_DELETED = 10_000
"""Deleted objects that are remembered, lest a late answer brings them back."""


class Stores:
    """The objects, by kind and key; the children of a job by its label; PretrainJobs also by bucket."""

    def __init__(self, bucket: Callable[[Body], str | None]) -> None:
        self._bucket = bucket
        self._objects: dict[str, dict[Key, Body]] = {resource.kind: {} for resource in STORED}
        self._children: dict[tuple[str, Key], set[Key]] = {}
        self._buckets: dict[str, set[Key]] = {}
        self._deleted: dict[str, None] = {}

    def put(self, body: Mapping[str, Any]) -> set[Key]:
        """Keeps an object, unless a version as new is kept already. Returns the jobs that this concerns."""
        kept = trimmed(body)
        kind, key = kept["kind"], key_of(kept)
        known = self._objects[kind].get(key)
        if kept["metadata"]["uid"] in self._deleted or (known is not None and version(known) >= version(kept)):
            return set()
        before = set() if known is None else self._forget(known)
        self._objects[kind][key] = kept
        after = self._index(kept)
        same_to_rivals = known is not None and _standing(known) == _standing(kept)
        return {key} if kind == PRETRAIN_JOBS.kind and same_to_rivals else before | after

    def drop(self, body: Mapping[str, Any]) -> set[Key]:
        """Forgets an object that was deleted. Returns the jobs that this concerns."""
        uid = body["metadata"]["uid"]
        self._deleted[uid] = None
        if len(self._deleted) > MOST_DELETED:
            del self._deleted[next(iter(self._deleted))]
        known = self._objects[body["kind"]].get(key_of(body))
        return set() if known is None or known["metadata"]["uid"] != uid else self._forget(known)

    def prune(self, resource: Resource, namespace: str | None, listed: Iterable[Key], list_version: str) -> set[Key]:
        """Drops what a list of that version does not have any more. Returns the jobs that this concerns."""
        present = set(listed)
        missing = [
            body
            for key, body in self._objects[resource.kind].items()
            if namespace in (None, key[0]) and key not in present and version(body) <= int(list_version)
        ]
        return {key for body in missing for key in self.drop(body)}

    def jobs(self) -> set[Key]:
        """All PretrainJobs."""
        return set(self._objects[PRETRAIN_JOBS.kind])

    def job(self, key: Key) -> Body | None:
        """A PretrainJob."""
        return self._objects[PRETRAIN_JOBS.kind].get(key)

    def get(self, kind: str, key: Key) -> Body | None:
        """An object of ours."""
        return self._objects[kind].get(key)

    def observed(self, job: Body) -> Observed:
        """What belongs to a job: by its label, and only if the job, or for pods a workload of the job, controls it.

        Pods whose workload is gone count too: while they end, they still write.
        """
        key = key_of(job)
        workloads, pods = self.children(job)
        rivals = self._buckets.get(self._bucket(job) or "", set()) - {key}
        return Observed(
            workloads=workloads,
            pods=pods,
            config_maps=self._owned(CONFIG_MAPS, key, {job["metadata"]["uid"]}),
            rivals=tuple(self._objects[PRETRAIN_JOBS.kind][rival] for rival in sorted(rivals)),
        )

    def children(self, job: Body) -> tuple[tuple[Body, ...], tuple[Body, ...]]:
        """The job's workloads, and its pods."""
        key, uid = key_of(job), job["metadata"]["uid"]
        workloads = (*self._owned(JOBS, key, {uid}), *self._owned(PYTORCH_JOBS, key, {uid}))
        owners = {workload["metadata"]["uid"] for workload in workloads}
        return workloads, (*self._owned(PODS, key, owners), *self._left_behind(key))

    def _owned(self, resource: Resource, job: Key, owners: set[str]) -> tuple[Body, ...]:
        objects = self._objects[resource.kind]
        labelled = (objects[key] for key in sorted(self._children.get((resource.kind, job), ())))
        return tuple(body for body in labelled if controller(body) in owners)

    def _left_behind(self, job: Key) -> tuple[Body, ...]:
        """Pods with a job's label whose workload is not there any more."""
        labelled = (self._objects[PODS.kind][key] for key in sorted(self._children.get((PODS.kind, job), ())))
        return tuple(body for body in labelled if self._controller_is_gone(body))

    def _controller_is_gone(self, pod: Body) -> bool:
        owners = [owner for owner in pod["metadata"].get("ownerReferences") or [] if owner.get("controller")]
        names = [(owner["kind"], (pod["metadata"]["namespace"], owner["name"]), owner["uid"]) for owner in owners]
        workloads = [(self.get(kind, key), uid) for kind, key, uid in names if kind in (JOBS.kind, PYTORCH_JOBS.kind)]
        return any(known is None or known["metadata"]["uid"] != uid for known, uid in workloads)

    def _index(self, body: Body) -> set[Key]:
        """Notes to whom an object belongs. Returns the jobs that it concerns."""
        group, key = self._group(body), key_of(body)
        if group is not None:
            group.add(key)
        if body["kind"] != PRETRAIN_JOBS.kind:
            return _jobs(body)
        return {key} if group is None else set(group)

    def _forget(self, body: Body) -> set[Key]:
        """Takes an object out of everything. Returns the jobs that it concerned."""
        concerned = self._index(body)
        key = key_of(body)
        del self._objects[body["kind"]][key]
        group = self._group(body)
        if group is not None:
            group.discard(key)
        return concerned

    def _group(self, body: Body) -> set[Key] | None:
        """Those that an object is kept with: the children of one kind of a job, the jobs of a bucket."""
        if body["kind"] == PRETRAIN_JOBS.kind:
            bucket = self._bucket(body)
            return None if bucket is None else self._buckets.setdefault(bucket, set())
        return next((self._children.setdefault((body["kind"], job), set()) for job in _jobs(body)), None)


def key_of(body: Mapping[str, Any]) -> Key:
    """Namespace and name of an object."""
    return body["metadata"]["namespace"], body["metadata"]["name"]


def version(body: Mapping[str, Any]) -> int:
    """The version of an object. Of two versions the API server gives the later one the higher number."""
    return int(body["metadata"]["resourceVersion"])


def controller(body: Mapping[str, Any]) -> str | None:
    """Uid of the object that controls this one."""
    owners = body["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def trimmed(body: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what nobody here reads, so that thousands fit into memory."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    if LAST_APPLIED in (metadata.get("annotations") or {}):
        metadata["annotations"] = {name: text for name, text in metadata["annotations"].items() if name != LAST_APPLIED}
    kept = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata}
    match body["kind"]:
        case CONFIG_MAPS.kind:
            return kept
        case PODS.kind:
            spec = {"nodeName": body["spec"]["nodeName"]} if "nodeName" in (body.get("spec") or {}) else {}
            return kept | {"spec": spec, "status": body.get("status") or {}}
        case _:
            return kept | {name: body[name] for name in ("spec", "status") if name in body}


def _jobs(child: Mapping[str, Any]) -> set[Key]:
    """The job that a child's label names."""
    label = (child["metadata"].get("labels") or {}).get(JOB_LABEL)
    return set() if label is None else {(child["metadata"]["namespace"], label)}


def _standing(job: Body) -> tuple[str, bool]:
    """What others of the same bucket look at in a job: which one it is, and whether it is finished."""
    conditions = (job.get("status") or {}).get("conditions") or []
    return job["metadata"]["uid"], is_true(conditions, "Succeeded") or is_true(conditions, "Failed")
