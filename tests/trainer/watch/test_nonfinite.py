"""A step whose loss or gradient is no number, on two processes: its update is left out on both, in every stage and precision."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pretrain_trainer import checkpoint

from tests.trainer.conftest import Site
from tests.trainer.watch.faults import start_faulty

CASES = {f"zero-{stage}-{precision}": (stage, precision) for precision in ("fp32", "bf16") for stage in (0, 1, 2, 3)}


@pytest.fixture(scope="module")
def told(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What both processes say of each case."""
    from pretrain_stage.storage import open_folder

    files = []
    for name, (stage, precision) in CASES.items():
        folder = tmp_path_factory.mktemp("nonfinite") / name
        folder.mkdir()
        site = Site(folder, open_folder(prepared))
        spec = site.job(deepspeed={"zeroStage": stage}, precision=precision, processesPerNode=2)
        spec["spec"]["model"] = {"hiddenSize": 64, "layers": 1, "heads": 2}
        path = folder / "job.json"
        path.write_text(json.dumps(spec))
        files.append(str(path))
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    program += [str(Path(__file__).with_name("nonfinite_probe.py")), *files]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith("TOLD "))
    return {name: json.loads(said) for _, name, said in lines}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_update_is_left_out_on_all_processes(case: str, told: dict[str, list[dict[str, Any]]]) -> None:
    assert len(told[case]) == 2
    for of_rank in told[case]:
        assert not math.isfinite(of_rank["norm"]) or of_rank["norm"] < 0, "both processes know"
        assert of_rank["tensors"] > 10, "weights, master weights and moments were compared"
        assert of_rank["as_before"]
        assert of_rank["goes_on"]
        assert of_rank["as_if_it_had_not_been"], "neither moments nor their count of steps saw it"


@pytest.mark.slow
def test_one_is_counted_and_three_in_a_row_stop_the_run_with_the_last_good_checkpoint_untouched(site: Site) -> None:
    run = start_faulty(site.write(checkpoints={"everySteps": 8}), nonfinite=[8, 20, 21, 22])
    run.ended()
    warnings = [(said["step"], said["in_a_row"]) for said in run.of("warning") if "in_a_row" in said]
    assert warnings == [(8, 1), (20, 1), (21, 2), (22, 3)], run.errors
    assert "step 22: loss is nan, the 3rd time in a row, so training cannot go on" in run.errors[-1]
    assert "checkpoints/step-00000016-attempt-1 is the last good checkpoint" in run.errors[-1]
    committed = [said["step"] for said in run.of("checkpoint")]
    assert committed == [9, 16], "that of step 8 waited for a step that is a number"
    assert checkpoint.committed_steps(site.storage) == [16, 9]
