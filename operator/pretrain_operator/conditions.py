"""Conditions of a PretrainJob, in the shape of metav1.Condition: all five are there from the first reconcile on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pretrain_operator.status import Condition

TYPES = ("Accepted", "Progressing", "Suspended", "Succeeded", "Failed")
LONGEST_MESSAGE = 4_000


@dataclass(frozen=True)
class Finding:
    """What a condition is to say."""

    type: Literal["Accepted", "Progressing", "Suspended", "Succeeded", "Failed"]
    status: bool
    reason: str
    message: str


def conditions(before: Sequence[Condition], findings: Iterable[Finding], generation: int, now: datetime) -> list[Condition]:
    """The conditions that say these findings; the time is that of the last change of `status`."""
    earlier = {condition.type: condition for condition in before}
    return [_condition(earlier.get(finding.type), finding, generation, now) for finding in findings]


def is_true(conditions: Iterable[Mapping[str, Any]], kind: str) -> bool:
    """Whether a condition, as the API server has it, is true. For resources of any kind."""
    return any(condition.get("type") == kind and condition.get("status") == "True" for condition in conditions)


def timestamp(time: datetime) -> str:
    """RFC 3339, in whole seconds, as Kubernetes writes times."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str | None) -> datetime | None:
    """The time that a timestamp of Kubernetes says; None for none."""
    return None if text is None else datetime.fromisoformat(text)


def _condition(before: Condition | None, finding: Finding, generation: int, now: datetime) -> Condition:
    status: Literal["True", "False"] = "True" if finding.status else "False"
    unchanged = before is not None and before.status == status
    return Condition(
        type=finding.type,
        status=status,
        observedGeneration=generation,
        lastTransitionTime=before.last_transition_time if before is not None and unchanged else timestamp(now),
        reason=finding.reason,
        message=shortened(finding.message, LONGEST_MESSAGE),
    )


def shortened(text: str, most: int) -> str:
    """The text, cut where it is too long for its field."""
    return text if len(text) <= most else text[: most - 2] + " …"
