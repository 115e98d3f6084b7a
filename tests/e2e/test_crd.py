"""The API server is the judge: of the CRD, of its defaults, and of whether its rules are those of the command line."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pretrain_operator.api import IMMUTABLE, parse_job
from pretrain_operator.crd import crd
from pretrain_stage.errors import UserError

from tests.e2e.kubectl import Kubectl
from tests.operator.jobs import (
    ABSENT,
    BROKEN_FIELDS,
    BROKEN_RULES,
    CHANGES,
    FOLDERS,
    MUTABLE,
    Case,
    changed,
    job,
    prediction,
    task,
)

pytestmark = pytest.mark.e2e

NAME = "customresourcedefinition/pretrainjobs.pretrain.dev"


@pytest.fixture(scope="module", autouse=True)
def definition(kubectl: Kubectl) -> Iterator[None]:
    """The CRD in the cluster; taken away again if it was not there before."""
    existed = kubectl.run("get", NAME).returncode == 0
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=crd())
    kubectl("wait", "--for=condition=Established", NAME, "--timeout=30s")
    yield
    if not existed:
        kubectl.run("delete", NAME)


def test_the_definition_is_accepted_as_it_is(kubectl: Kubectl) -> None:
    conditions = {condition["type"]: condition for condition in kubectl.get(NAME)["status"]["conditions"]}
    assert conditions["Established"]["status"] == "True"
    assert "NonStructuralSchema" not in conditions
    before = kubectl.get(NAME)["metadata"]["resourceVersion"]
    kubectl("apply", "--server-side", "-f", "-", stdin=crd())
    assert kubectl.get(NAME)["metadata"]["resourceVersion"] == before


def test_explain_answers_every_field(kubectl: Kubectl) -> None:
    deadline = time.monotonic() + 60  # the API server publishes a definition's schema some seconds after it is established
    while kubectl.run("explain", "pretrainjob.spec").returncode != 0 and time.monotonic() < deadline:
        time.sleep(1)
    for path in ("spec", "spec.training", "spec.corpus.sources", "spec.finetune", "spec.predict", "status.conditions"):
        assert "<no description>" not in kubectl("explain", f"pretrainjob.{path}")
    assert "everySteps" in kubectl("explain", "pretrainjob.spec.training", "--recursive")


@pytest.mark.parametrize("case", BROKEN_RULES + FOLDERS, ids=lambda case: case.name)
def test_rules_are_refused_with_the_sentence_of_the_command_line(kubectl: Kubectl, case: Case) -> None:
    assert case.sentence in kubectl.refused(job(case.spec))


@pytest.mark.parametrize("case", BROKEN_FIELDS, ids=lambda case: case.name)
def test_wrong_fields_are_refused_by_name(kubectl: Kubectl, case: Case) -> None:
    assert f"spec.{case.sentence}" in kubectl.refused(job(case.spec))


def test_unknown_fields_are_refused(kubectl: Kubectl) -> None:
    manifest = job({"training.nodez": 2})
    for arguments in ((), ("--server-side",), ("--validate=strict",)):
        assert "nodez" in kubectl.refused(manifest, *arguments)


@pytest.mark.parametrize("name", ["a.b", "Upper", "a" * 64])
def test_names_that_no_child_could_carry_are_refused(kubectl: Kubectl, name: str) -> None:
    manifest = job()
    manifest["metadata"]["name"] = name
    assert "metadata.name" in kubectl.refused(manifest)
    with pytest.raises(UserError, match=r"metadata\.name"):
        parse_job(manifest, "job.yaml")


def test_defaults_are_those_of_the_job_file(kubectl: Kubectl) -> None:
    assert _applied(kubectl, job(), "--dry-run=server")["spec"] == parse_job(job(), "job.yaml").job_file()["spec"]


def test_every_section_fills_in_its_own_defaults(kubectl: Kubectl) -> None:
    """Sections that are given but empty."""
    sections = (
        "corpus.normalize", "corpus.language", "corpus.quality", "corpus.pii", "corpus.deduplicate",
        "corpus.deduplicate.minhash", "corpus.resources", "tokenizer.train", "training.optimizer", "training.schedule",
        "training.deepspeed", "training.checkpoints", "training.validation", "training.resources", "training.masking",
        "evaluation", "export", "scheduling",
    )  # fmt: skip
    lists = {"finetune": [task({"lora": {}})], "predict": [prediction()]}
    manifest = job({path: {} for path in sections} | lists)
    assert _applied(kubectl, manifest, "--dry-run=server")["spec"] == parse_job(manifest, "job.yaml").job_file()["spec"]


def test_apply_get_apply_changes_nothing(kubectl: Kubectl) -> None:
    manifest = _named("again")
    first = _applied(kubectl, manifest)
    assert _applied(kubectl, manifest)["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    back = {key: first[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": manifest["metadata"]}
    again = _applied(kubectl, back)
    assert again["spec"] == first["spec"]
    assert again["metadata"]["generation"] == 1


def test_what_training_began_with_stays_also_where_it_was_nothing(kubectl: Kubectl) -> None:
    """The field has no default, so a rule about its value alone would not see it come or go."""
    manifest = _named("begun", {"training.initFrom": CHANGES["training.initFrom"]})
    _applied(kubectl, manifest)
    for other in ({"uri": "s3://models/other"}, ABSENT):
        stored = kubectl.get("pretrainjob/begun")
        assert (
            "training.initFrom is immutable"
            in kubectl.run(
                "replace", "--dry-run=server", "-f", "-", stdin=changed(stored, {"training.initFrom": other})
            ).stderr
        )


@pytest.mark.parametrize("path", [path for path in IMMUTABLE if CHANGES[path] is not None])
def test_immutable_fields_stay(kubectl: Kubectl, path: str) -> None:
    manifest = _named("immutable")
    _applied(kubectl, manifest)
    refusal = kubectl.refused(changed(manifest, {path: CHANGES[path]}))
    assert f"{path} is immutable; create another PretrainJob" in refusal


def test_managed_by_stays(kubectl: Kubectl) -> None:
    without, given = _named("managed-later"), changed(_named("managed"), {"managedBy": "acme.example/other"})
    _applied(kubectl, without)
    _applied(kubectl, given)
    for manifest, value in ((without, "acme.example/other"), (given, "acme.example/third")):
        assert "managedBy is immutable" in kubectl.refused(changed(manifest, {"managedBy": value}))
    stored = kubectl.get("pretrainjob/managed")
    del stored["spec"]["managedBy"]
    done = kubectl.run("replace", "--dry-run=server", "-f", "-", stdin=stored)
    assert "managedBy is immutable" in done.stderr


@pytest.mark.parametrize("path", MUTABLE)
def test_mutable_fields_change(kubectl: Kubectl, path: str) -> None:
    manifest = _named("mutable")
    _applied(kubectl, manifest)
    _applied(kubectl, changed(manifest, {path: MUTABLE[path]}), "--dry-run=server")


def test_python_and_the_api_server_agree_on_random_jobs(kubectl: Kubectl) -> None:
    """Numbers close to where the rules change their minds: both accept, or both refuse with the same sentence."""
    chance = random.Random(1)
    manifests = [_named(f"random-{number}", _random_spec(chance)) for number in range(300)]
    done = kubectl.run(
        "apply", "--dry-run=server", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": manifests}
    )
    refusals = dict(re.findall(r'PretrainJob\.pretrain\.dev "(\S+)" is invalid: (.*)', done.stderr))
    for manifest in manifests:
        refusal, sentence = refusals.get(manifest["metadata"]["name"]), _refusal(manifest)
        if sentence is None:
            assert refusal is None, f"only the API server refuses: {refusal}\n{json.dumps(manifest['spec'])}"
        else:
            assert refusal is not None, f"only Python refuses: {sentence}\n{json.dumps(manifest['spec'])}"
            assert sentence in refusal
    assert 50 < len(refusals) < 250, "one-sided"


def test_the_columns_fit_a_terminal(kubectl: Kubectl) -> None:
    manifest = _named("a-name-of-twenty-fou")
    _applied(kubectl, manifest)
    status = {
        "phase": "Preprocessing",
        "stage": "minhash-signatures",
        "progress": "1999/2000",
        "training": {"loss": 10.1234, "tokensPerSecond": 1_234_567, "eta": "12d13h"},
    }
    kubectl("patch", "pretrainjob", manifest["metadata"]["name"], "--subresource=status", "--type=merge", "-p",
            json.dumps({"status": status}))  # fmt: skip
    header, row = kubectl("get", "ptj", manifest["metadata"]["name"]).splitlines()
    assert header.split() == ["NAME", "PHASE", "STAGE", "PROGRESS", "LOSS", "TOKENS/S", "ETA", "AGE"]
    assert row.split()[1:7] == ["Preprocessing", "minhash-signatures", "1999/2000", "10.1234", "1234567", "12d13h"]
    assert max(len(header), len(row)) <= 120


def test_a_status_has_conditions_by_type(kubectl: Kubectl) -> None:
    """Two appliers own a condition each."""
    manifest = _named("conditions")
    _applied(kubectl, manifest)
    for type_ in ("Accepted", "Progressing"):
        condition = {
            "type": type_, "status": "True", "reason": "Test", "message": "A test.",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
        }  # fmt: skip
        part = {key: manifest[key] for key in ("apiVersion", "kind", "metadata")} | {"status": {"conditions": [condition]}}
        kubectl("apply", "--server-side", "--subresource=status", f"--field-manager={type_}", "-f", "-", stdin=part)
    stored = kubectl.get("pretrainjob/conditions")["status"]["conditions"]
    assert [condition["type"] for condition in stored] == ["Accepted", "Progressing"]


def _named(name: str, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    manifest = job(spec)
    manifest["metadata"] = {"name": name}
    return manifest


def _applied(kubectl: Kubectl, manifest: dict[str, Any], *arguments: str) -> dict[str, Any]:
    manifest = manifest | {"metadata": {"name": manifest["metadata"]["name"]}}
    stored = json.loads(kubectl("apply", "-f", "-", "-o", "json", *arguments, stdin=manifest))
    assert isinstance(stored, dict)
    return stored


def _refusal(manifest: dict[str, Any]) -> str | None:
    """The first sentence with which the command line refuses the manifest, without its values; None if it does not."""
    try:
        parse_job(manifest, "job.yaml")
    except UserError as error:
        return str(error).split(": ", 2)[2].split(" (", 1)[0]
    return None


def _random_spec(chance: random.Random) -> dict[str, Any]:
    """Changes of some fields of a right job, right or wrong with about equal chances."""
    spec: dict[str, Any] = {}

    def sometimes(path: str, *values: Any) -> None:
        if chance.random() < 0.3:
            spec[path] = chance.choice(values)

    sometimes("training.sequenceLength", 8, 64, 100, 512, 4096)
    sometimes("training.tokens", 4096, 4095, 10**9)
    sometimes("training.nodes", 1, 2, 3, 4)
    sometimes("training.gpusPerNode", 0, 1, 2)
    sometimes("training.processesPerNode", 1, 2, 4)
    sometimes("training.microBatchSize", 1, 2, 3, 4)
    sometimes("corpus.parallelism", 1, 4, 5)
    sometimes("corpus.clean", [], ["pii"], ["pii", "normalize", "pii"])
    sometimes("model.preset", "small", "llama2-7b", ABSENT)
    sometimes("model.hiddenSize", 16, 24, 96, 100, 4096)
    sometimes("model.layers", 1, 2)
    sometimes("model.heads", 1, 3, 8, 12)
    sometimes("model.kvHeads", 1, 2, 3, 4)
    sometimes("model.vocabSize", 999, 1000, 2023, 2024)
    sometimes("tokenizer", {}, {"train": {}}, {"uri": "s3://t/tokenizer.json"})
    return spec | (_random_course(chance) if chance.random() < 0.4 else {})


def _random_course(chance: random.Random) -> dict[str, Any]:
    """Another family, objective, tasks and predictions, each right or wrong on its own."""
    family, objective = chance.choice(
        (
            ("llama", "causal-lm"), ("gpt2", "causal-lm"), ("bert", "masked-lm"), ("bert", "masked-lm+next-sentence"),
            ("marian", "span-corruption"), ("llama", "masked-lm"), ("gpt2", "span-corruption"), ("marian", "causal-lm"),
        )
    )  # fmt: skip
    shape = {"family": family, "hiddenSize": chance.choice((24, 32)), "layers": 1, "heads": chance.choice((4, 8))}
    options = chance.choice(({}, {}, {}, {"kvHeads": 2}, {"dropout": 0.1}, {"encoderLayers": 2}, {"ropeTheta": 100}))
    tasks: tuple[dict[str, Any], ...] = (
        {}, {"processes": 3}, {"gpus": 2}, {"gpus": 2, "processes": 2}, {"gpus": 2, "processes": 4},
        {"task": "generation", "metric": "bleu"}, {"metric": "bleu"}, {"sequenceLength": 512, "method": "prefix"},
        {"name": "names", "microBatchSize": 8}, {"name": "names", "method": "adalora", "lora": {"rank": 13}},
        {"name": "names", "examples": {"uri": "s3://raw/a", "validationFraction": 0.5, "testFraction": 0.5}},
    )  # fmt: skip
    asked: tuple[dict[str, Any], ...] = ({}, {"task": "mood"}, {"task": "names"})
    return {
        "model": shape | options,
        "training.objective": objective,
        "finetune": [task(chance.choice(tasks)) for _ in range(chance.choice((0, 0, 1, 2)))],
        "predict": [prediction(chance.choice(asked)) for _ in range(chance.choice((0, 0, 1)))],
    }
