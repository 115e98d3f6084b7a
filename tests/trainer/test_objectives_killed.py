"""Runs of every objective that are killed, and gone on with by another number of processes: same samples, same losses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pretrain_trainer import checkpoint

from tests.trainer.conftest import Site
from tests.trainer.jobs import MODELS, SAMPLES, SEQUENCE, samples_taken, start, write_job

pytestmark = pytest.mark.slow

STEPS = 12


def job(site: Site, objective: str, processes: int) -> Path:
    """Without clipping, whose sums over two processes' partitions are rounded otherwise than over one's."""
    spec = site.job(
        objective=objective,
        tokens=STEPS * SAMPLES * SEQUENCE,
        processesPerNode=processes,
        optimizer={"learningRate": 3e-3, "gradientClipping": 0},
        checkpoints={"everySteps": 4},
        validation={"everySteps": STEPS, "maxSequences": 24},
    )
    spec["spec"]["model"] = {**MODELS[objective], "dropout": 0.1}
    return write_job(site.folder, spec)


def places(folder: Path) -> dict[int, int]:
    """What was taken at each global index, by all processes of all starts."""
    lines = [json.loads(line) for path in folder.iterdir() for line in path.read_text().splitlines()]
    return {index: place for line in lines for index, place in zip(line["indices"], line["samples"], strict=True)}


@pytest.mark.parametrize("objective", ["masked-lm", "masked-lm+next-sentence", "span-corruption"])
def test_a_killed_run_is_gone_on_with_by_two_processes_to_the_last_bit(
    objective: str, new_site: Callable[[str], Site]
) -> None:
    whole, killed = new_site("whole"), new_site("killed")
    expected = start("launch", job(whole, objective, 1), "--record-samples", str(whole.folder / "samples")).result
    options = ("--record-samples", str(killed.folder / "samples"))
    one = start("launch", job(killed, objective, 1), *options)
    one.until("checkpoint")
    one.kill()
    assert checkpoint.committed_steps(killed.storage)[0] < STEPS
    two = start("launch", job(killed, objective, 2), *options)
    found = two.result
    assert two.of("info")[0]["first_step"] > 4
    for fact in ("final_loss", "validation_loss", "accuracy"):
        assert found[fact] == expected[fact]
    assert set(samples_taken(killed.folder / "samples")) == set(range(STEPS * SAMPLES))
    assert places(killed.folder / "samples") == places(whole.folder / "samples")
    steps = [[line["loss"] for line in site.record() if line["kind"] == "step"] for site in (whole, killed)]
    assert steps[0] == steps[1]
