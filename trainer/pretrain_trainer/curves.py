"""The curves of a run, as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from pretrain_trainer.history import History


def draw_curves(history: History, title: str, path: Path) -> None:
    """Loss, learning rate and speed over the steps."""
    steps, validations = history.steps, history.validations
    figure, (loss, rate, speed) = plt.subplots(
        3, 1, figsize=(9, 8), sharex=True, height_ratios=(3, 1, 1), layout="constrained"
    )
    loss.plot([line["step"] for line in steps], [line["loss"] for line in steps], label="training")
    loss.plot([line["step"] for line in validations], [line["loss"] for line in validations], "o-", label="validation")
    loss.set_ylabel("loss (nats per token)")
    loss.legend(frameon=False)
    loss.set_title(title)
    rate.plot([line["step"] for line in steps], [line["learning_rate"] for line in steps])
    rate.set_ylabel("learning rate")
    speed.plot([line["step"] for line in steps], [line["tokens_per_second"] for line in steps])
    speed.set_ylabel("tokens/s")
    speed.set_xlabel("step")
    for part in (loss, rate, speed):
        part.grid(alpha=0.3)
        part.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
