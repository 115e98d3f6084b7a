"""What follows training: evaluation, the exported folder, the report."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_stage.config import read_job
from pretrain_stage.manifest import read_manifest
from pretrain_trainer.config.sections import TrainerSpec
from pretrain_trainer.model import build_model
from pretrain_trainer.plan import make_plan
from pretrain_trainer.weights import load_model, load_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainer.browser import CHROMIUM, look
from tests.trainer.conftest import Site, Trained
from tests.trainer.jobs import start, write_job

TOLERANCE = 1e-5
"""Largest difference of a logit. Both run in fp32 with the same kernels; 0 was seen."""


@pytest.fixture(scope="module")
def site(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A copy of the trained job's folder in which the last three stages have run."""
    site = trained.copy(tmp_path_factory.mktemp("after") / "site", steps=trained.facts["steps"])
    for stage in ("evaluate", "export", "report"):
        run = start(stage, site.write())
        assert run.ended() == 0, run.errors
    return site


def test_evaluation_covers_all_held_out_text(site: Site) -> None:
    report = json.loads(site.path("reports/evaluation.json").read_text())
    tokenize = read_manifest(site.storage, "tokenize")
    assert tokenize is not None
    assert report["tokens"] == int(str(tokenize.facts["held_out_tokens"])) - 1
    assert report["perplexity"] == pytest.approx(math.exp(report["loss"]))
    assert report["bits_per_byte"] == pytest.approx(report["loss"] * report["tokens"] / math.log(2) / report["bytes"])
    assert report["loss"] < math.log(1000), "it has learned something"
    assert report["sources"]["topics"]["loss"] == report["loss"], "there is but one source"
    assert report["before"] is None
    assert all(sample["tokens"] for sample in report["samples"])


def test_the_export_gives_the_same_logits_in_transformers(site: Site, tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(site.path("export"), dtype=torch.float32, use_safetensors=True).eval()
    ours = trained_model(site, tmp_path).eval()
    tokens = torch.randint(0, theirs.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (theirs(input_ids=tokens).logits - ours(tokens)).abs().max().item()
        fresh = (theirs(input_ids=tokens).logits - untrained_model(site)(tokens)).abs().max().item()
    assert difference <= TOLERANCE
    assert fresh > 100 * TOLERANCE, "logits of other weights differ, so the comparison means something"


def test_the_export_brings_its_tokenizer(site: Site) -> None:
    tokenizer = AutoTokenizer.from_pretrained(site.path("export"))
    text = "Python 的文档 and its text."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    config = json.loads(site.path("export/config.json").read_text())
    assert tokenizer.eos_token_id == config["eos_token_id"]
    assert len(tokenizer) <= config["vocab_size"]


def test_the_model_card_carries_the_lineage(site: Site) -> None:
    card = site.path("export/README.md").read_text()
    for stage in ("tokenizer", "tokenize", "train"):
        manifest = read_manifest(site.storage, stage)
        assert manifest is not None
        assert manifest.digest in card


def test_the_report_is_one_page_with_everything_in_it(site: Site) -> None:
    page = site.path("reports/index.html").read_text()
    evaluation = json.loads(site.path("reports/evaluation.json").read_text())
    assert not re.search(r"(src|href)=[\"']?(https?:|/)", page), "it must open without a network"
    assert f"{evaluation['perplexity']:,.2f}" in page
    assert "<td>topics</td>" in page
    assert page.count("<blockquote") == len(evaluation["samples"])
    for stage in ("tokenizer", "tokenize", "train", "evaluate", "export"):
        manifest = read_manifest(site.storage, stage)
        assert manifest is not None
        assert manifest.digest in page
    assert "globalBatchTokens: 256" in page
    picture = site.path("reports/curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, in PATH or named by CHROMIUM")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_report_opens_in_a_browser(site: Site, width: int, dark: bool) -> None:
    page = site.path("reports/index.html")
    seen = look(page, width, dark)
    assert seen.complaints == []
    assert [address for address in seen.requests if not address.startswith("data:")] == [page.as_uri()]
    assert seen.headings == [
        "Curves", "Goodput", "Documents", "Checkpoints", "Evaluation", "Samples", "Lineage", "Configuration",
    ]  # fmt: skip
    assert seen.width <= width, "nothing reaches out of the window"
    assert re.fullmatch(r"step 2\d: training \d\.\d+, validation \d\.\d+", seen.pointed)
    assert seen.picture.startswith(b"\x89PNG")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, in PATH or named by CHROMIUM")
def test_what_should_not_be_in_the_report_is_noticed(site: Site, tmp_path: Path) -> None:
    text = site.path("reports/index.html").read_text()
    page = tmp_path / "index.html"
    page.write_text(text.replace("</body>", '<img src="https://example.org/x.png"><script>alert(1)</script></body>'))
    complaints = " ".join(look(page, 1280).complaints)
    assert "img-src" in complaints
    assert "script-src" in complaints


def test_the_ledger_that_an_engine_hands_over_is_in_the_report(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.storage.uri, tmp_path / "storage")
    (tmp_path / "storage" / "stages" / "report.json").unlink()
    spec = site.job()
    spec["spec"]["storage"]["uri"] = str(tmp_path / "storage")
    job_file = write_job(tmp_path, spec)
    page = tmp_path / "storage" / "reports" / "index.html"
    assert "Nobody kept an account of the whole job" in page.read_text()
    ledger = {"queued": 30.0, "productive": 90.0}
    run = start("report", job_file, PRETRAIN_LEDGER=json.dumps(ledger))
    assert run.ended() == 0, run.errors
    assert "Where the job's 2:00 min went" in page.read_text()
    assert 'title="queued: 30 s, 25.0%"' in page.read_text()
    later = start("report", job_file, PRETRAIN_LEDGER=json.dumps({**ledger, "down": 99.0}))
    assert later.ended() == 0
    assert later.result["unchanged"] is True, "that time has passed makes no new report"
    (tmp_path / "storage" / "stages" / "report.json").unlink()
    wrong = start("report", job_file, PRETRAIN_LEDGER="[1]")
    assert wrong.ended() == 65
    assert wrong.errors[0].startswith("PRETRAIN_LEDGER: '[1]' is no JSON object")


def test_text_of_users_and_models_is_escaped(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.storage.uri, tmp_path / "storage")
    evaluation = tmp_path / "storage" / "reports" / "evaluation.json"
    report = json.loads(evaluation.read_text())
    report["samples"][0]["continuation"] = "<script>alert(1)</script>"
    evaluation.write_text(json.dumps(report))
    (tmp_path / "storage" / "stages" / "report.json").unlink()
    spec = site.job()
    spec["spec"]["storage"]["uri"] = str(tmp_path / "storage")
    job_file = tmp_path / "job.json"
    job_file.write_text(json.dumps(spec))
    run = start("report", job_file)
    assert run.ended() == 0, run.errors
    page = (tmp_path / "storage" / "reports" / "index.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_finished_stages_are_not_run_again(site: Site) -> None:
    for stage in ("evaluate", "export", "report"):
        run = start(stage, site.write())
        assert run.ended() == 0
        assert run.result["unchanged"] is True


def trained_model(site: Site, scratch: Path) -> Any:
    """Our decoder with the weights of the final checkpoint."""
    plan = make_plan(read_job(site.write(), TrainerSpec), site.storage, 1)
    training = read_manifest(site.storage, "train")
    assert training is not None
    return load_model(plan, load_weights(site.storage, training, scratch))


def untrained_model(site: Site) -> Any:
    """Our decoder as training found it."""
    plan = make_plan(read_job(site.write(), TrainerSpec), site.storage, 1)
    torch.manual_seed(plan.job.spec.training.seed)
    return build_model("llama", plan.shape, plan.vocab_size)
