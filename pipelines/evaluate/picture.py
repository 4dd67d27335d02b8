"""The confusion matrix as a picture."""

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, PowerNorm

_NUMBERS_UP_TO = 20  # classes; beyond, numbers and names would be unreadable
_LONGEST_NAME = 24
_DPI = 110


def draw_confusion(confusion: np.ndarray, class_names: tuple[str, ...], title: str, path: Path) -> None:
    """Draws a confusion matrix as PNG: rows are true classes, each row's colours sum to one.

    Args:
        confusion: counts of shape (classes, classes), [true, predicted].
    """
    classes = len(class_names)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    detailed = classes <= _NUMBERS_UP_TO
    side = 2.5 + 0.55 * classes if detailed else 9
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    # Both show the rare mistakes beside the many hits; single cells among thousands need the stronger one.
    norm = PowerNorm(0.5, vmin=0, vmax=1) if detailed else LogNorm(vmin=0.005, vmax=1, clip=True)
    image = axes.imshow(share, cmap="Blues", norm=norm, interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, parse_math=False)
    if detailed:
        _write_numbers(axes, confusion, share, class_names)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    ticks = [0, 0.01, 0.1, 0.25, 0.5, 1] if detailed else [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    bar.set_ticks(ticks, labels=[f"{100 * tick:g} %" for tick in ticks])
    bar.minorticks_off()
    bar.set_label("share of the true class")
    with warnings.catch_warnings():
        # Of names in letters that the font lacks: they become boxes, and the table of classes has them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        # Enough pixels that no class falls between two of them.
        figure.savefig(path, dpi=_DPI * min(max(1, classes / 400), 4))
    plt.close(figure)


def _write_numbers(axes: Axes, confusion: np.ndarray, share: np.ndarray, class_names: tuple[str, ...]) -> None:
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in class_names]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    for true, predicted in np.argwhere(confusion):
        dark = share[true, predicted] > 0.4
        count = f"{confusion[true, predicted]:,}"
        axes.text(predicted, true, count, ha="center", va="center", color="white" if dark else "black", fontsize=9)
