"""The confusion matrix for people, as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from pretrain_trainer.scores.classification import Classification

CJK_FONTS = (
    "Noto Sans CJK SC", "Source Han Sans SC", "Noto Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Arial Unicode MS",
)  # fmt: skip
"""Fonts with Chinese in them, as Linux, macOS and Windows have them."""
COUNTED, NAMED = 20, 60
"""Up to so many labels, cells have their counts written in, and rows their names."""
LONGEST = 20
"""Characters of a name that are shown."""


def draw_confusion(found: Classification, title: str, path: Path, fonts: Sequence[str] = CJK_FONTS) -> None:
    """The matrix as PNG: a row for each label that is asked for, darker the larger its share of the row.

    Where no font that is installed can write the labels, they are numbered from 1, in their order.
    """
    counts = np.array(found.confusion, float)
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
    size = len(found.labels)
    side = min(12.0, 2.5 + 0.5 * size)
    font = font_for([*found.labels, title], fonts)
    names = [_short(label) for label in found.labels] if font else [str(number + 1) for number in range(size)]
    letters = {"font": font, "parse_math": False} if font else {}
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if size <= NAMED:
        axes.set_xticks(range(size), names, rotation=90 if max(map(len, names), default=0) > 3 else 0, **letters)
        axes.set_yticks(range(size), names, **letters)
    axes.set_xlabel("predicted" if font else "predicted (label, by its number)")
    axes.set_ylabel("asked for" if font else "asked for (label, by its number)")
    if font:
        axes.set_title(title, **letters)
    if size <= COUNTED:
        for row, column in np.ndindex(counts.shape):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=color)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def font_for(texts: Iterable[str], families: Sequence[str] = CJK_FONTS) -> Path | None:
    """The first installed font that has all characters of the texts: matplotlib's own, or one of those; None if none has."""
    needed = {ord(character) for text in texts for character in text if not character.isspace()}
    upright = [font for font in font_manager.fontManager.ttflist if (font.style, font.stretch) == ("normal", "normal")]
    installed = {
        font.name: font.fname for font in sorted(upright, key=lambda font: font.weight not in (400, "normal"))[::-1]
    }
    for family in (matplotlib.rcParamsDefault["font.sans-serif"][0], *families):
        if family in installed and needed <= FT2Font(installed[family]).get_charmap().keys():
            return Path(installed[family])
    return None


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
