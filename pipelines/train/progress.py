"""Where training stands, as a checkpoint keeps it."""

import dataclasses
from pathlib import Path

import numpy as np

FILE = "progress.npz"


@dataclasses.dataclass(slots=True, kw_only=True)
class Progress:
    """`step` optimizer steps done, now in `epoch`, of which the rows `consumed` are done.

    Attributes:
        consumed: bool of shape (rows,): the rows that this epoch has trained on.
    """

    epoch: int
    step: int
    consumed: np.ndarray

    @classmethod
    def start(cls, rows: int) -> "Progress":
        return cls(epoch=0, step=0, consumed=np.zeros(rows, dtype=bool))

    def save(self, folder: Path) -> None:
        bits = np.packbits(self.consumed)
        np.savez(folder / FILE, epoch=self.epoch, step=self.step, rows=len(self.consumed), consumed=bits)

    @classmethod
    def load(cls, folder: Path) -> "Progress":
        with np.load(folder / FILE) as saved:
            consumed = np.unpackbits(saved["consumed"], count=int(saved["rows"])).astype(bool)
            return cls(epoch=int(saved["epoch"]), step=int(saved["step"]), consumed=consumed)
