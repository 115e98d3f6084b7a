"""A stand-in for the stage programs: keeps their contract (parts, manifests, events, exit codes) and does no work.

    program.py STAGE --job FILE [--index I] [--stride S]

What it should do is in the job file, by stage: {"tasks": 3, "seconds": 0.1, "steps": 50, "fault": "user", ...}.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pretrain_stage import manifest
from pretrain_stage.errors import StorageError, UserError
from pretrain_stage.events import Events
from pretrain_stage.process import Stopped, run_stage
from pretrain_stage.storage import Storage, open_folder


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("--job", type=Path)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--stride", type=int)
    arguments = parser.parse_args()
    job = json.loads(arguments.job.read_text())
    wanted = job["stages"][arguments.stage]
    storage = open_folder(Path(job["storage"]))
    write(storage, f"environment/{arguments.stage}-{arguments.index}.json", dict(os.environ))
    if wanted.get("late"):  # dead parents must be noticed even before run_stage is reached
        time.sleep(wanted["late"])
    events = Events({"stage": arguments.stage, "index": arguments.index})
    work = train if "steps" in wanted else tasks
    return run_stage(events, lambda: work(arguments, wanted, storage, events))


def tasks(arguments: argparse.Namespace, wanted: dict[str, Any], storage: Storage, events: Events) -> None:
    """Does the tasks I, I+S, I+2S, ... and leaves a part for each."""
    stage, count = arguments.stage, wanted.get("tasks", 1)
    identity = manifest.identity(stage, 1, wanted.get("config"), {})
    for index in range(arguments.index, count, arguments.stride or count):
        said = Events({"stage": stage, "index": index})
        if manifest.finished_part(storage, stage, identity, index):
            said.say("result", "unchanged", unchanged=True)
            continue
        while wanted.get("awaits") and not (Path(storage.uri) / wanted["awaits"]).exists():
            time.sleep(0.02)
        misbehave(index, wanted, said)
        for document in range(10):
            time.sleep(wanted.get("seconds", 0) / 10)
            said.progress(document + 1, 10, "documents", last=True)
        counts = manifest.Counts(read=10, kept=8, dropped={"quality": {"short": 2}})
        manifest.leave_part(storage, manifest.Part(stage=stage, index=index, identity=identity, counts=counts))
        append(storage, "done.txt", f"{stage} {index}")
        said.say("result", "done", counts=counts.model_dump())
    manifest.close(storage, stage, identity, wanted.get("config"), {}, count)


def misbehave(index: int, wanted: dict[str, Any], events: Events) -> None:
    match wanted.get("fault") if index == wanted.get("fault_at", 0) else wanted.get("also"):
        case "user":
            raise UserError("corpus.sources[0].uri: /nowhere holds no files; correct it")
        case "storage":
            time.sleep(0.5)
            raise StorageError("storage: cannot write s3://bucket/key (503)", temporary=True)
        case "ours":
            raise RuntimeError("a fault of ours")
        case "silent":
            print("the library says why", file=sys.stderr, flush=True)
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            events.info("deaf")
            time.sleep(60)


def train(arguments: argparse.Namespace, wanted: dict[str, Any], storage: Storage, events: Events) -> None:
    """Counts steps; its checkpoint is written when it is asked to stop, and takes a while."""
    start, begun = int(storage.read("checkpoint") or 0), time.monotonic()
    try:
        for step in range(start, wanted["steps"]):
            time.sleep(wanted.get("seconds", 0.02))
            append(storage, "steps.txt", str(step))
            account = {"initializing": 0.0, "productive": time.monotonic() - begun}
            numbers = {"loss": 5 / (step + 1), "tokens_per_second": 1e4, "seconds": account}
            events.say("step", f"step {step + 1}", step=step + 1, steps=wanted["steps"], **numbers)
            done = step + 1
    except Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(wanted.get("saving", 0))
        storage.write("checkpoint", str(done).encode())
        raise


def write(storage: Storage, path: str, value: object) -> None:
    storage.write(path, json.dumps(value).encode())


def append(storage: Storage, path: str, line: str) -> None:
    """Adds a line that survives a kill."""
    target = storage.local_path(path)
    assert target is not None
    with target.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
