"""One rank of the peer of lost_time.py: a plain DeepSpeed loop, as its own documentation writes one, started by torchrun.

    torchrun --nproc-per-node 2 --max-restarts 20 benchmarks/plain_deepspeed.py JOB FOLDER

It trains the model of JOB on the same samples, saves with engine.save_checkpoint every n steps to FOLDER/checkpoints, and goes on
from what the file `latest` names there. It says what a rank of ours says: `started` with seconds part by part, and `step`; and it
notes the last step that was done where ours does.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from pretrain_stage.process import process_age

sys.modules["mlflow"] = None  # type: ignore[assignment]  # the image has none; DeepSpeed's autotuner would import it with pandas
PARTS: dict[str, float] = {}
CLOCK = [time.monotonic() - process_age()]


def reached(part: str) -> None:
    """Counts the time since the last call."""
    now = time.monotonic()
    PARTS[part] = round(now - CLOCK[0], 3)
    CLOCK[0] = now


def main(job_file: Path, folder: Path) -> None:
    import deepspeed
    import torch
    from pretrain_stage.config import read_job
    from pretrain_stage.storage import open_storage
    from pretrain_trainer.batches import Batches
    from pretrain_trainer.config.sections import TrainerSpec
    from pretrain_trainer.course import Pretraining
    from pretrain_trainer.engine import deepspeed_config
    from pretrain_trainer.environment import quiet
    from pretrain_trainer.objective import TOKENS
    from pretrain_trainer.plan import make_plan
    from pretrain_trainer.ranks import Group, place

    quiet()
    reached("imports")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would compile a C++ extension at its first start
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    reached("rendezvous")
    job = read_job(job_file, TrainerSpec)
    where = place()
    group = Group(place=where, device=torch.device("cpu"), control=torch.distributed.new_group(backend="gloo"))
    storage = open_storage(job.spec.storage)
    plan = make_plan(job, storage, where.world_size)
    course = Pretraining(plan, storage, group)
    reached("inputs")
    torch.manual_seed(job.spec.training.seed)
    model = course.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.spec.training.optimizer.learning_rate)
    config = deepspeed_config(job.spec.training, plan.batch, universal=False)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    reached("engine")
    _, client = engine.load_checkpoint(str(folder / "checkpoints"))
    done = client["step"] if client else 0
    reached("load")
    say("info", first_step=done + 1)

    batches = Batches(plan, course.samples, group)
    note = Path(tempfile.gettempdir()) / "pretrain-scratch-plain" / "furthest-step"
    note.parent.mkdir(exist_ok=True)
    furthest = int(note.read_text()) if note.exists() else 0
    for step in range(done + 1, plan.batch.steps + 1):
        for inputs, targets in batches.take(step)[0]:
            logits = engine(inputs[TOKENS])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[TOKENS].flatten())
            engine.backward(loss)
            engine.step()
        if where.first:
            furthest = max(furthest, step)
            note.write_text(f"{furthest:020d}")
            if step == done + 1:
                reached("first_step")
                say("step", step=step)
                say("started", parts=PARTS)
        if step % job.spec.training.checkpoints.every_steps == 0:
            engine.save_checkpoint(str(folder / "checkpoints"), client_state={"step": step})
    if where.first:
        say("result", loss=loss.item())


def say(event: str, **fields: object) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"event": event, "message": event, **fields}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
