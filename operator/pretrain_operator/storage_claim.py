"""Which of several jobs may write below a storage URI: the oldest that is not finished."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pretrain_operator.conditions import is_true
from pretrain_operator.observed import Body


def bucket(job: Body) -> str | None:
    """What jobs are grouped by that could get in each other's way; None if the spec names no storage that is known."""
    uri = _uri(job)
    return uri.split("/")[2] if uri.startswith("s3://") else None


def holder(job: Body, rivals: Iterable[Body]) -> Body | None:
    """The job that holds the storage in place of this one; None if this one may use it."""
    older = [rival for rival in rivals if _unfinished(rival) and _overlap(job, rival) and _age(rival) < _age(job)]
    return min(older, key=_age, default=None)


def _unfinished(job: Body) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return not is_true(conditions, "Succeeded") and not is_true(conditions, "Failed")


def _overlap(job: Body, rival: Body) -> bool:
    """Whether one's folder is the other's, or lies below it. The same bucket name at two services is two buckets."""
    if _storage(job).get("endpointURL") != _storage(rival).get("endpointURL"):
        return False
    mine, other = _folder(job), _folder(rival)
    return mine.startswith(other) or other.startswith(mine)


def _folder(job: Body) -> str:
    return _uri(job).rstrip("/") + "/"


def _uri(job: Body) -> str:
    return str(_storage(job).get("uri") or "")


def _storage(job: Body) -> dict[str, Any]:
    return (job.get("spec") or {}).get("storage") or {}


def _age(job: Body) -> tuple[str, bool, str]:
    """Older first. Of jobs made in the same second, the one that was accepted, for it may be at work; else the uid decides."""
    metadata = job["metadata"]
    accepted = is_true((job.get("status") or {}).get("conditions") or [], "Accepted")
    return metadata.get("creationTimestamp") or "", not accepted, metadata.get("uid") or ""
