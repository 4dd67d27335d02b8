"""The plan of an epoch: which rank trains on which rows at which step. A pure function, so it can be made anywhere.

Every row of the split is in exactly one batch, but for the remainder that does not fill a global batch. What an
interrupted epoch has not trained on yet is planned by the same function, for any number of workers.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTask:
    """A unit of decoding work: a few batches of rows.

    Attributes:
        epoch: for the images' random generators.
        batches: int64 row ids, an array for each batch.
    """

    epoch: int
    batches: Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpochPlan:
    """The rows of (the rest of) one epoch.

    Attributes:
        epoch: which epoch, from 0.
        rows: int64 row ids of shape (world, steps, batch of one rank).
        left_out: int64 row ids, fewer than one global batch, that this epoch does not train on.
    """

    epoch: int
    rows: np.ndarray
    left_out: np.ndarray

    @property
    def steps(self) -> int:
        return self.rows.shape[1]

    def consumed_after(self, steps: int) -> np.ndarray:
        """Row ids that the first `steps` steps of this plan train on, over all ranks."""
        return self.rows[:, :steps].ravel()


def plan_epoch(
    row_groups: np.ndarray,
    *,
    seed: int,
    epoch: int,
    world: int,
    batch: int,
    window: int,
    consumed: np.ndarray | None = None,
) -> EpochPlan:
    """Plans an epoch or the rest of one.

    Row groups are shuffled across all shards, rows within their group, and then rows within a window of consecutive
    ones: a run of rows lies in few row groups and is cheap to read. `gfnet prepare` has shuffled all images before.

    The order depends on neither the number of ranks nor what is consumed. So the same ranks go on with an interrupted
    epoch exactly as they would have, and others take over exactly what is missing.

    Args:
        row_groups: rows of every row group, int64 of shape (row groups,).
        seed: of the run.
        epoch: from 0; every epoch has another order.
        world: number of ranks.
        batch: rows of one rank's batch.
        window: rows that are mixed with each other.
        consumed: bool of shape (rows,): rows this epoch has trained on already; None: none.

    Raises:
        ValueError: a size is not positive.
    """
    if min(world, batch, window) < 1:
        raise ValueError(f"world is {world}, batch {batch} and window {window}; all must be at least 1")
    order = _shuffled(row_groups, window, np.random.default_rng([seed, epoch]))
    if consumed is not None:
        order = order[~consumed[order]]
    steps = len(order) // (world * batch)
    used = steps * world * batch
    # Each rank has a contiguous run of the order: its tasks then touch few row groups.
    return EpochPlan(epoch=epoch, rows=order[:used].reshape(world, steps, batch), left_out=order[used:])


def _shuffled(row_groups: np.ndarray, window: int, rng: np.random.Generator) -> np.ndarray:
    total = int(row_groups.sum())
    group_of_row = np.repeat(rng.permutation(len(row_groups)), row_groups)
    order = np.lexsort((rng.random(total), group_of_row))
    return order[np.lexsort((rng.random(total), np.arange(total) // window))]


def tasks_of_rank(plan: EpochPlan, rank: int, *, rows_per_task: int) -> list[DecodeTask]:
    """Cuts a rank's rows into decoding tasks of whole batches, in the order of the steps."""
    steps = max(1, rows_per_task // plan.rows.shape[2])
    parts = [plan.rows[rank, start : start + steps] for start in range(0, plan.steps, steps)]
    return [DecodeTask(epoch=plan.epoch, batches=list(part)) for part in parts]


def evaluation_rows(rows: int, *, rank: int, world: int) -> np.ndarray:
    """The rows that a rank evaluates, int64 of shape (about rows/world,): over all ranks every row once."""
    return np.array_split(np.arange(rows), world)[rank]


def evaluation_tasks(rows: np.ndarray, *, batch: int, batches_per_task: int = 8) -> list[DecodeTask]:
    """Cuts rows into decoding tasks, in order; only the last batch of all may be smaller than `batch`."""
    span = batch * batches_per_task
    return [
        DecodeTask(epoch=0, batches=[part[i : i + batch] for i in range(0, len(part), batch)])
        for part in (rows[start : start + span] for start in range(0, len(rows), span))
    ]
