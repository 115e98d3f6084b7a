"""The curves of a run, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from pretrain_trainer.chart import thinned
from pretrain_trainer.history import History

BUCKETS = 1000
"""Parts of a long curve: about as many as the picture is wide, in pixels."""


def draw_curves(history: History, title: str, path: Path) -> None:
    """Loss, learning rate and speed over the steps; of a long run the extremes (chart.py)."""

    def measure(lines: list[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
        points = thinned([(line["step"], line[name]) for line in lines], BUCKETS)
        return [step for step, _ in points], [value for _, value in points]

    figure, (loss, rate, speed) = plt.subplots(
        3, 1, figsize=(9, 8), sharex=True, height_ratios=(3, 1, 1), layout="constrained"
    )
    loss.plot(*measure(history.steps, "loss"), label="training")
    loss.plot(*measure(history.validations, "loss"), "o-", label="validation")
    loss.set_ylabel("loss (nats per token)")
    loss.legend(frameon=False)
    loss.set_title(title)
    rate.plot(*measure(history.steps, "learning_rate"))
    rate.set_ylabel("learning rate")
    speed.plot(*measure(history.steps, "tokens_per_second"))
    speed.set_ylabel("tokens/s")
    speed.set_xlabel("step")
    for part in (loss, rate, speed):
        part.grid(alpha=0.3)
        part.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
