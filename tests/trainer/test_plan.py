"""What training comes to, and what is refused before anything heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretrain_stage.config import read_job
from pretrain_stage.errors import UserError
from pretrain_stage.storage import open_folder
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.config.window import window_of
from pretrain_trainer.plan import Plan, make_plan

from tests.trainer import texts
from tests.trainer.conftest import Site
from tests.trainer.jobs import SAMPLES, SEQUENCE, STEPS, Spec, prepare, write_job

Change = Callable[[Spec], None]


def plan(site: Site, change: Change = lambda spec: None, world_size: int = 1) -> Plan:
    spec = site.job()
    change(spec["spec"])
    return make_plan(read_job(write_job(site.folder, spec), TrainerSpec), site.storage, world_size)


def training(**fields: Any) -> Change:
    return lambda spec: spec["training"].update(fields)


def model(**fields: Any) -> Change:
    return lambda spec: spec["model"].update(fields)


def both(first: Change, second: Change) -> Change:
    def change(spec: Spec) -> None:
        first(spec)
        second(spec)

    return change


def change_facts(site: Site, stage: str, **facts: Any) -> None:
    path = site.path(f"stages/{stage}.json")
    manifest = json.loads(path.read_text())
    manifest["facts"] |= facts
    path.write_text(json.dumps(manifest))


def test_the_arithmetic(site: Site) -> None:
    made = plan(site)
    tokens = made.inputs.token_facts.train_tokens
    assert made.samples_per_epoch == (tokens - 1) // SEQUENCE
    assert made.samples == STEPS * SAMPLES
    assert made.vocab_size == 448, "400 entries, rounded up to 64"
    assert made.parameters == made.shape.parameters(448)


@pytest.mark.parametrize(("tokens", "samples"), [(0, 0), (1, 0), (32, 0), (33, 1), (64, 1), (65, 2)])
def test_a_sample_needs_one_token_more_than_it_predicts(tokens: int, samples: int) -> None:
    assert window_of(texts.training("causal-lm", 32)).samples(tokens) == samples


@pytest.mark.parametrize(
    ("objective", "own"),
    [("causal-lm", 512), ("masked-lm", 510), ("masked-lm+next-sentence", 509), ("span-corruption", 568)],
)
def test_text_in_a_sample_of_512_inputs(objective: str, own: int) -> None:
    window = window_of(texts.training(objective, 512))
    assert (window.own, window.read) == (own, own + (objective == "causal-lm"))


REFUSED: dict[str, tuple[Change, str]] = {
    "sequence longer than the data": (
        training(sequenceLength=2**19, globalBatchTokens=2**20, tokens=2**20, microBatchSize=1),
        r"spec.training.sequenceLength: 524288 is longer than the data, \d+ training tokens; choose less",
    ),
    "too many passes": (
        training(tokens=10**9),
        r"spec.training.tokens: 1000000000 needs \d+\.\d passes over \d+ training tokens, but maxEpochs allows 100; lower tokens "
        r"to \d+, raise maxEpochs",
    ),
    "vocabulary too small": (
        model(vocabSize=399),
        "spec.model.vocabSize: 399 does not hold the tokenizer's 400 entries; raise it to 448, or omit it",
    ),
    "vocabulary too large": (
        model(vocabSize=400 + 1024),
        "spec.model.vocabSize: 1424 exceeds the tokenizer's 400 entries by 1024, .* lower it to 448",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_numbers_are_refused_with_field_value_and_remedy(site: Site, name: str) -> None:
    change, sentence = REFUSED[name]
    with pytest.raises(UserError, match=sentence):
        plan(site, change)


def test_the_remedy_for_too_many_passes_is_accepted(site: Site) -> None:
    with pytest.raises(UserError) as error:
        plan(site, training(tokens=10**9, maxEpochs=3))
    allowed = int(str(error.value).split("lower tokens to ")[1].split(",")[0])
    assert plan(site, training(tokens=allowed, maxEpochs=3)).epochs <= 3
    with pytest.raises(UserError, match="passes"):
        plan(site, training(tokens=allowed + SAMPLES * SEQUENCE, maxEpochs=3))


def two_sources(folder: Path) -> Site:
    """A long source and a short one."""
    storage = open_folder(folder / "storage")
    long, short = (
        ["every document of this source says the same thing again and again. " * times] * 20 for times in (30, 10)
    )
    prepare(storage, folder, {"long": long, "short": short})
    return Site(folder, storage)


def corpus(**sources: dict[str, Any]) -> Change:
    return lambda spec: spec.update(corpus={"sources": [{"name": name, **fields} for name, fields in sources.items()]})


def test_a_mixture_is_a_part_of_the_plan(tmp_path: Path) -> None:
    site = two_sources(tmp_path)
    made = plan(site)
    long, short = made.mixture.in_a_pass
    assert made.mixture.names == ("long", "short")
    assert made.mixture.epochs(long + short) == [1, 1], "in proportion to the text, if nothing is said"
    weighed = plan(site, corpus(long={"weight": 1}, short={"weight": 3}))
    assert weighed.mixture.shares == (1, 3)
    assert weighed.stage_identity != made.stage_identity
    assert weighed.checkpoint_identity != made.checkpoint_identity
    passed = plan(site, corpus(short={"epochs": 2}, long={}))
    assert passed.mixture.of_each(passed.samples) == [passed.samples - 2 * short, 2 * short]


def test_each_source_is_held_to_the_passes_that_are_allowed(tmp_path: Path) -> None:
    site = two_sources(tmp_path)
    lopsided = corpus(long={"weight": 1}, short={"weight": 99})
    with pytest.raises(
        UserError, match=r"training.tokens: \d+ needs [\d.]+ passes over \d+ training tokens of source short"
    ) as error:
        plan(site, both(lopsided, training(maxEpochs=3)))
    allowed = int(str(error.value).split("lower tokens to ")[1].split(",")[0])
    plan(site, both(lopsided, training(maxEpochs=3, tokens=allowed)))
    with pytest.raises(UserError, match=r"corpus.sources: epochs come to [\d,]+ samples, but training.tokens to 384"):
        plan(site, corpus(long={"epochs": 90}))


def test_a_batch_that_the_processes_cannot_share_is_refused(site: Site) -> None:
    with pytest.raises(UserError, match=r"spec.training.globalBatchTokens: 256 is 8 sequences of 32, which 3 processes"):
        plan(site, world_size=3)
    with pytest.raises(UserError, match=r"spec.training.microBatchSize: 4 does not divide the 2 sequences"):
        plan(site, world_size=4)


def test_a_vocabulary_may_be_given(site: Site) -> None:
    assert plan(site, model(vocabSize=400)).vocab_size == 400
    assert plan(site, model(vocabSize=1423)).vocab_size == 1423


def test_a_tokenizer_that_changed_under_finished_tokens_is_refused(site: Site) -> None:
    change_facts(site, "tokenizer", sha256="f" * 64)
    with pytest.raises(
        UserError, match=r"tokens: made with the tokenizer \w{12}..., but tokenizer/tokenizer.json is now ffff"
    ):
        plan(site)


def test_stages_that_did_not_run_are_named(site: Site) -> None:
    site.path("stages/tokenize.json").unlink()
    with pytest.raises(UserError, match=r"stages/tokenize.json: missing; run the stage tokenize"):
        plan(site)


def test_facts_that_are_missing_are_named(site: Site) -> None:
    change_facts(site, "tokenize", train_tokens=None)
    with pytest.raises(
        UserError, match=r"stages/tokenize.json: facts do not say train_tokens; run the stage tokenize again"
    ):
        plan(site)


def test_nothing_held_out_is_refused(tmp_path: Path) -> None:
    storage = open_folder(tmp_path / "storage")
    prepare(storage, tmp_path, documents=["some text of which nothing is the tenth document " * 20] * 9)
    with pytest.raises(UserError, match=r"spec.corpus.heldOutFraction: left 0 held-out tokens"):
        plan(Site(tmp_path, storage))


IDENTITY = {
    "tokens": (training(tokens=4 * SAMPLES * SEQUENCE), True, False),
    "learning rate": (training(optimizer={"learningRate": 1e-4}), True, False),
    "schedule": (training(schedule={"kind": "wsd"}), True, False),
    "weight decay": (training(optimizer={"learningRate": 3e-3, "weightDecay": 0.0}), True, False),
    "seed": (training(seed=7), True, True),
    "weight of the only source": (
        lambda spec: spec.update(corpus={"sources": [{"name": "topics", "weight": 2}]}),
        False,
        False,
    ),
    "masking of what is not masked": (training(masking={"fraction": 0.3}), False, False),
    "batch": (training(globalBatchTokens=2 * SAMPLES * SEQUENCE), True, True),
    "sequence": (training(sequenceLength=16), True, True),
    "precision": (training(precision="bf16"), True, True),
    "shape": (model(layers=3), True, True),
    "rotary base": (model(ropeTheta=5e5), True, True),
    "ZeRO stage": (training(deepspeed={"zeroStage": 1}), False, False),
    "micro-batch": (training(microBatchSize=1), False, False),
    "nodes": (training(nodes=2), False, False),
    "recomputation": (training(activationCheckpointing=True), False, False),
    "compilation": (training(compile=True), False, False),
    "checkpoints": (training(checkpoints={"everySteps": 1}), False, False),
    "TensorBoard": (training(tensorboard=True), False, False),
    "export": (lambda spec: spec["export"].update(precision="bf16"), False, False),
}


@pytest.mark.parametrize("name", IDENTITY)
def test_what_makes_another_model_and_what_another_training(site: Site, name: str) -> None:
    change, another_model, other_checkpoints = IDENTITY[name]
    before, after = plan(site), plan(site, change)
    assert (before.stage_identity != after.stage_identity) is another_model
    assert (before.checkpoint_identity != after.checkpoint_identity) is other_checkpoints


def test_other_tokens_make_another_model_and_another_training(site: Site) -> None:
    before = plan(site)
    change_facts(site, "tokenize", train_documents=1)
    after = plan(site)
    assert before.stage_identity != after.stage_identity
    assert before.checkpoint_identity != after.checkpoint_identity


def test_launch_decides_without_heavy_imports() -> None:
    code = (
        "import sys, pretrain_trainer.__main__, pretrain_trainer.launch, pretrain_trainer.evaluate, pretrain_trainer.export, "
        "pretrain_trainer.report; print([m for m in ('torch', 'deepspeed', 'matplotlib', 'tokenizers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
