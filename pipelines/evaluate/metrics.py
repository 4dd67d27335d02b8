"""Counting predictions, in NumPy: nothing is averaged before all is counted."""

import dataclasses

import numpy as np

TOP = 5


@dataclasses.dataclass(slots=True)
class Counts:
    """Predictions over a split so far.

    Attributes:
        confusion: int64 of shape (classes, classes), [true, predicted].
        within_top: int64 of shape (classes,): images of a class that is among the five likeliest.
        loss: summed cross-entropy of the good images.
        seen: bool of shape (rows,): rows that have been counted or found bad.
        bad_rows: rows whose image could not be decoded.
    """

    confusion: np.ndarray
    within_top: np.ndarray
    loss: float
    seen: np.ndarray
    bad_rows: list[int]

    @classmethod
    def empty(cls, classes: int, rows: int) -> "Counts":
        zeros = np.zeros((classes, classes), dtype=np.int64)
        return cls(zeros, np.zeros(classes, dtype=np.int64), 0.0, np.zeros(rows, dtype=bool), [])

    def add(self, rows: np.ndarray, labels: np.ndarray, top: np.ndarray, losses: np.ndarray, bad: np.ndarray) -> None:
        """Counts a batch.

        Args:
            rows: int64 row ids of shape (B,).
            labels: int64 true classes of shape (B,).
            top: int64 of shape (B, up to five): likeliest classes first.
            losses: cross-entropy of shape (B,).
            bad: bool of shape (B,): images to be named, not counted.

        Raises:
            ValueError: a row has been counted before.
        """
        if self.seen[rows].any() or len(np.unique(rows)) != len(rows):
            raise ValueError(f"rows are counted twice: {rows[self.seen[rows]].tolist()}")
        self.seen[rows] = True
        self.bad_rows += rows[bad].tolist()
        labels, top, losses = labels[~bad], top[~bad], losses[~bad]
        np.add.at(self.confusion, (labels, top[:, 0]), 1)
        np.add.at(self.within_top, labels[(top == labels[:, None]).any(axis=1)], 1)
        self.loss += float(losses.sum())

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def acc1(self) -> float:
        """Percent of the images whose likeliest class is right."""
        return 100 * float(np.trace(self.confusion)) / max(self.images, 1)

    @property
    def acc5(self) -> float:
        """Percent of the images whose class is among the five likeliest."""
        return 100 * int(self.within_top.sum()) / max(self.images, 1)

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.images, 1)

    def class_accuracy(self) -> np.ndarray:
        """Percent right of each class, float64 of shape (classes,); NaN for a class without images."""
        totals = self.confusion.sum(axis=1)
        return np.where(totals > 0, 100 * np.diagonal(self.confusion) / np.maximum(totals, 1), np.nan)
