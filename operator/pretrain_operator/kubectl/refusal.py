"""What an API server refuses, as sentences with a remedy, and the exit code that belongs to it. Pure.

The answer's HTTP status decides the code (commands.EXIT_CODES says which). A refused PretrainJob is explained field by field:
where the local check has a sentence about the same field, that is taken, since it has the value and a guess of what was meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pretrain_stage.errors import EXIT_TEMPORARY, EXIT_USER_ERROR, UserError

from pretrain_operator.kubectl.plain import plain

REFUSED = (400, 413, 422)
"""What was sent is wrong: sending it again cannot help."""
TRY_AGAIN = (408, 429)

INSTALL = (
    "the cluster does not know PretrainJobs; install the operator's chart, or its CRD alone, with "
    "`helm install pretrain-operator charts/pretrain-operator`"
)


class ClusterError(UserError):
    """The cluster could not be reached, or refused. The message says what and what to do."""

    def __init__(self, message: str, exit_code: int = 1, status: int = 0) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.status = status
        """The HTTP status of the answer; 0 if there was none."""


@dataclass(frozen=True)
class Refusal:
    """An answer that is no success."""

    status: int
    message: str
    reason: str
    kind: str
    """Resource that the answer is about, in the plural, such as `namespaces`."""
    name: str
    causes: tuple[tuple[str, str], ...]
    """Field path and message of each fault that was found."""
    structured: bool
    """Whether it came from Kubernetes' own handlers. A path that nothing serves is answered with bare text."""


def read_refusal(status: int, body: bytes) -> Refusal:
    """The refusal in the body of an answer: a `Status` object, or text of whatever stands between."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("kind") != "Status":
        return Refusal(status, plain(body[:500].decode(errors="replace")), "", "", "", (), structured=False)
    details = answer.get("details") or {}
    causes = tuple((str(cause.get("field", "")), str(cause.get("message", ""))) for cause in details.get("causes") or ())
    return Refusal(
        status,
        str(answer.get("message", "")),
        str(answer.get("reason", "")),
        str(details.get("kind", "")),
        str(details.get("name", "")),
        causes,
        structured=True,
    )


def explained(refusal: Refusal, action: str, namespace: str | None) -> ClusterError:
    """The error for a refused request. `action` completes "cannot ...", as in "read pretrainjob demo"."""
    where = "" if namespace is None else f" in namespace {namespace}"
    said = plain(refusal.message)
    match refusal.status:
        case 404 if not refusal.structured:
            message = INSTALL
        case 404 if refusal.kind == "namespaces":
            message = f"--namespace: there is no namespace {plain(refusal.name)}; create it, or correct -n"
        case 404:
            message = f"there is no {action.partition(' ')[2]}{where}; `kubectl pretrain list -A` shows all jobs"
        case 401:
            message = f"cannot {action}{where}: the cluster does not accept the credentials of this context; log in again"
        case 403:
            message = f"cannot {action}{where}: {said}; ask whoever runs the cluster for that right"
        case 409:
            message = f"cannot {action}{where}: {said}"
        case 410:
            message = f"cannot {action}{where}: the answer has expired; try again"
        case code if code in TRY_AGAIN or code >= 500:
            message = f"cannot {action}{where}: the cluster answers {code} ({said or 'no reason given'}); try again"
        case code:
            message = f"cannot {action}{where}: {said or f'the cluster answers {code}'}"
    return ClusterError(message, _exit_code(refusal.status), refusal.status)


def refused_job(refusal: Refusal, where: str, local: str | None) -> ClusterError | None:
    """The error for a PretrainJob that the API server refused because of what is in it; None if it refused something else.

    where: the file. local: what the local check has to say about the same file, or None if nothing.
    """
    faults = list(_faults(refusal))
    if not faults:
        return None
    own = [] if local is None else re.split(r"; (?=(?:spec|metadata)\b)", local.removeprefix(f"{where}: "))
    sentences = _merged(faults, (sentence.partition(": ")[::2] for sentence in own))
    return ClusterError(f"{where}: " + "; ".join(sentences), EXIT_USER_ERROR, refusal.status)


def _exit_code(status: int) -> int:
    if status in REFUSED:
        return EXIT_USER_ERROR
    return EXIT_TEMPORARY if status in TRY_AGAIN or status >= 500 or status == 410 else 1


def _faults(refusal: Refusal) -> Iterable[tuple[str, str]]:
    """Field path and sentence of each fault that the API server found in a job."""
    if refusal.status == 422 and refusal.reason == "Invalid":
        for path, message in refusal.causes:
            yield path, _cause(path, message)
    # Server-side apply answers 500 for a field that the schema does not have or that is of another type.
    elif refusal.status == 500 and "typed patch object" in refusal.message:
        # It says several in any order.
        for path, message in sorted(re.findall(r"(?:^\s*|\): )\.(\S+): (.+)$", refusal.message, re.MULTILINE)):
            yield path, "unknown field" if message == "field not declared in schema" else plain(message)
    elif refusal.status == 400 and "strict decoding error" in refusal.message:
        for path in sorted(re.findall(r'unknown field "([^"]+)"', refusal.message)):
            yield path, "unknown field"


def _cause(path: str, message: str) -> str:
    """The message of a cause without what it repeats: `Invalid value: 0: spec.a in body should be ...`."""
    value, sentence = "", message
    found = re.match(r'(?:Invalid|Unsupported) value: (".*?(?<!\\)"|[^:]*): (.*)', message, re.DOTALL)
    if found:
        value, sentence = found.groups()
    sentence = sentence.removeprefix(f"{path} in body ").removeprefix("Forbidden: ")
    # For a whole section the value reads "object", which says nothing.
    return plain(sentence if value in ("", '"object"', "null") else f"{value}: {sentence}")


def _merged(faults: Iterable[tuple[str, str]], own: Iterable[Sequence[str]]) -> list[str]:
    """A sentence for each fault, once; of a field that both judges name, the local check's."""
    sentences: dict[tuple[str, str], None] = {}
    local: dict[str, list[str]] = {}
    for path, sentence in own:
        local.setdefault(path, []).append(sentence)
    for path, sentence in faults:
        for said in local.get(path, [sentence]):
            sentences[path, said] = None
    return [f"{path}: {said}" for path, said in sentences]


def conflicting_fields(refusal: Refusal) -> Mapping[str, str]:
    """Of a server-side apply that others' fields stopped: each field with who owns it."""
    owners = {}
    for path, message in refusal.causes:
        owner = re.search(r'conflict with "([^"]+)"', message)
        owners[path.lstrip(".")] = owner.group(1) if owner else "another"
    return owners
