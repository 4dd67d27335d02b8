"""A rank's input: which epochs are one stream, and the streams of training and evaluation."""

import itertools
from collections.abc import Generator

from pipelines.data.plan import DecodeTask, EpochPlan, evaluation_rows, evaluation_tasks, plan_epoch, tasks_of_rank
from pipelines.data.stream import Batch, Decoder, stream_inline, stream_ray
from pipelines.data.transforms import EvalTransform, TrainTransform
from pipelines.train.job import Job
from pipelines.train.progress import Progress
from pipelines.train.session import Session

_TASKS_PER_STREAM = 4096


class Input:
    """Plans and streams for one rank, from where the newest checkpoint stands."""

    def __init__(self, job: Job, session: Session):
        self._job = job
        self._config = job.config
        self._session = session
        self.batch = job.config.batch_size // session.world
        self.train_split = job.manifest.split(job.config.data.train_split)
        self.eval_split = job.config.data.eval_split or job.manifest.evaluation_split()
        checkpoint = session.checkpoint()
        self.progress = Progress.load(checkpoint) if checkpoint else Progress.start(self.train_split.rows)

    @property
    def steps_per_epoch(self) -> int:
        return self.train_split.rows // self._config.batch_size

    def evaluates_after(self, epoch: int) -> bool:
        return (epoch + 1) % self._config.eval_every == 0 or epoch + 1 == self._config.epochs

    def segment(self, progress: Progress) -> tuple[list[EpochPlan], Generator[Batch]]:
        """The plans of the next epochs, and the one stream of their batches, augmented."""
        plans = self._plans(progress)
        return plans, self._train(plans)

    def _plans(self, progress: Progress) -> list[EpochPlan]:
        """The plans of the epochs up to the next evaluation, which are one stream.

        Within a stream the next epoch's images are decoded while this one's are trained on. It ends before an
        evaluation, since a stream that nobody reads from keeps its CPUs.
        """
        plans: list[EpochPlan] = []
        tasks = 0
        for epoch in range(progress.epoch, self._config.epochs):
            plan = plan_epoch(
                self.train_split.row_groups(),
                seed=self._config.seed,
                epoch=epoch,
                world=self._session.world,
                batch=self.batch,
                window=self._config.data.shuffle_rows,
                consumed=progress.consumed if epoch == progress.epoch else None,
            )
            plans.append(plan)
            tasks += plan.rows[0].size // self._config.data.task_rows
            if self.evaluates_after(epoch) or tasks > _TASKS_PER_STREAM:
                break
        return plans

    def _train(self, plans: list[EpochPlan]) -> Generator[Batch]:
        data = self._config.data
        transform = TrainTransform(
            size=self._config.model.img_size,
            crop_scale=data.crop_scale,
            crop_ratio=data.crop_ratio,
            hflip=data.hflip,
            rand_augment=data.rand_augment,
        )
        decoder = Decoder(
            manifest=self._job.manifest, split=data.train_split, transform=transform, seed=self._config.seed
        )
        tasks = [tasks_of_rank(plan, self._session.rank, rows_per_task=data.task_rows) for plan in plans]
        return self._stream(decoder, list(itertools.chain.from_iterable(tasks)))

    def evaluation(self, split: str) -> Generator[Batch]:
        """This rank's share of a split; over all ranks every row once."""
        rows = self._job.manifest.split(split).rows
        mine = evaluation_rows(rows, rank=self._session.rank, world=self._session.world)
        transform = EvalTransform(size=self._config.model.img_size, eval_crop=self._config.data.eval_crop)
        decoder = Decoder(manifest=self._job.manifest, split=split, transform=transform, seed=0)
        return self._stream(decoder, evaluation_tasks(mine, batch=self.batch))

    def _stream(self, decoder: Decoder, tasks: list[DecodeTask]) -> Generator[Batch]:
        if self._job.decode_tasks == 0 or not tasks:
            return stream_inline(decoder, tasks)
        return stream_ray(
            decoder,
            tasks,
            image_bytes=3 * self._config.model.img_size**2,
            concurrency=self._job.decode_tasks,
            cpus_per_task=self._job.decode_cpus,
        )
