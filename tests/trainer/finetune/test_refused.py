"""What cannot be fine-tuned is refused before anything heavy is imported, in one sentence with field, value and remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretrain_stage.config import read_job
from pretrain_stage.errors import UserError
from pretrain_stage.manifest import read_manifest
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.finetune.plan import make_finetune_plan
from safetensors.torch import load_file

from tests.trainer.finetune.sites import NAME, POSITIONS, FinetuneSite, leave_examples, make_base, new_site, reviews


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> FinetuneSite:
    """A site from which fine-tuning could begin. Only to be copied."""
    return new_site(tmp_path_factory.mktemp("ready"), "llama", reviews(), ["neg", "pos"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder. Only to be copied."""
    return make_base(tmp_path_factory.mktemp("bases") / "bert", "bert")


@pytest.fixture
def refusal(ready: FinetuneSite) -> Callable[..., str]:
    """What is said of the job with that section."""

    def refuse(name: str = NAME, world_size: int = 1, **section: Any) -> str:
        job = read_job(ready.write(**section), TrainerSpec)
        with pytest.raises(UserError) as refused:
            make_finetune_plan(job, name, ready.storage, world_size)
        return str(refused.value)

    return refuse


def test_accepted(ready: FinetuneSite) -> None:
    plan = make_finetune_plan(read_job(ready.write(), TrainerSpec), NAME, ready.storage, 1)
    assert (plan.batch.steps, plan.batch.accumulation, plan.epochs) == (10, 2, 2.0)


def test_a_task_that_is_not_there(refusal: Callable[..., str]) -> None:
    assert refusal(name="other") == "--task: 'other' is no task of spec.finetune, which has reviews; give one of these"


def test_more_positions_than_the_model_has(refusal: Callable[..., str]) -> None:
    assert refusal(sequenceLength=POSITIONS + 1).endswith(f"has {POSITIONS} positions; choose at most {POSITIONS}")
    said = refusal(sequenceLength=POSITIONS, method="prefix", prefixTokens=16)
    assert said.endswith(f"has {POSITIONS} positions; choose at most {POSITIONS - 16}")


def test_fewer_examples_than_a_batch(refusal: Callable[..., str]) -> None:
    assert refusal(batchSize=64) == (
        "spec.finetune[0].batchSize: 64, but there are only 40 training examples; choose at most 40, or give more examples"
    )


def test_a_batch_that_the_processes_cannot_share(refusal: Callable[..., str]) -> None:
    assert "cannot be shared by 3 processes" in refusal(world_size=3)


def test_a_stage_that_has_not_run(ready: FinetuneSite, tmp_path: Path) -> None:
    for stage in ("export", f"examples-{NAME}"):
        shutil.copytree(ready.storage.uri, tmp_path / stage)
        (tmp_path / stage / "stages" / f"{stage}.json").unlink()
        spec = ready.spec()
        spec["spec"]["storage"]["uri"] = str(tmp_path / stage)
        path = tmp_path / "job.json"
        path.write_text(json.dumps(spec))
        job = read_job(path, TrainerSpec)
        with pytest.raises(UserError, match=f"stages/{stage}.json: missing; run the stage {stage} before fine-tuning"):
            make_finetune_plan(job, NAME, FinetuneSite(tmp_path, _open(tmp_path / stage)).storage, 1)


def test_fresh_weights_that_nobody_trains(refusal: Callable[..., str]) -> None:
    assert "leaves most weights as they are drawn; set method to full" in refusal(fromScratch=True, method="lora")


def test_one_label(tmp_path: Path, ready: FinetuneSite) -> None:
    shutil.copytree(ready.storage.uri, tmp_path / "storage")
    storage = _open(tmp_path / "storage")
    leave_examples(storage, tmp_path, reviews(), ["pos"])
    site = FinetuneSite(tmp_path, storage)
    with pytest.raises(UserError, match="1 different labels, and there is nothing to learn"):
        make_finetune_plan(read_job(site.write(), TrainerSpec), NAME, storage, 1)


def test_a_base_that_is_not_there(refusal: Callable[..., str]) -> None:
    assert refusal(base={"uri": "/nowhere/model"}) == (
        "spec.finetune[0].base.uri: /nowhere/model: no such folder; give a Hugging Face folder in safetensors"
    )


def test_a_task_that_does_not_fit_the_base(refusal: Callable[..., str], base: Path) -> None:
    said = refusal(base={"uri": str(base)}, task="generation")
    assert said == (
        f"spec.finetune[0].task: generation cannot be learned by {base}, a model of family bert; choose classification or "
        "token-classification, or a base of another family"
    )


def test_a_pickle_as_base(refusal: Callable[..., str], base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "pytorch_model.bin")
    assert "has its weights as a pickle (pytorch_model.bin), which may run any program" in refusal(
        base={"uri": str(tmp_path / "base")}
    )


def test_a_base_with_another_tokenizer(refusal: Callable[..., str], base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    said = refusal(base={"uri": str(tmp_path / "base")})
    assert "its tokenizer has 512 tokens, but its model knows 300 (vocab_size)" in said
    (tmp_path / "base" / "tokenizer.json").unlink()
    assert "no tokenizer.json; put the tokenizer there" in refusal(base={"uri": str(tmp_path / "base")})


def test_the_base_is_known_by_its_bytes(ready: FinetuneSite, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    job = read_job(ready.write(base={"uri": str(tmp_path / "base")}), TrainerSpec)
    before = make_finetune_plan(job, NAME, ready.storage, 1)
    path = tmp_path / "base" / "model.safetensors"
    assert load_file(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    after = make_finetune_plan(job, NAME, ready.storage, 1)
    assert before.stage_identity != after.stage_identity
    assert before.checkpoint_identity != after.checkpoint_identity


def test_what_decides_the_model(ready: FinetuneSite) -> None:
    def plan(**section: Any) -> str:
        return make_finetune_plan(read_job(ready.write(**section), TrainerSpec), NAME, ready.storage, 1).stage_identity

    same = plan()
    assert plan(zeroStage=0, microBatchSize=2, merge=False) == same, "how the work is spread"
    assert plan(adapterWidth=8, trainedLayers=0) == same, "what the method does not read"
    for change in ({"learningRate": 1e-3}, {"method": "lora"}, {"seed": 1}, {"epochs": 3}, {"patience": 1}):
        assert plan(**change) != same, change
    assert plan(method="lora", lora={"rank": 4}) != plan(method="lora")


def _open(folder: Path) -> Any:
    from pretrain_stage.storage import open_folder

    return open_folder(folder)


def test_examples_are_those_of_the_manifest(ready: FinetuneSite) -> None:
    manifest = read_manifest(ready.storage, f"examples-{NAME}")
    assert manifest is not None
    plan = make_finetune_plan(read_job(ready.write(), TrainerSpec), NAME, ready.storage, 1)
    assert plan.stage_inputs[f"examples-{NAME}"] == manifest.digest
