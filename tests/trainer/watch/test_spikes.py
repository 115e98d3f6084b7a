"""Losses that stand out: how many are found, and how many false alarms there are, on noise that no rule was made for."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretrain_trainer.watch.spikes import LEAST, LONGEST, NEAR, Spikes

from tests.trainer.jobs import SAMPLES, SEQUENCE, folder_storage, job, write_job
from tests.trainer.watch.faults import start_faulty

STEPS, REAL_STEPS = 10_000, 6_000
Noise = Callable[[np.random.Generator, int], np.ndarray]

NOISES: dict[str, Noise] = {
    "normal": lambda draw, count: draw.normal(0, 0.05, count),
    "laplace": lambda draw, count: draw.laplace(0, 0.05, count),
    "student with 5 degrees": lambda draw, count: 0.05 * draw.standard_t(5, count),
    "student with 3 degrees": lambda draw, count: 0.05 * draw.standard_t(3, count),
    "skewed": lambda draw, count: 0.05 * draw.gamma(1.0, 1.0, count),
    "correlated": lambda draw, count: _correlated(draw, count),
    "none": lambda draw, count: np.zeros(count),
}


def _correlated(draw: np.random.Generator, count: int) -> np.ndarray:
    noise, made = draw.normal(0, 0.05, count), np.zeros(count)
    for step in range(1, count):
        made[step] = 0.9 * made[step - 1] + noise[step]
    return made


def curve(count: int) -> np.ndarray:
    """A loss that falls as that of a language model does."""
    return 3.0 + 6.0 * (1 + np.arange(count)) ** -0.4


@pytest.mark.parametrize("name", NOISES)
def test_false_alarms_are_rare(name: str) -> None:
    alarms = 0
    for seed in range(5):
        losses = curve(STEPS) + NOISES[name](np.random.default_rng(seed), STEPS)
        spikes = Spikes()
        alarms += sum(spikes.see(float(loss)) for loss in losses)
    assert alarms / 5 <= 1, f"{alarms} in {5 * STEPS} steps"


@pytest.mark.parametrize("name", NOISES)
def test_poisoned_batches_are_found(name: str) -> None:
    """Of targets drawn by lot the loss is above that of the first step: guessing that knows nothing, which is sure of itself."""
    draw = np.random.default_rng(11)
    losses = curve(STEPS) + NOISES[name](draw, STEPS)
    poisoned = set(draw.choice(np.arange(200, STEPS), 200, replace=False).tolist())
    spikes, found, alarms = Spikes(), 0, 0
    for step, loss in enumerate(losses):
        if step in poisoned:
            found += spikes.see(float(loss) + 5.0)
        else:
            alarms += spikes.see(float(loss))
    assert found >= 0.95 * len(poisoned)
    assert alarms <= 1


def test_the_first_steps_are_not_judged() -> None:
    spikes = Spikes()
    assert not any(spikes.see(loss) for loss in [1.0, 9.0] * ((LEAST + NEAR) // 2))


def test_a_spike_ends_when_the_losses_come_down_again() -> None:
    spikes = Spikes([3.0] * 100)
    assert spikes.level == 3.0
    assert [spikes.see(loss) for loss in (3.0, 8.0, 7.0, 3.0)] == [False, True, True, False]
    assert spikes.steps == 0
    assert spikes.see(8.0), "it was not learned from"


def test_what_stays_is_a_new_level() -> None:
    spikes = Spikes([3.0] * 100)
    seen = [spikes.see(5.0) for _ in range(100)]
    assert seen == [True] * LONGEST + [False] * (100 - LONGEST)
    assert spikes.see(9.0)


def test_losses_that_fall_are_none() -> None:
    spikes = Spikes([3.0] * 100)
    assert not spikes.see(0.1)


def test_a_run_that_goes_on_with_the_losses_before_finds_the_same() -> None:
    losses = (curve(600) + np.random.default_rng(3).normal(0, 0.05, 600)).tolist()
    whole = Spikes(losses)
    again = Spikes(losses[300:])
    assert math.isclose(whole.level, again.level)
    assert whole.see(9.0) == again.see(9.0) is True


@pytest.mark.slow
def test_poisoned_batches_of_real_training_are_found(tmp_path: Path) -> None:
    """A little model, 6,000 steps, of which 60 are asked for tokens drawn by lot."""
    folder_storage(tmp_path)
    batch: dict[str, Any] = {"tokens": REAL_STEPS * SAMPLES * SEQUENCE, "microBatchSize": SAMPLES}
    batch |= {"checkpoints": {"everySteps": REAL_STEPS}, "validation": {"everySteps": REAL_STEPS, "maxSequences": 8}}
    batch |= {"deepspeed": {"zeroStage": 0}, "schedule": {"kind": "cosine", "warmupSteps": 50}}
    spec = job(str(tmp_path / "storage"), **batch)
    spec["spec"]["model"] = {"hiddenSize": 48, "layers": 1, "heads": 2}
    poisoned = sorted(random.Random(7).sample(range(150, REAL_STEPS), 60))
    run = start_faulty(write_job(tmp_path, spec), poisoned=poisoned)
    assert run.ended() == 0, run.errors
    told = {said["step"] for said in run.of("warning") if "level" in said}
    found, alarms = told & set(poisoned), told - set(poisoned)
    print(f"found {len(found)} of {len(poisoned)}, {len(alarms)} false alarms in {REAL_STEPS - len(poisoned)} steps")
    assert len(found) >= 0.95 * len(poisoned)
    assert len(alarms) <= 1
