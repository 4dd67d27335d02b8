"""The confusion matrix as a picture."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

_NUMBERS_UP_TO = 20  # classes; beyond, numbers and names would be unreadable


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
    # The square root shows the rare mistakes beside the many hits.
    image = axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if detailed:
        axes.set_xticks(range(classes), class_names, rotation=45, ha="right")
        axes.set_yticks(range(classes), class_names)
        for true, predicted in np.argwhere(confusion):
            dark = share[true, predicted] > 0.4
            count = f"{confusion[true, predicted]:,}"
            axes.text(predicted, true, count, ha="center", va="center", color="white" if dark else "black", fontsize=9)
    bar = figure.colorbar(image, ax=axes, ticks=np.sqrt([0, 0.01, 0.1, 0.25, 0.5, 1]), shrink=0.8)
    bar.ax.set_yticklabels(["0", "1 %", "10 %", "25 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    figure.savefig(path, dpi=110)
    plt.close(figure)
