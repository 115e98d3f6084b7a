"""What can become of a request to the API server, by what there is to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNTYPED = "failed to create typed patch object"
"""What the API server says, with code 500, of an applied object with an unknown or mistyped field."""
MOST_OF_A_SENTENCE = 1_500
"""Characters of the server's answer that are passed on."""


class Failure(Exception):
    """A request that came to nothing. The message names the object, says why, and what to do."""


class Gone(Failure):
    """There is no such object (404)."""


class Stale(Failure):
    """The object is another one, or changed meanwhile (409): look again."""


class Taken(Failure):
    """The object, or a field of it, is somebody else's (409)."""


class Refused(Failure):
    """The API server will not do this, however often it is asked (400, 403, 422 and their like)."""


class Unavailable(Failure):
    """The API server cannot do this now (429, 5xx, no answer)."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the server asked to wait."""


class NotLeading(Failure):
    """This process may not write now: its Lease is not sure to be its own."""


def failure(doing: str, code: int, answer: Mapping[str, Any], retry_after: str | None) -> Failure:
    """What an answer other than 2xx means. doing: what was asked for, such as `apply Job team/small-clean`."""
    said = " ".join(str(answer.get("message") or f"HTTP {code}").split())[:MOST_OF_A_SENTENCE]
    sentence = f"the API server refused to {doing}: {said}"
    match code:
        case 404:
            return Gone(f"{sentence}; it is gone, or its kind is not installed")
        case 409 if _owned_by_others(answer):
            return Taken(f"{sentence}; let the other manager give these fields up, or delete the object")
        case 409 | 410:
            return Stale(f"{sentence}; it is looked at again")
        case 403 if "being terminated" in said:
            return Refused(f"{sentence}; create the job in another namespace")
        case 403 if "exceeded quota" in said:
            return Refused(f"{sentence}; raise the quota, or lower what the job asks for")
        case 403:
            return Refused(f"{sentence}; grant this to the operator's service account, or change the policy that forbids it")
        case 401:
            return Unavailable(f"{sentence}; check the operator's service account")
        case 429 | 500 | 502 | 503 | 504 if UNTYPED not in said:
            return Unavailable(f"the API server could not {doing}: {said}; it is tried again", _seconds(retry_after))
        case _ if code > 500:
            return Unavailable(f"the API server could not {doing}: {said}; it is tried again", _seconds(retry_after))
        case _:
            return Refused(
                f"{sentence}; correct the field that it names in the job, or report this as a fault of the operator"
            )


def unreachable(doing: str, error: BaseException) -> Unavailable:
    """No answer at all."""
    cause = " ".join(str(error).split())[:MOST_OF_A_SENTENCE] or type(error).__name__
    return Unavailable(f"the API server could not be asked to {doing}: {cause}; it is tried again")


def _owned_by_others(answer: Mapping[str, Any]) -> bool:
    """Whether a server-side apply met fields of another manager."""
    causes = (answer.get("details") or {}).get("causes") or []
    return any(cause.get("reason") == "FieldManagerConflict" for cause in causes)


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header in seconds. The other form, a date, is not used by the API server."""
    try:
        return None if retry_after is None else max(0.0, float(retry_after))
    except ValueError:
        return None
