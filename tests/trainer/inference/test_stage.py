"""The stage predict-<name>: shards, the model that is asked, resume, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from pretrain_stage.config import Job
from pretrain_stage.config import Storage as StorageSection
from pretrain_stage.errors import CorruptError, UserError
from pretrain_stage.events import Events
from pretrain_stage.manifest import Manifest, Part, close, leave_part, put_output, read_manifest
from pretrain_stage.section import parse
from pretrain_stage.storage import Storage, open_folder, open_storage
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.inference import predict as predicting
from pretrain_trainer.inference.answering import Answer, Question, Settings
from pretrain_trainer.inference.command import Where, predict_file
from pretrain_trainer.inference.generation import WritingModel
from pretrain_trainer.inference.stage import predict_stage

from tests.seaweedfs import SeaweedFS
from tests.trainer import jobs

PROMPTS = [{"id": number, "prompt": "if x " * (1 + number % 7)} for number in range(30)]
REVIEWS = {
    "name": "reviews",
    "task": "classification",
    "examples": {"uri": "unused", "textField": "review"},
    "gpus": 0,
}


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch folders of its own, and the variables that a stage sets for its process."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    for name, value in {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def storage(tmp_path: Path, llama: Path) -> Storage:
    """A job's storage with a finished export."""
    made = open_folder(tmp_path / "storage")
    export(made, "export", "export", llama, {})
    return made


def export(storage: Storage, stage: str, where: str, model: Path, inputs: dict[str, str]) -> Manifest:
    outputs = tuple(put_output(storage, file, f"{where}/{file.name}") for file in sorted(model.iterdir()))
    leave_part(storage, Part(stage=stage, index=0, identity="any", outputs=outputs))
    manifest = close(storage, stage, "any", {}, inputs, tasks=1)
    assert manifest is not None
    return manifest


def records(folder: Path, lines: Sequence[Any], name: str = "in.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def job(storage: Storage, uri: Path | str, finetune: Sequence[Any] = (), **predict: Any) -> Job[TrainerSpec]:
    spec = jobs.job(storage.uri)
    spec["spec"]["predict"] = [{"name": "all", "uri": str(uri), "maxNewTokens": 8, **predict}]
    spec["spec"]["finetune"] = list(finetune)
    parsed: Job[TrainerSpec] = parse(Job[TrainerSpec], spec, "job")
    return parsed


def work(made: Job[TrainerSpec], index: int = 0) -> dict[str, Any]:
    """Does a task; returns its result."""
    said = io.StringIO()
    predict_stage(made, "all", index, Events({"rank": 0}, said))
    last: dict[str, Any] = json.loads(said.getvalue().splitlines()[-1])
    assert (last["event"], last["stage"], last["index"], "rank" in last) == ("result", "predict-all", index, False)
    return last


def answers(storage: Storage, index: int = 0) -> bytes:
    data = storage.read(f"predict/all/{index:05d}.jsonl")
    assert data is not None
    return data


def test_shards_answer_all_records_in_order(storage: Storage, llama: Path, tmp_path: Path) -> None:
    folder = records(tmp_path / "in", PROMPTS[:7], "a.jsonl")
    records(folder, PROMPTS[7:], "b.jsonl")
    made = job(storage, folder, tasks=3)
    assert [work(made, index)["unchanged"] for index in (2, 0)] == [False, False]
    assert read_manifest(storage, "predict-all") is None
    assert work(made, 1)["records"] > 5
    lines = [json.loads(line) for index in range(3) for line in answers(storage, index).splitlines()]
    whole = records(tmp_path / "whole", PROMPTS) / "in.jsonl"
    assert predict_file(Where(str(llama), None, "cpu"), whole, tmp_path / "out", Settings(8), 8192, 0) == 0
    assert lines == [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    manifest = read_manifest(storage, "predict-all")
    assert manifest is not None
    assert (manifest.facts["records"], manifest.facts["errors"], manifest.tasks) == (30, 0, 3)
    export_manifest = read_manifest(storage, "export")
    assert export_manifest is not None
    assert manifest.inputs["export"] == export_manifest.digest
    assert len(manifest.outputs) == 3
    assert not [path for path in (tmp_path / "scratch").glob("*/predict-all-*") if path.is_dir()]


def test_what_is_finished_is_not_done_again_and_what_differs_is(storage: Storage, tmp_path: Path) -> None:
    folder = records(tmp_path / "in", PROMPTS)
    work(job(storage, folder))
    before = answers(storage)
    assert work(job(storage, folder, parallelism=5))["unchanged"]
    shutil.move(folder, tmp_path / "moved")
    assert work(job(storage, tmp_path / "moved"))["unchanged"], "the same files elsewhere"
    assert not work(job(storage, tmp_path / "moved", temperature=0.9, topK=50))["unchanged"]
    assert answers(storage) != before
    records(tmp_path / "moved", PROMPTS[:3])
    assert work(job(storage, tmp_path / "moved"))["records"] == 3


def test_a_task_goes_on_where_it_was(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = records(tmp_path / "in", PROMPTS)
    made = job(storage, folder, temperature=0.8)
    monkeypatch.setattr(predicting, "WINDOW_RECORDS", 10)
    work(made)
    storage.delete(["stages/predict-all.json", "stages/predict-all/00000.json"])
    expected = answers(storage)
    asked: list[int] = []
    answer = WritingModel.answer

    def failing(self: WritingModel, questions: Sequence[Question]) -> list[Answer]:
        asked.append(len(questions))
        if sum(asked) > 20:
            raise OSError("the machine is gone")
        return answer(self, questions)

    monkeypatch.setattr(WritingModel, "answer", failing)
    with pytest.raises(OSError, match="gone"):
        work(made)
    done = sum(asked[:-1])
    assert done == 20
    again: list[int] = []

    def counting(self: WritingModel, questions: Sequence[Question]) -> list[Answer]:
        again.append(len(questions))
        return answer(self, questions)

    monkeypatch.setattr(WritingModel, "answer", counting)
    assert work(made)["records"] == 30
    assert sum(again) == 10
    assert answers(storage) == expected


def test_a_tasks_model_reads_the_fields_of_its_examples(storage: Storage, classifier: Path, tmp_path: Path) -> None:
    export(storage, "export-reviews", "finetune/reviews/export", classifier, {})
    folder = records(tmp_path / "in", [{"review": "a class", "text": "no"}, {"text": "b"}])
    assert work(job(storage, folder, [REVIEWS], task="reviews"))["errors"] == 1
    good, bad = (json.loads(line) for line in answers(storage).splitlines())
    assert list(good) == ["label", "score", "scores"]
    assert bad == {"error": "no field text (fields: none); give the record one (text is here called review)"}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_in_object_storage_finds_the_jobs_model(
    seaweedfs: SeaweedFS, s3_uri: str, llama: Path, tmp_path: Path
) -> None:
    section = StorageSection(uri=s3_uri, endpointURL=seaweedfs.endpoint)
    storage = open_storage(section)
    base = export(storage, "export", "export", llama, {})
    adapted = get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(llama),
        LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, target_modules=["q_proj", "v_proj"]),
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    told = tmp_path / "adapter/adapter_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"base_model_name_or_path": "../../../export"}))
    (tmp_path / "adapter/base.json").write_text(json.dumps({"uri": f"{s3_uri}/export", "digest": base.digest, "own": True}))
    folder = records(tmp_path / "in", PROMPTS[:3])
    generation = {"name": "talk", "task": "generation", "examples": {"uri": "unused"}}

    def asking(**predict: Any) -> Job[TrainerSpec]:
        made = job(storage, folder, [generation], **predict)
        return made.model_copy(update={"spec": made.spec.model_copy(update={"storage": section})})

    work(asking())
    plain = answers(storage)
    export(storage, "export-talk", "finetune/talk/export", tmp_path / "adapter", {"export": base.digest})
    work(asking(task="talk"))
    assert answers(storage) != plain
    export(storage, "export-talk", "finetune/talk/export", tmp_path / "adapter", {"export": "another"})
    with pytest.raises(UserError, match="export: not the model that stage export-talk belongs to"):
        work(asking(task="talk"))


def test_a_model_that_was_changed_is_not_asked(storage: Storage, tmp_path: Path) -> None:
    path = Path(storage.uri) / "export/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"export/model.safetensors: SHA-256 is"):
        work(job(storage, records(tmp_path / "in", PROMPTS)))


def test_what_cannot_be_done(storage: Storage, tmp_path: Path) -> None:
    def refusal(made: Job[TrainerSpec], name: str = "all", index: int = 0) -> str:
        with pytest.raises(UserError) as refused:
            predict_stage(made, name, index, Events({}, io.StringIO()))
        return str(refused.value)

    folder = records(tmp_path / "in", [{"text": "a"}, {"text": "b"}])
    assert "--name: other, but spec.predict has no such entry (it has all)" in refusal(job(storage, folder), "other")
    assert "--index: 1, but stage predict-all of this job has 1 tasks" in refusal(job(storage, folder), index=1)
    unfinished = refusal(job(storage, folder, [REVIEWS], task="reviews"))
    assert "stage predict-all reads stage export-reviews, which has not finished" in unfinished
    assert "spec.predict[0].uri: " in refusal(job(storage, tmp_path / "nowhere"))
    nothing = refusal(job(storage, folder))
    assert "not one of 2 records could be answered; predict/all/00000.jsonl says why" in nothing
    assert read_manifest(storage, "predict-all") is None


@pytest.mark.slow
def test_the_program(storage: Storage, tmp_path: Path) -> None:
    folder = records(tmp_path / "in", PROMPTS)
    spec = jobs.job(storage.uri)
    spec["spec"]["predict"] = [{"name": "all", "uri": str(folder), "maxNewTokens": 4, "tasks": 2}]
    run = jobs.start("predict", jobs.write_job(tmp_path, spec), "--name", "all", "--index", "1")
    assert (run.result["stage"], run.result["index"], run.result["errors"]) == ("predict-all", 1, 0)
    assert len(answers(storage, 1).splitlines()) == run.result["records"]
