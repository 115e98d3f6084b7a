"""Whether a job can work: the arithmetic is a table test, what it stands on is asked of this machine."""

from __future__ import annotations

import os
import pydoc_data.topics
import stat
from pathlib import Path
from typing import Any

import pytest
from pretrain_operator.api import PretrainJob, parse_job
from pretrain_operator.check import (
    Finding,
    Gpu,
    Surroundings,
    arithmetic,
    bytes_below,
    faults,
    free_bytes,
    here,
    main_memory,
    parse_size,
    tokenizer_entries,
    visible_gpus,
)
from pretrain_stage.errors import UserError
from tokenizers import Tokenizer, models, trainers

from tests.operator.jobs import ABSENT, job, task

GIB = 2**30
ROOMY = Surroundings(cores=8, memory=64 * GIB, gpus=(), disk_free=1000 * GIB)
SEVEN_B = {
    "model": {"preset": "llama2-7b"},
    "tokenizer.train.vocabSize": 32_000,
    "training": {
        "tokens": 10**9,
        "sequenceLength": 4096,
        "globalBatchTokens": 8 * 4096,
        "microBatchSize": 1,
        "gpusPerNode": 8,
        "deepspeed": {"zeroStage": 3},
    },
}
H100 = Gpu("NVIDIA H100 80GB HBM3", 80 * GIB)
SMALL = Gpu("Tesla T4", 15 * GIB)


def parsed(spec: dict[str, Any]) -> PretrainJob:
    return parse_job(job(spec), "job.yaml")


def found(spec: dict[str, Any], around: Surroundings = ROOMY) -> dict[str, Finding]:
    return {finding.name: finding for finding in arithmetic(parsed(spec), around)}


def test_a_job_that_works() -> None:
    findings = found({"training.checkpoints": {"everySteps": 100}})
    assert {name: finding.ok for name, finding in findings.items()} == {
        "model": True,
        "batch": True,
        "schedule": True,
        "checkpoints": True,
        "tokens": True,
        "disk": True,
        "memory": True,
        "preprocessing": True,
        "training": True,
    }
    # 4 layers of 2 x 256 x (256 + 128) for attention, 3 x 256 x 688 for SwiGLU, 2 x 256 for norms; 1,024 x 256; a last norm.
    assert findings["model"].message == "3,164,416 parameters"
    # 1,000,000 / 4,096 = 244.1
    assert findings["batch"].message == "245 steps of 4,096 tokens"
    assert findings["batch"].details[1] == "8 samples = 8 a micro-batch x 1 accumulated x 1 processes"
    assert findings["tokens"].message == "0.32 tokens a parameter"


@pytest.mark.parametrize(
    ("spec", "around", "sentence"),
    [
        (
            {"tokenizer": {"uri": "tokenizer.json"}, "model.vocabSize": 600},
            Surroundings(tokenizer_entries=1000),
            "spec.model.vocabSize: 600 does not hold the tokenizer's 1000 entries; raise it to 1024, or omit it",
        ),
        (
            {"training.schedule": {"warmupSteps": 246}},
            ROOMY,
            "spec.training.schedule.warmupSteps: 246 is more than the 245 steps of training, so the learning rate would never be "
            "reached; lower it, or raise training.tokens",
        ),
        (
            {"tokenizer": {"uri": "tokenizer.json"}, "model.vocabSize": 5000},
            Surroundings(tokenizer_entries=3000),
            "spec.model.vocabSize: 5000 exceeds the tokenizer's 3000 entries by 2000",
        ),
        (
            {"storage": {"uri": "/data/right"}},
            Surroundings(disk_free=100 * 2**20),
            "spec.storage.uri: /data/right has 100.0 MiB for checkpoints and export, which need",
        ),
        ({}, Surroundings(memory=GIB // 2), "spec.training: 0.8 GiB a process needed, but there are 0.5 GiB (main memory"),
        (SEVEN_B, Surroundings(gpus=(H100,) * 4), "nodes 1 x gpusPerNode 8 = 8 GPUs, this machine has 4"),
        (SEVEN_B, Surroundings(gpus=()), "spec.training.gpusPerNode: nodes 1 x gpusPerNode 8 = 8 GPUs, this machine has 0"),
        (SEVEN_B, Surroundings(gpus=(SMALL, *(H100,) * 7)), "GiB a process needed, but there are 15.0 GiB (Tesla T4)"),
        (SEVEN_B, Surroundings(gpu_memory=15 * GIB), "GiB a process needed, but there are 15.0 GiB (planned GPU)"),
        (
            {"training.nodes": 2, "training.gpusPerNode": 1},
            Surroundings(gpus=(H100, H100), gpus_chosen=True),
            "spec.training.nodes: 2 nodes on one machine share its GPUs out by number, but CUDA_VISIBLE_DEVICES has chosen some; "
            "unset it, or set nodes to 1 and gpusPerNode to 2",
        ),
    ],
)
def test_a_fault_names_field_value_and_remedy(spec: dict[str, Any], around: Surroundings, sentence: str) -> None:
    messages = faults(arithmetic(parsed(spec), around))
    assert len(messages) == 1
    assert sentence in messages[0]


def test_every_fault_is_found_at_once() -> None:
    messages = faults(
        arithmetic(
            parsed({"storage": {"uri": "/data"}, "training.schedule": {"warmupSteps": 1000}}),
            Surroundings(memory=GIB // 10, disk_free=0),
        )
    )
    assert [message.split(":")[0] for message in messages] == [
        "spec.training.schedule.warmupSteps",
        "spec.storage.uri",
        "spec.training",
    ]


@pytest.mark.parametrize(
    ("spec", "around", "name", "message"),
    [
        (
            {"tokenizer": {"uri": "s3://a/tokenizer.json"}},
            ROOMY,
            "model",
            "vocabulary of s3://a/tokenizer.json, not known yet",
        ),
        (SEVEN_B, Surroundings(), "memory", "no GPU is known here, give its size with --gpu-memory"),
        ({}, Surroundings(), "disk", "for checkpoints and export"),
        ({"training.processesPerNode": 8}, Surroundings(cores=2), "training", "8 processes on 2 cores: they take turns"),
        ({"training.checkpoints": {"everySteps": 245}}, ROOMY, "checkpoints", "only one, at the end: everySteps is 245"),
    ],
)
def test_what_cannot_be_known_is_no_fault(spec: dict[str, Any], around: Surroundings, name: str, message: str) -> None:
    finding = found(spec, around)[name]
    assert finding.ok is None
    assert message in finding.message


@pytest.mark.parametrize(
    ("spec", "around", "name", "message"),
    [
        (SEVEN_B, Surroundings(gpus=(H100,) * 8), "training", "8 of 8 GPUs"),
        (SEVEN_B, Surroundings(gpu_memory=80 * GIB), "memory", "of 80.0 GiB (planned GPU)"),
        (SEVEN_B, Surroundings(gpus=(H100,) * 8), "memory", "of 80.0 GiB (NVIDIA H100 80GB HBM3)"),
        ({"corpus.parallelism": 4}, Surroundings(cores=2), "preprocessing", "4 tasks, 2 at once"),
        ({"training.resources": {"memory": "4Gi"}}, Surroundings(), "memory", "of 4.0 GiB (training.resources.memory"),
        (
            {"tokenizer": {"uri": "s3://a/t.json"}, "model.vocabSize": 1024},
            ROOMY,
            "model",
            "3,164,416 parameters",
        ),
    ],
)
def test_what_is_right(spec: dict[str, Any], around: Surroundings, name: str, message: str) -> None:
    finding = found(spec, around)[name]
    assert finding.ok is True
    assert message in finding.message


@pytest.mark.parametrize(
    ("cost", "peak", "ok", "message"),
    [
        ({}, None, True, "training takes 4.61e+19 operations; set training.peakTeraflops, the peak of a GPU, for an estimate"),
        ({"pricePerGPUHour": 3}, None, None, "training takes 4.61e+19 operations; set training.peakTeraflops"),
        ({}, 1000.0, True, "about 4.0 h of training on 8 GPUs: 32.0 GPU hours; set cost.pricePerGPUHour to see what they cost"),
        ({"pricePerGPUHour": 3}, 1000.0, True, "about 4.0 h of training on 8 GPUs: 32.0 GPU hours at 3 = 96.01"),
        ({"pricePerGPUHour": 3, "budget": 97}, 1000.0, True, "GPU hours at 3 = 96.01"),
        (
            {"pricePerGPUHour": 3, "budget": 96}, 1000.0, None,
            "= 96.01; spec.cost.budget: 96 is less, so the job would be suspended before its end; raise it",
        ),
    ],
)  # fmt: skip
def test_what_training_will_cost(cost: dict[str, float], peak: float | None, ok: bool | None, message: str) -> None:
    """6 x 6.607 x 10^9 + 12 x 32 x 4096 x 4096 = 4.608 x 10^10 operations a token, 1.000013824 x 10^9 tokens, 40 % of the peak."""
    spec = SEVEN_B | {"cost": cost, "training.peakTeraflops": peak or ABSENT}
    finding = found(spec)["cost"]
    assert (finding.ok, message in finding.message) == (ok, True), finding
    assert peak is None or "40%, the utilization assumed" in finding.details[1]


def test_on_cpu_nothing_is_counted() -> None:
    assert "cost" not in found({})
    assert found({"cost": {"pricePerGPUHour": 3}})["cost"].message.startswith("0: spec.training.gpusPerNode is 0")


def test_checkpoints_that_are_there_already_need_no_new_space() -> None:
    spec = {"storage": {"uri": "/data"}}
    assert found(spec, Surroundings(disk_free=100 * 2**20))["disk"].ok is False
    assert found(spec, Surroundings(disk_free=100 * 2**20, checkpoint_bytes=GIB))["disk"].ok is True


def test_a_checkpoint_holds_weights_and_optimizer_state() -> None:
    """bf16: 2 bytes for the weight, 4 for its master copy, 8 for AdamW's two moments."""
    detail = found({"training.checkpoints": {"keepLast": 3}})["disk"].details[0]
    one, export = 3_164_416 * 14 / 2**20, 3_164_416 * 4 / 2**20
    assert detail.startswith(
        f"5 checkpoints (3 kept, 1 gone on from, 1 being written) x {one:.1f} MiB + export {export:.1f} MiB"
    )
    assert detail.endswith(f"= {5 * one + export:.1f} MiB")


def test_checkpoints_that_are_kept_for_good_are_counted() -> None:
    """Of 10 steps with a checkpoint at every second, those of 4 and 8 are multiples of 4."""
    policy = {"keepLast": 1, "keepEverySteps": 4, "keepBest": True, "everySteps": 2}
    detail = found({"training.checkpoints": policy, "training.tokens": 10 * 4096})["disk"].details[0]
    assert "1 kept, 1 gone on from, 1 being written, 2 of every so many steps, 1 the best" in detail


NVIDIA_SMI = """#!/bin/sh
echo "0, GPU-aaaa1111, NVIDIA H100 80GB HBM3, 81559"
echo "1, GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559"
echo "2, GPU-cccc3333, Tesla T4, 15360"
"""


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, ["NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", "Tesla T4"]),
        ("2,0", ["Tesla T4", "NVIDIA H100 80GB HBM3"]),
        ("GPU-cccc", ["Tesla T4"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["NVIDIA H100 80GB HBM3"]),
    ],
)
def test_visible_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, names: list[str]) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    gpus = visible_gpus({} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen})
    assert [gpu.name for gpu in gpus] == names
    assert all(gpu.bytes in (81559 * 2**20, 15360 * 2**20) for gpu in gpus)


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 9\n"])
def test_no_gpus_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    if script:
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == ()


@pytest.mark.parametrize(
    ("model", "trainer"),
    [
        (models.BPE(), trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)),
        (
            models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False),
        ),
        (models.Unigram(), trainers.UnigramTrainer(vocab_size=200, special_tokens=["<s>"], show_progress=False)),
    ],
)
def test_tokenizer_entries_are_those_of_the_tokenizers_library(tmp_path: Path, model: Any, trainer: Any) -> None:
    tokenizer = Tokenizer(model)
    tokenizer.train_from_iterator([pydoc_data.topics.topics["assert"]], trainer)
    tokenizer.add_special_tokens(["<|later|>"])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    assert tokenizer_entries(str(path)) == tokenizer.get_vocab_size()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {"vocab": 3}}'])
def test_a_file_that_is_no_tokenizer_is_left_to_preflight(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    assert tokenizer_entries(str(tmp_path / "t.json")) is None
    assert tokenizer_entries(str(tmp_path / "missing.json")) is None


def test_this_machine(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000001" / "rank").write_bytes(b"12345")
    around = here(parsed({"storage": {"uri": str(tmp_path)}}), cores=3, gpu_memory=7)
    assert (around.cores, around.gpu_memory, around.checkpoint_bytes, around.gpus) == (3, 7, 5, ())
    assert around.memory == main_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert around.disk_free == pytest.approx(free_bytes(tmp_path / "not" / "there" / "yet"), rel=0.1)
    assert bytes_below(tmp_path / "nothing") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("80GiB", 80 * GIB), ("80Gi", 80 * GIB), ("80GB", 80 * 10**9), ("24576MiB", 24 * GIB), ("1.5TiB", 1536 * GIB)],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text, "--gpu-memory") == expected


@pytest.mark.parametrize("text", ["", "80", "big", "-80GiB", "80 bananas", "GiB", "0GiB", "nan", "80GiBGiB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UserError, match=r"--gpu-memory: .* is no size; write it like 80GiB"):
        parse_size(text, "--gpu-memory")


def test_what_fine_tuning_comes_to_is_told_before() -> None:
    tasks = [
        task({"method": "lora", "batchSize": 32, "processes": 2, "epochs": 2.5}),
        task(
            {
                "name": "few",
                "examples": {"uri": "s3://raw/few", "maxTrainExamples": 200},
                "base": {"uri": "s3://models/bert"},
            }
        ),
    ]
    findings = found({"finetune": tasks})
    mood, few = findings["finetune mood"], findings["finetune few"]
    assert (mood.ok, mood.message) == (True, "classification by lora: at most 2.5 passes over the examples, 32 in a step")
    assert mood.details[0].startswith("2 processes, each 16 of the examples of a step; with 3 validations in a row")
    assert mood.details[1].startswith("from the model of this job, ")
    assert (few.message, few.details[1]) == (
        "classification by full: at most 19 steps of 32 examples",
        "from s3://models/bert",
    )


def test_more_gpus_for_a_task_than_the_machine_has_are_a_fault() -> None:
    spec = {"finetune": [task({"gpus": 4})]}
    finding = found(spec, Surroundings(gpus=(H100,)))["finetune mood"]
    assert finding.ok is False
    assert finding.message.startswith("spec.finetune (name mood).gpus: 4, this machine has 1; lower it, set it to 0")


FAMILY = {"hiddenSize": 768, "layers": 12, "heads": 12, "tieEmbeddings": True}


@pytest.mark.parametrize(
    ("family", "objective", "vocab", "parameters"),
    [
        # As published, but for the vocabulary, rounded up to 64, and half of the positions of GPT-2 small.
        ("gpt2", "causal-lm", 50_304, 124_439_808 + 47 * 768 - 512 * 768),
        ("bert", "masked-lm+next-sentence", 30_528, 110_106_428 + 6 * 769),
    ],
)
def test_a_model_of_another_family_is_counted_but_its_activations_are_not(
    family: str, objective: str, vocab: int, parameters: int
) -> None:
    spec = {
        "model": FAMILY | {"family": family},
        "tokenizer.train.vocabSize": vocab,
        "training": {"tokens": 10**7, "sequenceLength": 512, "globalBatchTokens": 512, "objective": objective},
    }
    findings = found(spec)
    assert findings["model"].message == f"{parameters:,} parameters"
    assert findings["model"].details[0].startswith(f"{family}: 12 layers x 768 wide, 12 heads, feed-forward 3072")
    assert findings["memory"].ok is None
    assert findings["memory"].message.endswith("activations are estimated for family llama only")
