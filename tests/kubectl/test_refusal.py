"""What API servers answer, as sentences. The answers here are such as Kubernetes 1.34 gave."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pretrain_operator.api import parse_job
from pretrain_operator.kubectl.refusal import conflicting_fields, explained, read_refusal, refused_job
from pretrain_stage.errors import UserError

from tests.operator.jobs import job

INVALID_VALUES = [
    ("spec.training.nodes", "Invalid value: 0: spec.training.nodes in body should be greater than or equal to 1"),
    ("spec.corpus", 'Invalid value: "object": parallelism must not exceed tasks; lower parallelism or raise tasks'),
    ("spec", "Forbidden: model is immutable; create another PretrainJob"),
    ("spec.model.preset", 'Unsupported value: "llama9": supported values: "tiny", "small"'),
    ("spec.storage", "Required value"),
]


def answer(code: int, message: str = "", reason: str = "", **details: Any) -> bytes:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}
    return json.dumps(status | ({"details": details} if details else {})).encode()


def causes(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"field": field, "message": message, "reason": "FieldValueInvalid"} for field, message in pairs]


def local(manifest: dict[str, Any]) -> str | None:
    try:
        parse_job(manifest, "job.yaml")
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("code", "body", "sentence", "exit_code"),
    [
        (404, b"404 page not found\n", "the cluster does not know PretrainJobs; install", 1),
        (404, answer(404, reason="NotFound", kind="pretrainjobs", name="x"), "there is no pretrainjob x in namespace team", 1),
        (404, answer(404, reason="NotFound", kind="namespaces", name="team"), "there is no namespace team; create it", 1),
        (401, answer(401, "Unauthorized"), "does not accept the credentials", 1),
        (403, answer(403, 'User "me" cannot get resource'), 'User "me" cannot get resource; ask whoever', 1),
        (409, answer(409, "object was modified"), "object was modified", 1),
        (400, answer(400, "bad selector"), "bad selector", 65),
        (413, answer(413, "too large"), "too large", 65),
        (429, answer(429, "slow down"), "answers 429 (slow down); try again", 75),
        (500, b"<html>proxy</html>", "answers 500 (<html>proxy</html>); try again", 75),
        (503, b"", "answers 503 (no reason given); try again", 75),
        (302, b"", "the cluster answers 302", 1),
    ],
)  # fmt: skip
def test_every_answer_is_a_sentence_and_a_code(code: int, body: bytes, sentence: str, exit_code: int) -> None:
    error = explained(read_refusal(code, body), "read pretrainjob x", "team")
    assert sentence in str(error)
    assert error.exit_code == exit_code


def test_a_hostile_answer_stays_text() -> None:
    error = explained(read_refusal(403, answer(403, "\x1b]0;owned\x07no\nway\x9b2J")), "list pretrainjobs", None)
    assert "no way;" in str(error)
    assert str(error).isprintable()


def test_invalid_values() -> None:
    refusal = read_refusal(422, answer(422, "long", "Invalid", causes=causes(INVALID_VALUES)))
    error = refused_job(refusal, "job.yaml", None)
    assert error is not None
    assert error.exit_code == 65
    assert str(error).removeprefix("job.yaml: ").split("; spec") == [
        "spec.training.nodes: 0: should be greater than or equal to 1",
        ".corpus: parallelism must not exceed tasks; lower parallelism or raise tasks",
        ": model is immutable; create another PretrainJob",
        '.model.preset: "llama9": supported values: "tiny", "small"',
        ".storage: Required value",
    ]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("failed to create typed patch object (team/a; pretrain.dev/v1alpha1, Kind=PretrainJob): "
         "errors:\n  .spec.training.nodez: field not declared in schema\n  .spec.corpus.task: field not declared in schema", 500),
        ('PretrainJob in version "v1alpha1" cannot be handled as a PretrainJob: strict decoding error: '
         'unknown field "spec.training.nodez", unknown field "spec.corpus.task"', 400),
    ],
)  # fmt: skip
def test_unknown_fields_get_a_guess_from_the_local_check(message: str, code: int) -> None:
    manifest = job({"training.nodez": 2, "corpus.task": 1, "training.sequenceLength": "x"})
    error = refused_job(read_refusal(code, answer(code, message)), "job.yaml", local(manifest))
    assert str(error) == (
        "job.yaml: spec.corpus.task: unknown field; did you mean tasks?; spec.training.nodez: unknown field; did you mean nodes?"
    )
    assert str(refused_job(read_refusal(code, answer(code, message)), "job.yaml", None)) == (
        "job.yaml: spec.corpus.task: unknown field; spec.training.nodez: unknown field"
    )


def test_a_wrong_type() -> None:
    message = "failed to create typed patch object (team/a; pretrain.dev/v1alpha1, Kind=PretrainJob): .spec.training: expected map, got &{[1]}"
    error = refused_job(read_refusal(500, answer(500, message)), "job.yaml", None)
    assert str(error) == "job.yaml: spec.training: expected map, got &{[1]}"


def test_what_only_this_program_would_refuse_is_not_said() -> None:
    """The cluster may know a field that this program does not."""
    refusal = read_refusal(422, answer(422, "x", "Invalid", causes=causes(INVALID_VALUES[:1])))
    error = refused_job(refusal, "job.yaml", local(job({"training.nodes": 0, "training.newField": 1})))
    assert "newField" not in str(error)
    assert "spec.training.nodes: 0: input should be greater than or equal to 1" in str(error)


@pytest.mark.parametrize("code", [401, 403, 404, 409, 429, 503])
def test_other_answers_are_not_about_the_job(code: int) -> None:
    assert refused_job(read_refusal(code, answer(code, "x")), "job.yaml", "job.yaml: spec.a: unknown field") is None
    assert refused_job(read_refusal(500, answer(500, "etcd is away")), "job.yaml", None) is None


def test_conflicts_name_field_and_owner() -> None:
    conflict = [(".spec.training.tokens", 'conflict with "kubectl-edit" using pretrain.dev/v1alpha1')]
    refusal = read_refusal(409, answer(409, "Apply failed", "Conflict", causes=causes(conflict)))
    assert conflicting_fields(refusal) == {"spec.training.tokens": "kubectl-edit"}
