"""The weights of the finished training, whole and in fp32, from the checkpoint that the stage train left."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from pretrain_stage.manifest import Manifest
from pretrain_stage.storage import Storage
from torch import Tensor

from pretrain_trainer.checkpoint import CheckpointManifest, fetch_files, read_checkpoint
from pretrain_trainer.initial import bring_initial, put_weights
from pretrain_trainer.model import build_model
from pretrain_trainer.model.language_model import FamilyModel
from pretrain_trainer.plan import Plan
from pretrain_trainer.snapshot import WEIGHTS


def load_weights(storage: Storage, training: Manifest, scratch: Path) -> dict[str, Tensor]:
    """The parameters by name, in fp32 on CPU. With ZeRO they are the optimizer's own copies, not rounded to bf16.

    Raises CorruptError if a file of the checkpoint is not what its manifest says.
    """
    folder = training.place
    checkpoint = read_checkpoint(storage, folder)
    fetch_files(storage, checkpoint, checkpoint.files, scratch / folder)
    return _read(checkpoint, scratch / folder)


def load_model(plan: Plan, weights: dict[str, Tensor]) -> FamilyModel:
    """The job's model with those weights, ready to be asked."""
    # What others keep besides parameters is computed where they are made.
    with torch.device("meta" if plan.shape.family == "llama" else "cpu"):
        model = build_model(plan.shape.family, plan.shape, plan.vocab_size)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model.eval()


def load_initial(plan: Plan, scratch: Path) -> FamilyModel:
    """The model that the job's training went on from, ready to be asked."""
    assert plan.initial is not None, "the job names none"
    model = build_model(plan.shape.family, plan.shape, plan.vocab_size)
    put_weights(model, bring_initial(plan.initial, plan.job.spec.storage, scratch / "initial"), plan.initial.uri)
    return model.eval()


def _read(checkpoint: CheckpointManifest, folder: Path) -> dict[str, Tensor]:
    if checkpoint.zero_stage == 0:
        # A pickle, but one that was verified a moment ago against the manifest of the run that wrote it.
        state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=False)
        return {name: tensor.float() for name, tensor in state["module"].items()}
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    # It reports its progress on both streams, as if it were a program.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name)
    return weights
