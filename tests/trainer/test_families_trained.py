"""Models of transformers' classes in the loop: the same steps on any number of processes, in any ZeRO stage, and after a resume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pretrain_stage.storage import open_folder

from tests.trainer.conftest import Site
from tests.trainer.jobs import MODELS, SAMPLES, SEQUENCE, probed, write_job

pytestmark = pytest.mark.slow

PROBE = "tests.trainer.families_probe"
STEPS = 6
ZERO_0, ZERO_3 = {"deepspeed": {"zeroStage": 0}}, {"deepspeed": {"zeroStage": 3}}
BF16 = {"precision": "bf16"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("causal-lm", ZERO_0),
    "bert": ("masked-lm+next-sentence", {}),
    "marian": ("span-corruption", ZERO_3),
    "bert in bf16": ("masked-lm", BF16 | ZERO_3),
    "bert in bf16, untied": ("masked-lm+next-sentence", BF16 | ZERO_0),
    "marian in bf16, recomputed": ("span-corruption", BF16 | {"activationCheckpointing": True}),
    "muon": ("causal-lm", ZERO_0 | {"optimizer": {"name": "muon", "learningRate": 3e-3}}),
    "adam with l1": ("causal-lm", {"optimizer": {"name": "adam", "learningRate": 3e-3, "l1": 1e-5}}),
}
"""The objective, of which the family follows, and fields of spec.training; ZeRO 2 and fp32 where they say nothing else."""
UNTIED = ("bert in bf16, untied",)
"""Cases whose output has weights of its own."""
ALONE = ("gpt2",)
"""Cases that one process computes as well."""


def write(site: Site, name: str) -> Path:
    """Six steps with dropout, a model whose matrices are large enough that ZeRO 3 divides them."""
    objective, training = CASES[name]
    whole = site.job(objective=objective, **{"tokens": STEPS * SAMPLES * SEQUENCE, **training})
    shape = {"hiddenSize": 128, "intermediateSize": 1024, "layers": 1, "heads": 4, "tieEmbeddings": name not in UNTIED}
    whole["spec"]["model"] = {"family": MODELS[objective]["family"], **shape, "dropout": 0.1}
    return write_job(site.folder, whole).rename(site.folder / f"{name}.json")


@pytest.fixture(scope="module")
def by_two(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """All cases on two processes, and the folder of their jobs."""
    folder = tmp_path_factory.mktemp("families")
    files = []
    for number, name in enumerate(CASES):
        own = folder / f"case-{number}"
        own.mkdir()
        shutil.copytree(prepared, own / "storage")
        files.append(write(Site(own, open_folder(own / "storage")), name))
    return folder, probed(PROBE, folder, files, 2)


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_goes_on_to_the_last_bit(by_two: tuple[Path, dict[str, dict[str, Any]]], name: str) -> None:
    found = by_two[1][name]
    assert found["resumed"] == found["losses"][3:]
    assert found["losses"][-1] < found["losses"][0] - 0.05, "it learns"


def test_one_process_with_two_micro_batches_computes_what_two_do(
    by_two: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    """With dropout; and it goes on from the checkpoint of two processes."""
    folder, found = by_two
    files = [folder / f"case-{number}" / f"{name}.json" for number, name in enumerate(CASES) if name in ALONE]
    alone = probed(PROBE, folder, files, 1)
    for name in ALONE:
        for what in ("losses", "resumed", "validation_loss"):
            assert alone[name][what] == found[name][what], name
