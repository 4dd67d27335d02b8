"""The input stream: Ray Data tasks anywhere on the cluster read, decode and augment what the plan says.

Every rank streams its own part of the plan as a Dataset of its own. The order of the batches is the plan's, whatever
the tasks' order of finishing, so a rank's batch at a step is known beforehand: steps are equal on all ranks, the rows
consumed so far follow from the step alone, and a run can be repeated exactly.
"""

import dataclasses
from collections.abc import Generator, Iterator, Sequence

import numpy as np
from PIL import Image

from pipelines.data.manifest import Manifest, RowReader
from pipelines.data.plan import DecodeTask
from pipelines.data.ray_data import ray_data
from pipelines.data.transforms import BadImageError, Transform, decode


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Decoded images of one step of one rank.

    Attributes:
        images: uint8 of shape (batch, size, size, 3).
        labels: int64 of shape (batch,).
        rows: int64 row ids of shape (batch,).
        bad: bool of shape (batch,): images that could not be decoded; a copy of another image stands in their place.
    """

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    bad: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """As a block of Ray Data."""
        return {"image": self.images, "label": self.labels, "row": self.rows, "bad": self.bad}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Reads, decodes and transforms the rows of a task, one batch after the other."""

    manifest: Manifest
    split: str
    transform: Transform
    seed: int

    def __call__(self, task: DecodeTask) -> Iterator[Batch]:
        data, labels = RowReader(self.manifest, self.split).read(np.concatenate(task.batches))
        start = 0
        for rows in task.batches:
            part = slice(start, start + len(rows))
            yield self._batch(task.epoch, rows, data[part], labels[part])
            start += len(rows)

    def _batch(self, epoch: int, rows: np.ndarray, data: Sequence[bytes], labels: np.ndarray) -> Batch:
        images: list[np.ndarray | None] = []
        for row, image in zip(rows, data, strict=True):
            try:
                images.append(self.transform(decode(image), np.random.default_rng([self.seed, epoch, int(row)])))
            except BadImageError:
                images.append(None)
        good = [i for i, image in enumerate(images) if image is not None]
        bad = np.array([image is None for image in images])
        if not good:
            black = self.transform(Image.new("RGB", (8, 8)), np.random.default_rng(0))
            return Batch(np.stack([black] * len(rows)), labels, rows, bad)
        # A bad image must not change the number of steps of one rank alone: the next good one takes its place.
        source = np.array([good[i % len(good)] if lost else i for i, lost in enumerate(bad)])
        return Batch(np.stack([images[i] for i in source]), labels[source], rows, bad)


def stream_inline(decoder: Decoder, tasks: Sequence[DecodeTask]) -> Generator[Batch]:
    """The batches of `tasks`, decoded in this process: for debugging and for what is too small for Ray."""
    for task in tasks:
        yield from decoder(task)


def stream_ray(
    decoder: Decoder, tasks: Sequence[DecodeTask], *, image_bytes: int, concurrency: int, cpus_per_task: float
) -> Generator[Batch]:
    """The batches of `tasks` in order, decoded by Ray Data tasks anywhere on the cluster.

    Args:
        decoder: sent to the tasks once.
        tasks: not empty; all batches but the last of each task should be of one size.
        image_bytes: bytes of one decoded image.
        concurrency: tasks at a time.
        cpus_per_task: logical CPUs that a task reserves.
    """
    batch_size = len(tasks[0].batches[0])
    data = ray_data()
    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    # Blocks of one batch each reach the trainer without a copy; a block ends once it exceeds the target.
    context.target_max_block_size = max(1, int(0.8 * batch_size * image_bytes))

    def run(block: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for index in block["id"]:
            for batch in decoder(tasks[index]):
                yield batch.columns()

    dataset = data.range(len(tasks), override_num_blocks=len(tasks)).map_batches(
        run, batch_size=None, compute=data.TaskPoolStrategy(size=min(concurrency, len(tasks))), num_cpus=cpus_per_task
    )
    for batch in dataset.iter_batches(batch_size=batch_size, batch_format="numpy", prefetch_batches=2):
        yield Batch(batch["image"], batch["label"], batch["row"], batch["bad"])
