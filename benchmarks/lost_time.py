"""Time lost to faults: our training group, started again as the operator would, against torchrun and DeepSpeed as they come.

Both sides train the same model on the same samples with two processes on this machine, a checkpoint every ten steps on a folder, and
meet the same seeded faults: processes killed, a process stopped, a checkpoint flipped. The peer is `torchrun --max-restarts 20`
around a plain DeepSpeed loop (plain_deepspeed.py) with engine.save_checkpoint and the file `latest`; where its torchrun itself is
gone, it is started again at once, as ours is. The time that a fault costs runs from the fault until the step after the last
that had been done before it is done: so detection, start and steps that are done again are all in it.

    detect      fault until all ranks of the old group are gone
    recreate    until the new rank 0 is a process
    imports, rendezvous, inputs, checkpoint, engine, load, first_step    of the new rank 0, as it says; inputs: plan and tokens,
                checkpoint: found, fetched and verified, which the peer does not do
    again       steps that are done again

What does not come back within CAP_SECONDS is ended by hand and counted with that time, which is then a lower bound: gloo's own limit is
30 minutes, and a checkpoint that cannot be loaded never loads. By hand means: all processes killed; of the peer's checkpoints
`latest` set to the one before. --patient waits for 40 minutes.

    python -m benchmarks.lost_time [--patient]
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain_stage.storage import Storage, open_folder

from benchmarks.figure import Figure, table
from tests.faults.audit import damage
from tests.faults.group import Group, is_alive, start_group, watch
from tests.faults.runner import Trigger
from tests.faults.schedule import Damage, Fault, Kill, Moment, Schedule, Stop, in_order
from tests.trainer.jobs import SAMPLES, SEQUENCE, job, prepare, write_job

STEPS, INTERVAL = 160, 10
CAP_SECONDS = 240.0
PATIENT_SECONDS = 2400.0
GOAL = 0.1
SEED = 7
PARTS = ("detect", "recreate", "imports", "rendezvous", "inputs", "checkpoint", "engine", "load", "first_step", "again")


@dataclass(frozen=True)
class Lost:
    """What one fault cost. seconds: part by part where they were told. capped: whether somebody had to help."""

    fault: str
    total: float
    seconds: Mapping[str, float]
    capped: bool


@dataclass
class Side:
    """How one side is started, damaged and helped."""

    start: Callable[[int], Group]
    damage: Callable[[Damage], None]
    rescue: Callable[[], None]
    name: str
    lost: list[Lost] = field(default_factory=list)


def figures(cap: float = CAP_SECONDS) -> list[Figure]:
    """Seconds lost under one schedule, and under its kills alone. cap: after how many of them somebody helps."""
    schedule = mixture(SEED)
    with tempfile.TemporaryDirectory() as name:
        sides = [ours(Path(name) / "ours"), peer(Path(name) / "peer")]
        for side in sides:
            side.lost = suffered(side, schedule, cap)
    print(told(sides))
    other = sides[1]
    kinds = [isinstance(fault, Kill) for fault in schedule]
    all_of, killed = ([sum(lost.total for lost in side.lost) for side in sides], [_killed(side, kinds) for side in sides])
    return [
        Figure("lost-time", all_of[0], all_of[1], f"{other.name}, lower bound", "s/schedule", GOAL, "lower"),
        Figure("lost-time-kills-alone", killed[0], killed[1], other.name, "s/kill", 1.0, "lower"),
    ]


def main() -> int:
    found = figures(PATIENT_SECONDS if "--patient" in sys.argv else CAP_SECONDS)
    print(table(found))
    return 0 if all(figure.holds for figure in found) else 1


def mixture(seed: int) -> Schedule:
    """Three kills of a rank, one of a whole group, a rank that is stopped, and a checkpoint that is flipped: spread over the steps."""
    drawn = random.Random(seed)
    steps = [25 * number + drawn.randrange(2, 9) for number in range(1, 7)]
    moments = [Moment(step, "step", drawn.random()) for step in steps]
    drawn.shuffle(moments)
    ranks = [drawn.choice(("rank 0", "rank 1")) for _ in range(4)]
    faults: list[Fault] = [Kill(moments[number], ranks[number]) for number in range(3)]  # type: ignore[arg-type]
    faults += [Kill(moments[3], "all"), Stop(moments[4], ranks[3])]  # type: ignore[arg-type]
    faults += [Damage(moments[5], "flip", drawn.random(), drawn.random())]
    return in_order(faults)


def suffered(side: Side, schedule: Schedule, cap: float) -> list[Lost]:
    """Trains to the end under the schedule; returns what each fault cost."""
    lost, starts = [], 1
    group = side.start(starts)
    for fault in schedule:
        trigger = Trigger(fault.at, None)
        while not (group.first_step_at is not None and trigger.come(group.step)):
            assert not group.ended, f"{side.name} ended before {fault}: {_errors(group)}"
            time.sleep(0.005)
        done, began = group.step, time.monotonic()
        ranks = [*group.pids("rank 0"), *group.pids("rank 1")]
        said = len(group.said)
        _bring(fault, group)
        gone, capped, damaged = None, False, False
        while group.step <= done:
            now = time.monotonic()
            if gone is None and not any(map(is_alive, ranks)):
                gone = now
            if now - began > cap and not capped:
                capped = True
                group.kill()
                side.rescue()
            if group.ended:
                if isinstance(fault, Damage) and not damaged:
                    damaged = True
                    side.damage(fault)
                starts, said = starts + 1, 0
                group = side.start(starts)
            time.sleep(0.005)
        back = time.monotonic()
        lost.append(_lost(fault, began, gone or began, back, group, said, capped))
        print(f"{side.name}: {lost[-1]}", file=sys.stderr, flush=True)
    while not group.ended:
        time.sleep(0.05)
    assert group.process.returncode == 0, _errors(group)
    return lost


def _bring(fault: Fault, group: Group) -> None:
    match fault:
        case Kill():
            group.send(signal.SIGKILL, fault.process)
        case Stop():
            group.send(signal.SIGSTOP, fault.process)
        case Damage():
            group.send(signal.SIGKILL, "all")
        case _:
            raise AssertionError(fault)


def _lost(fault: Fault, began: float, gone: float, back: float, group: Group, said: int, capped: bool) -> Lost:
    starts = [(when, event) for when, event in list(group.said)[said:] if event["event"] == "started"]
    seconds = {"detect": gone - began}
    if starts:
        when, event = starts[-1]
        process = when - sum(event["parts"].values())
        seconds |= {"recreate": process - gone, **event["parts"], "again": back - when}
    kind = type(fault).__name__.lower()
    of = "" if isinstance(fault, Damage) else f" {fault.process}"  # type: ignore[union-attr]
    return Lost(f"{kind}{of}", back - began, seconds, capped)


def ours(folder: Path) -> Side:
    storage, job_file = _prepared(folder)

    def start(attempt: int) -> Group:
        return start_group(job_file, attempt, folder / "temporary", {})

    def damaged(fault: Damage) -> None:
        assert damage(storage, fault) is not None

    def rescue() -> None:
        pass

    return Side(start, damaged, rescue, "ours")


def peer(folder: Path) -> Side:
    _, job_file = _prepared(folder)
    temporary, checkpoints = folder / "temporary", folder / "checkpoints"
    temporary.mkdir()
    program = Path(__file__).with_name("plain_deepspeed.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--max-restarts=20",
        "--rdzv-backend=c10d",
    ]
    command += ["--rdzv-endpoint=127.0.0.1:0", str(program), str(job_file), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TMPDIR": str(temporary)}
    environment["PYTHONPATH"] = str(Path.cwd())

    def start(attempt: int) -> Group:
        return watch(command, attempt, temporary, environment)

    def damaged(fault: Damage) -> None:
        newest = checkpoints / (checkpoints / "latest").read_text()
        files = sorted(newest.glob("*.pt"))
        path = files[int(fault.file * len(files))]
        data = bytearray(path.read_bytes())
        data[int(fault.part * len(data))] ^= 1
        path.write_bytes(data)

    def rescue() -> None:
        latest = checkpoints / "latest"
        newest = int(latest.read_text().removeprefix("global_step"))
        latest.write_text(f"global_step{newest - INTERVAL}")

    return Side(start, damaged, rescue, "torchrun and DeepSpeed")


def _prepared(folder: Path) -> tuple[Storage, Path]:
    folder.mkdir()
    storage = open_folder(folder / "storage")
    (folder / "prepare").mkdir()
    prepare(storage, folder / "prepare")
    spec = job(
        storage.uri,
        tokens=STEPS * SAMPLES * SEQUENCE,
        processesPerNode=2,
        checkpoints={"everySteps": INTERVAL, "keepLast": 3},
        validation={"everySteps": STEPS, "maxSequences": 24},
        maxEpochs=1000,
    )
    return storage, write_job(folder, spec)


def told(sides: Sequence[Side]) -> str:
    """A table: of each side the median seconds of each part over its kills, and each fault's total."""
    lines = [f"{'median of the kills, s':<24}" + "".join(f"{part:>11}" for part in PARTS)]
    for side in sides:
        kills = [lost for lost in side.lost if lost.fault.startswith("kill")]
        medians = [statistics.median([lost.seconds.get(part, 0.0) for lost in kills]) for part in PARTS]
        lines.append(f"{side.name:<24}" + "".join(f"{seconds:>11.2f}" for seconds in medians))
    for side in sides:
        each = ", ".join(f"{lost.fault} {'>' if lost.capped else ''}{lost.total:.1f}" for lost in side.lost)
        lines.append(f"{side.name}: {each}")
    return "\n".join(lines)


def _killed(side: Side, kinds: Sequence[bool]) -> float:
    return statistics.mean([lost.total for lost, kill in zip(side.lost, kinds, strict=True) if kill])


def _errors(group: Group) -> Any:
    return [event["message"] for _, event in group.events("error")]


if __name__ == "__main__":
    sys.exit(main())
