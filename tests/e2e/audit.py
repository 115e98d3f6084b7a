"""What an operator asked of the API server, from the server's own audit log (PRETRAIN_AUDIT_LOG: its path, one JSON a line).

Any policy that logs all requests at level Metadata will do. Server-side apply is verb `patch`, whether it creates or changes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

READS = ("get", "list", "watch")


@dataclass(frozen=True)
class Request:
    """One request, once it was answered; a watch, when it was begun and when it was over."""

    verb: str
    group: str
    resource: str
    """With its subresource: pretrainjobs/status."""
    namespace: str | None
    name: str | None
    code: int
    time: datetime

    @property
    def writes(self) -> bool:
        return self.verb not in READS


def requests(*, user: str | None = None, agent: str | None = None, since: datetime | None = None) -> list[Request]:
    """What a user, or whoever calls himself by this agent, asked for, in order. Skips the test where there is no audit log."""
    path = os.environ.get("PRETRAIN_AUDIT_LOG")
    if not path:
        pytest.skip("PRETRAIN_AUDIT_LOG is not set: it names the API server's audit log, in which requests are counted")
    wanted = [f'"{field}":"{value}"' for field, value in (("username", user), ("userAgent", agent)) if value is not None]
    found = [_request(json.loads(line)) for line in _lines(Path(path)) if all(word in line for word in wanted)]
    return [request for request in found if since is None or request.time >= since]


def _lines(log: Path) -> Iterator[str]:
    """Of the log, after those of the files that it was rotated into: audit-2026-01-02T03-04-05.678.jsonl beside audit.jsonl."""
    for path in (*sorted(log.parent.glob(f"{log.stem}-*{log.suffix}")), log):
        with path.open(encoding="utf-8") as lines:
            yield from lines


@pytest.fixture(scope="session", autouse=True)
def began() -> datetime:
    """When the session began, for `since`."""
    return now()


def now() -> datetime:
    """For `since`; where the API server is another machine, its clock and ours have to agree to a second or so."""
    return datetime.now(UTC)


def _request(entry: dict[str, Any]) -> Request:
    code = int(entry.get("responseStatus", {}).get("code", 0))
    match entry:
        case {"verb": str(verb), "objectRef": {"resource": str(resource)}, "requestReceivedTimestamp": str(time)}:
            what = entry["objectRef"]
            return Request(
                verb=verb,
                group=what.get("apiGroup", ""),
                resource="/".join([resource, *([what["subresource"]] if "subresource" in what else [])]),
                namespace=what.get("namespace"),
                name=what.get("name"),
                code=code,
                time=datetime.fromisoformat(time),
            )
        case {"verb": str(verb), "requestURI": str(uri), "requestReceivedTimestamp": str(time)}:
            return Request(verb, "", uri, None, None, code, datetime.fromisoformat(time))
    raise AssertionError(f"not an entry of an audit log: {entry}")
