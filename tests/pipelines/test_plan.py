"""The plan of an epoch: every row once, repeatable, and the rest of an interrupted epoch is exactly what is missing."""

import numpy as np
import pytest

from pipelines.data.plan import evaluation_rows, evaluation_tasks, plan_epoch, tasks_of_rank

GROUPS = np.array([7, 16, 1, 33, 20, 24])  # 101 rows
CASES = [(1, 8), (2, 8), (3, 5), (4, 25), (7, 2)]


def rows_of(plan) -> np.ndarray:
    return np.concatenate([plan.rows.ravel(), plan.left_out])


def plan(epoch: int = 0, seed: int = 0, world: int = 2, batch: int = 8, consumed: np.ndarray | None = None):
    return plan_epoch(GROUPS, seed=seed, epoch=epoch, world=world, batch=batch, window=16, consumed=consumed)


@pytest.mark.parametrize(("world", "batch"), CASES)
def test_every_row_once_and_equal_steps(world: int, batch: int) -> None:
    made = plan(world=world, batch=batch)
    assert sorted(rows_of(made)) == list(range(101))
    assert made.rows.shape == (world, 101 // (world * batch), batch)
    assert len(made.left_out) < world * batch


def test_seeds_repeat_and_epochs_differ() -> None:
    assert np.array_equal(rows_of(plan(epoch=3)), rows_of(plan(epoch=3)))
    assert not np.array_equal(rows_of(plan(epoch=3)), rows_of(plan(epoch=4)))
    assert not np.array_equal(rows_of(plan(seed=1)), rows_of(plan(seed=2)))


@pytest.mark.parametrize(("world", "batch"), CASES)
@pytest.mark.parametrize("done", [0, 1, 3])
def test_the_rest_of_an_epoch_is_what_is_missing(world: int, batch: int, done: int) -> None:
    first = plan(world=2, batch=8)
    consumed = np.zeros(101, dtype=bool)
    consumed[first.consumed_after(done)] = True
    rest = plan(world=world, batch=batch, consumed=consumed)
    assert sorted([*np.flatnonzero(consumed), *rows_of(rest)]) == list(range(101))


def test_the_same_ranks_go_on_as_they_would_have() -> None:
    whole = plan()
    consumed = np.zeros(101, dtype=bool)
    consumed[whole.consumed_after(2)] = True
    assert np.array_equal(plan(consumed=consumed).rows, whole.rows[:, 2:])


def test_rows_are_mixed_and_yet_cheap_to_read() -> None:
    groups = np.full(400, 128)
    made = plan_epoch(groups, seed=0, epoch=0, world=2, batch=128, window=512)
    touched = [len(np.unique(np.concatenate(t.batches) // 128)) for t in tasks_of_rank(made, 0, rows_per_task=1024)]
    assert max(touched) <= 14  # of 1024 rows in 8 groups at the least
    assert len(np.unique(made.rows[0, 0] // 128)) >= 4  # of a batch
    position = np.empty(made.rows.size)
    position[made.rows.ravel()] = np.arange(made.rows.size)
    assert abs(np.corrcoef(position, np.arange(made.rows.size))[0, 1]) < 0.05


@pytest.mark.parametrize("rows_per_task", [1, 16, 1000])
def test_tasks_are_the_steps_in_order(rows_per_task: int) -> None:
    made = plan()
    tasks = tasks_of_rank(made, 1, rows_per_task=rows_per_task)
    assert np.array_equal(np.stack([batch for task in tasks for batch in task.batches]), made.rows[1])


@pytest.mark.parametrize(("rows", "world"), [(101, 3), (2, 3), (64, 1)])
def test_evaluation_sees_every_row_once(rows: int, world: int) -> None:
    shares = [evaluation_rows(rows, rank=rank, world=world) for rank in range(world)]
    assert np.concatenate(shares).tolist() == list(range(rows))
    batches = [batch for share in shares for task in evaluation_tasks(share, batch=8) for batch in task.batches]
    assert np.concatenate(batches).tolist() == list(range(rows))
    assert all(0 < len(batch) <= 8 for batch in batches)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="world is 0"):
        plan(world=0)
