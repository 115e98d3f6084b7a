"""From a checkpoint to the engine: find what to go on from, fetch it, load it. How one is made is in saver.py.

DeepSpeed reads files on local disk only; `checkpoint` brings them there. All processes call these functions together.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepspeed.checkpoint import ds_to_universal
from pretrain_stage.errors import CorruptError, UserError
from pretrain_stage.events import Events
from pretrain_stage.storage import Storage
from pydantic import JsonValue

from pretrain_trainer import checkpoint
from pretrain_trainer.checkpoint import CheckpointManifest, Folder, RankFile, Reference
from pretrain_trainer.plan import RunPlan
from pretrain_trainer.ranks import Group

WEIGHTS = "mp_rank_00_model_states.pt"
"""The file with the whole model under ZeRO 0, 1 and 2. Process 0 writes it, all read it."""
KEPT = "kept"
"""What DeepSpeed's files call that which a model has kept besides weights."""


@dataclass(frozen=True)
class Resume:
    """A checkpoint to go on from: verified, on this node's disk, in a form that this number of processes can load."""

    manifest: CheckpointManifest
    folder: Path
    universal: bool
    """Whether it was converted, since another number of processes or another ZeRO stage wrote it."""
    refused: tuple[Folder, ...]
    """Newer checkpoints that did not verify."""
    reference: Reference
    """The same, as the parent of the checkpoints that follow."""


def find_resume(storage: Storage, plan: RunPlan, group: Group, scratch: Path, events: Events) -> Resume | None:
    """The newest committed checkpoint whose files all verify, on local disk; None if training starts from the beginning.

    Says as a warning why each newer one was passed over. Raises UserError if a checkpoint belongs to another training, or if
    there are committed ones but none verifies.
    """
    refused: list[Folder] = []
    for place in group.from_first(lambda: _candidates(storage, events)):
        found = _take(storage, place, plan, group, scratch)
        if isinstance(found, CheckpointManifest):
            return _resume(storage, found, plan, group, scratch, tuple(refused))
        refused.append(place)
        if group.place.first:
            events.warning(f"checkpoint refused: {found}", step=place.step)
    if refused:
        raise UserError(
            f"{storage.uri}/{checkpoint.ROOT}: none of its {len(refused)} committed checkpoints verifies; restore one, or delete "
            "the folder to train from the beginning"
        )
    return None


def load(engine: Any, resume: Resume, group: Group) -> None:
    """Puts the checkpoint into the engine, and removes it from local disk. Raises UserError if DeepSpeed finds nothing."""
    optimizer = engine.optimizer
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    path, client = engine.load_checkpoint(
        str(resume.folder.parent),
        tag=resume.folder.name,
        load_module_strict=engine.module.whole_checkpoints,
        load_lr_scheduler_states=False,
    )
    if path is None:
        raise UserError(
            f"{resume.manifest.folder}: DeepSpeed found nothing to load in {resume.folder}; delete it from storage"
        )
    engine.module.restore(client.get(KEPT, {}))
    # The optimizer's constants are the job's, which may have changed; and ZeRO 3 gives every group those of the first.
    for group_settings, own in zip(optimizer.param_groups, settings, strict=True):
        group_settings.update(own)
    if resume.universal:
        _part_step_counts(optimizer.optimizer)
    group.wait()
    if group.place.local_rank == 0:
        shutil.rmtree(resume.folder.parent)


def _part_step_counts(optimizer: Any) -> None:
    """Gives each tensor's state a step count of its own.

    From a converted checkpoint ZeRO 3 gives all of them one tensor, which each step would then raise once for each of them.
    """
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].clone()


def _candidates(storage: Storage, events: Events) -> list[Folder]:
    """Committed checkpoints, newest first; says which newer folders were never finished."""
    committed = checkpoint.committed(storage)
    for place in checkpoint.folders(storage):
        if (not committed or place > committed[0]) and storage.size(f"{place}/{checkpoint.MARKER}") is None:
            events.warning(
                f"{storage.uri}/{place}/{checkpoint.MARKER}: missing; this checkpoint was not finished and is not used",
                step=place.step,
            )
    return committed


def _take(storage: Storage, place: Folder, plan: RunPlan, group: Group, scratch: Path) -> CheckpointManifest | str:
    """Fetches what this node needs of a checkpoint; returns its manifest, or what is wrong with it, alike on all processes."""
    target = scratch / "load"

    def fetch() -> CheckpointManifest | str:
        try:
            manifest = checkpoint.read_checkpoint(storage, place)
            _refuse_others(storage, manifest, plan)
            checkpoint.fetch_files(storage, manifest, _files_of(manifest, plan, group), target / manifest.folder)
        except CorruptError as error:
            return str(error)
        return manifest

    if group.place.local_rank == 0:
        shutil.rmtree(target, ignore_errors=True)
    group.wait()
    found = group.gather(fetch())
    wrong = [outcome for outcome in found if isinstance(outcome, str)]
    return wrong[0] if wrong else found[0]


def _other_layout(manifest: CheckpointManifest, plan: RunPlan, group: Group) -> bool:
    """Whether another number of processes wrote it, or another ZeRO stage."""
    wanted = (group.place.world_size, plan.job.spec.training.deepspeed.zero_stage)
    return (manifest.world_size, manifest.zero_stage) != wanted


def _files_of(manifest: CheckpointManifest, plan: RunPlan, group: Group) -> list[RankFile]:
    """The files that this process fetches: its own, and for its node those that all read. Between them all are verified.

    A conversion reads every file, so there the processes of a node share out all of them.
    """
    where = group.place
    if _other_layout(manifest, plan, group):
        return [file for number, file in enumerate(manifest.files) if number % where.local_world_size == where.local_rank]
    return [
        file
        for file in manifest.files
        if (file.rank == where.rank and file.name != WEIGHTS) or (file.name == WEIGHTS and where.local_rank == 0)
    ]


def _refuse_others(storage: Storage, manifest: CheckpointManifest, plan: RunPlan) -> None:
    """Raises UserError if the checkpoint belongs to another training than the job's, or is beyond its end."""
    wanted = plan.checkpoint_identity
    for field in sorted(wanted.keys() | manifest.identity.keys()):
        theirs, ours = manifest.identity.get(field), wanted.get(field)
        if theirs != ours:
            raise UserError(
                f"{_spec(field)}: {_short(ours)}, but the checkpoint {storage.uri}/{manifest.folder} was trained with "
                f"{_short(theirs)}; {_remedy(field)}, give another storage.uri, or delete {checkpoint.ROOT}/ to train from the "
                "beginning"
            )
    stage, theirs = plan.job.spec.training.deepspeed.zero_stage, manifest.zero_stage
    if _layout(stage) != _layout(theirs):
        raise UserError(
            f"spec.training.deepspeed.zeroStage: {stage}, but the checkpoint {storage.uri}/{manifest.folder} was trained with "
            f"{theirs}, and DeepSpeed can convert between stages 1 and 2 alone; set it {'to 1 or 2' if theirs in (1, 2) else 'back'}, "
            f"give another storage.uri, or delete {checkpoint.ROOT}/ to train from the beginning"
        )
    if manifest.step > plan.batch.steps:
        raise UserError(
            f"spec.training.tokens: {plan.job.spec.training.tokens} are {plan.batch.steps} steps, but the checkpoint "
            f"{storage.uri}/{manifest.folder} is further; raise tokens to at least {manifest.tokens}, give another storage.uri, "
            f"or delete {checkpoint.ROOT}/ to train from the beginning"
        )


def _layout(stage: int) -> str:
    """How DeepSpeed keeps the optimizer's state under a ZeRO stage: whole, or divided with or without the weights."""
    return {0: "whole", 3: "with weights"}.get(stage, "divided")


def _spec(field: str) -> str:
    return f"spec.{field}" if "." in field else f"the job's {field}"


def _remedy(field: str) -> str:
    if field == "tokens":
        return "restore the corpus as it was"
    if field == "tokenizer":
        return "restore the tokenizer as it was"
    return "set it back"


def _short(value: JsonValue) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)


def _resume(
    storage: Storage,
    manifest: CheckpointManifest,
    plan: RunPlan,
    group: Group,
    scratch: Path,
    refused: tuple[Folder, ...],
) -> Resume:
    parent = group.from_first(lambda: checkpoint.reference(storage, manifest))
    fetched = scratch / "load" / manifest.folder
    if not _other_layout(manifest, plan, group) or manifest.zero_stage == 0:
        return Resume(manifest, fetched, False, refused, parent)
    converted = scratch / "load" / "universal" / fetched.name
    if group.place.local_rank == 0:
        _convert(fetched, converted)
    group.wait()
    return Resume(manifest, converted, True, refused, parent)


def _convert(source: Path, target: Path) -> None:
    """Makes a checkpoint loadable by any number of processes (Lian et al. 2024, universal checkpointing), on local disk.

    In this process: DeepSpeed's program spends most of its time on importing what is imported here.
    """
    options = argparse.Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    # It reports its progress on both streams, as a program does.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)
    shutil.rmtree(source)
