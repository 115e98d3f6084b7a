"""Events as objects of the API server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pretrain_operator.conditions import shortened, timestamp
from pretrain_operator.events import Announcement
from pretrain_operator.observed import Body

COMPONENT = "pretrain-operator"
MOST_CHARACTERS = 1_024
"""Of an Event's message."""
LONGEST_NAME = 253


def event(job: Body, before: Mapping[str, Any], announcement: Announcement, reporter: str, now: datetime) -> dict[str, Any]:
    """The Event that announces something of a job. reporter: which replica says it.

    before: the status that the announced change starts from. It is in the name, so that the same change announced twice,
    by a process that ended before it wrote the new status, is one Event, and a change that comes a second time another.
    """
    metadata = job["metadata"]
    what = [metadata["uid"], announcement.reason, announcement.message, before]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    time = timestamp(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name'][: LONGEST_NAME - 17]}.{digest}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": announcement.type,
        "reason": announcement.reason,
        "message": shortened(announcement.message, MOST_CHARACTERS),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": reporter,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
