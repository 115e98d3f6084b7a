"""Ways to train that the other tests do not take: bf16, no ZeRO, untied embeddings, compiled layers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import Site, Trained
from tests.trainer.jobs import SAMPLES, SEQUENCE, start

pytestmark = pytest.mark.slow


def bf16(site: Site, stage: int) -> Path:
    """A job in bf16 with untied embeddings, on two processes."""
    spec = site.job(precision="bf16", deepspeed={"zeroStage": stage}, processesPerNode=2)
    spec["spec"]["model"]["tieEmbeddings"] = False
    spec["spec"]["export"]["precision"] = "bf16"
    file = site.folder / "job.json"
    file.write_text(json.dumps(spec))
    return file


def test_bf16_without_zero_goes_on_after_a_kill(site: Site, trained: Trained) -> None:
    file = bf16(site, stage=0)
    run = start("launch", file)
    run.until("checkpoint", step=16)
    run.kill()
    assert start("launch", file).result["validation_loss"] == pytest.approx(trained.facts["validation_loss"], abs=0.1)
    losses = [line["loss"] for line in site.record() if line["kind"] == "step"]
    assert max(after - before for before, after in itertools.pairwise(losses)) < 0.5, "no jump where it went on"


def test_bf16_with_zero_3_comes_out_as_it_was_trained(site: Site, trained: Trained) -> None:
    """What evaluation and transformers make of the final weights agrees with what training saw."""
    file = bf16(site, stage=3)
    facts = start("launch", file).result
    assert facts["validation_loss"] == pytest.approx(trained.facts["validation_loss"], abs=0.1)
    assert start("evaluate", file).result["loss"] == pytest.approx(facts["validation_loss"], abs=0.2), "on all held-out text"
    assert start("export", file).result["parameters"] == facts["parameters"]
    model = AutoModelForCausalLM.from_pretrained(site.path("export"), use_safetensors=True)
    assert model.dtype == torch.bfloat16
    ids = torch.from_numpy(np.fromfile(site.path("tokens/held-out/topics/00001.ds"), dtype="<u2").astype(np.int64))
    windows = ids[: 24 * SEQUENCE + 1].unfold(0, SEQUENCE + 1, SEQUENCE)
    with torch.no_grad():
        logits = model.float()(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    assert loss == pytest.approx(facts["validation_loss"], abs=0.3)


def test_compiled_layers_learn_the_same(site: Site, trained: Trained) -> None:
    run = start("launch", site.write(compile=True, tokens=3 * SAMPLES * SEQUENCE))
    assert run.result["steps"] == 3
    eager = [line["loss"] for line in trained.site.record() if line["kind"] == "step"][:2]
    compiled = [line["loss"] for line in site.record() if line["kind"] == "step"][:2]
    assert compiled == pytest.approx(eager, rel=1e-4)
