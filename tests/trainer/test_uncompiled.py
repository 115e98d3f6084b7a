"""A rank that compiles nothing does not import torch's compiler, in any ZeRO stage, and steps as it would with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys, tempfile
from pretrain_trainer.uncompiled import leave_compiler_out
if sys.argv[1] == "without":
    leave_compiler_out()
sys.modules["mlflow"] = None
import deepspeed, torch

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.init_distributed(dist_backend="gloo", verbose=False)
weights = []
for stage in (0, 1, 2, 3):
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))
        config = {"train_batch_size": 4, "zero_optimization": {"stage": stage}, "bf16": {"enabled": precision == "bf16"}}
        config |= {"zero_allow_untested_optimizer": True, "gradient_clipping": 1.0}
        engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.1), config=config)
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        for _ in range(3):
            given = torch.ones(4, 8, dtype=kind, requires_grad=True)
            engine.backward(engine(given).float().square().sum())
            engine.step()
        with tempfile.TemporaryDirectory() as folder:
            engine.save_checkpoint(folder)
            engine.load_checkpoint(folder)
        with deepspeed.zero.GatheredParameters(list(engine.parameters())):
            weights.append([parameter.float().tolist() for parameter in engine.parameters()])
print(json.dumps([weights, "torch._dynamo" in sys.modules]))
"""


def outcome(how: str) -> list[object]:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    run = subprocess.run([sys.executable, "-c", PROGRAM, how], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    found: list[object] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_the_compiler_is_not_imported_and_every_stage_steps_the_same() -> None:
    weights, imported = outcome("without")
    assert not imported
    assert outcome("with") == [weights, True]
