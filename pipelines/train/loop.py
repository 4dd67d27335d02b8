"""The training loop that every rank runs. Ray Train is known only to the session that is handed in."""

import itertools
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipelines.config import to_dict
from pipelines.data.plan import DecodeTask, EpochPlan, evaluation_rows, evaluation_tasks, plan_epoch, tasks_of_rank
from pipelines.data.stream import Batch, Decoder, stream_inline, stream_ray
from pipelines.data.transforms import EvalTransform, TrainTransform
from pipelines.journal import JournalWriter
from pipelines.train import checkpoint as checkpoints
from pipelines.train.job import Job
from pipelines.train.meter import Meter, NonFiniteLossError, all_reduce
from pipelines.train.optim import learning_rate, make_optimizer, set_learning_rate
from pipelines.train.session import Session
from pipelines.train.step import Mixer, autocast_context, autocast_dtype, normalize, train_step

# A segment of epochs is one Dataset: within it the next epoch's images are decoded while this one's are trained on.
_TASKS_PER_SEGMENT = 4096


class Training:
    """One rank's state: model, optimizer and progress; `run` trains to the end."""

    def __init__(self, job: Job, session: Session):
        config = job.config
        self.job, self.config, self.session = job, config, session
        torch.manual_seed(config.seed)
        self.bare = checkpoints.build_model(to_dict(config)["model"], len(job.manifest.class_names))
        resume_from = session.checkpoint()
        rows = job.manifest.split(config.data.train_split).rows
        self.progress = checkpoints.Progress(epoch=0, step=0, consumed=np.zeros(rows, dtype=bool))
        if resume_from:
            self.bare.load_state_dict(checkpoints.read_weights(resume_from))
        elif config.init_from:
            checkpoints.initialize(self.bare, Path(config.init_from))
        self.model = session.wrap(self.bare)
        self.optimizer = make_optimizer(self.bare, config.optim)
        if resume_from:
            self.progress = checkpoints.load_state(resume_from, self.optimizer)
        self.autocast = autocast_dtype(config.precision, session.device)
        self.mixer = Mixer(config.mix, len(job.manifest.class_names))
        self.journal = JournalWriter(job.run_uri) if session.rank == 0 else None
        self.metrics: dict[str, float] = {}
        self.saved: str | None = resume_from.name if resume_from else None
        job.clock.mark("model_ready")

    # The story of a run: segments of epochs, epochs of steps; evaluation and checkpoints once in a while.

    def run(self) -> dict[str, Any]:
        """Trains until the last epoch or step; returns what the driver shows in the end.

        Raises:
            NonFiniteLossError: on all ranks, after a step whose loss is not finite on any.
        """
        meter = Meter(self.session)
        while not self.finished:
            plans = self._segment()
            batches = self._train_batches(plans)
            for plan in plans:
                before = self.progress.consumed.copy()
                meter.start_epoch()
                for index in range(plan.steps):
                    self._step(plan, index, next(batches), meter)
                    if self._out_of_steps:
                        break
                self._end_epoch(plan, index + 1, before, meter)
                if self.finished:
                    break
            batches.close()
        return {"metrics": self.metrics, "steps": self.progress.step, "epochs": self.progress.epoch, **meter.totals()}

    @property
    def finished(self) -> bool:
        return self.progress.epoch >= self.config.epochs or self._out_of_steps

    @property
    def _out_of_steps(self) -> bool:
        return self.config.max_steps is not None and self.progress.step >= self.config.max_steps

    def _step(self, plan: EpochPlan, index: int, batch: Batch, meter: Meter) -> None:
        if meter.steps == 0:
            self.job.clock.mark("first_batch")
        meter.got_batch(batch)
        config, progress, rank = self.config, self.progress, self.session.rank
        if not np.isin(batch.rows, plan.rows[rank]).all():
            raise RuntimeError(f"the stream gave rows of another epoch than {plan.epoch} at step {progress.step}")
        rate = learning_rate(
            config.optim,
            epochs=config.epochs,
            batch_size=config.batch_size,
            epoch=plan.epoch,
            progress=index / plan.steps,
        )
        set_learning_rate(self.optimizer, rate)
        # Seeding by step makes stochastic depth and mixing the same after a restart.
        seed = [config.seed, progress.step, rank]
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        images, labels = self._to_device(batch)
        images, targets = self.mixer(normalize(images), labels, seed)
        self.model.train(not config.dropout_off)
        result = train_step(
            self.model, self.optimizer, images, targets, clip_grad=config.optim.clip_grad, autocast=self.autocast
        )
        progress.step += 1
        meter.stepped(result, progress.step, rate)
        if meter.steps == 1:
            self.job.clock.mark("first_step")
            self._write("start", {f"start/{stage}_seconds": s for stage, s in self.job.clock.seconds.items()})
        if progress.step % config.log_every == 0:
            self._write("train", self._check(meter.window()))

    def _end_epoch(self, plan: EpochPlan, steps: int, before: np.ndarray, meter: Meter) -> None:
        config, progress = self.config, self.progress
        self._write("epoch", self._check(meter.epoch()))
        if steps == plan.steps:
            progress.epoch, progress.consumed = plan.epoch + 1, np.zeros_like(before)
        else:
            progress.consumed = before
            progress.consumed[plan.consumed_after(steps)] = True
        if self._evaluates_after(plan.epoch) or self.finished:
            self._evaluate()
        if progress.epoch % config.checkpoint_every == 0 or self.finished:
            self._save()
        meter.start_window()

    def _check(self, values: dict[str, float]) -> dict[str, float]:
        """Stops all ranks alike if a loss since the last check was not finite."""
        if values.get("first_bad_step") is not None:
            raise NonFiniteLossError(int(values["first_bad_step"]), values["train/lr"], self.saved)
        return {name: value for name, value in values.items() if name != "first_bad_step"}

    # Input.

    def _segment(self) -> list[EpochPlan]:
        """The plans of the epochs up to the next evaluation: one uninterrupted stream.

        A stream ends before an evaluation, since a stream that nobody reads from keeps its CPUs.
        """
        config, progress = self.config, self.progress
        split = self.job.manifest.split(config.data.train_split)
        plans: list[EpochPlan] = []
        tasks = 0
        for epoch in range(progress.epoch, config.epochs):
            plan = plan_epoch(
                split.row_groups(),
                seed=config.seed,
                epoch=epoch,
                world=self.session.world,
                batch=config.batch_size // self.session.world,
                consumed=progress.consumed if epoch == progress.epoch else None,
            )
            plans.append(plan)
            tasks += plan.rows[0].size // config.data.shuffle_rows
            if self._evaluates_after(epoch) or tasks > _TASKS_PER_SEGMENT:
                break
        return plans

    def _evaluates_after(self, epoch: int) -> bool:
        return (epoch + 1) % self.config.eval_every == 0 or epoch + 1 == self.config.epochs

    def _train_batches(self, plans: list[EpochPlan]) -> Generator[Batch]:
        data = self.config.data
        transform = TrainTransform(
            size=self.config.model.img_size,
            crop_scale=data.crop_scale,
            crop_ratio=data.crop_ratio,
            hflip=data.hflip,
            rand_augment=data.rand_augment,
        )
        decoder = Decoder(
            manifest=self.job.manifest, split=data.train_split, transform=transform, seed=self.config.seed
        )
        tasks = [
            tasks_of_rank(plan, self.session.rank, seed=self.config.seed, rows_per_task=data.shuffle_rows)
            for plan in plans
        ]
        return self._stream(decoder, list(itertools.chain.from_iterable(tasks)))

    def _stream(self, decoder: Decoder, tasks: list[DecodeTask]) -> Generator[Batch]:
        if self.job.decode_tasks == 0:
            return stream_inline(decoder, tasks)
        return stream_ray(
            decoder,
            tasks,
            image_bytes=3 * self.config.model.img_size**2,
            concurrency=self.job.decode_tasks,
            cpus_per_task=self.job.decode_cpus,
        )

    def _to_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.session.device
        images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
        if device.type == "cuda":
            images = images.pin_memory()
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    # Once in a while.

    @torch.inference_mode()
    def _evaluate(self) -> None:
        name = self.config.data.eval_split or self.job.manifest.evaluation_split()
        if name is None:
            return
        rows = self.job.manifest.split(name).rows
        batch = self.config.batch_size // self.session.world
        mine = evaluation_rows(rows, rank=self.session.rank, world=self.session.world)
        tasks = evaluation_tasks(mine, batch=batch)
        transform = EvalTransform(size=self.config.model.img_size, eval_crop=self.config.data.eval_crop)
        decoder = Decoder(manifest=self.job.manifest, split=name, transform=transform, seed=0)
        self.bare.eval()
        counts = torch.zeros(5, dtype=torch.float64, device=self.session.device)
        for decoded in self._stream(decoder, tasks) if tasks else ():
            counts += self._count(decoded)
        correct1, correct5, loss, seen, bad = all_reduce(counts, self.session).tolist()
        if seen + bad != rows:
            raise RuntimeError(f"evaluation saw {seen + bad:.0f} of the {rows} images of {name!r}")
        self.metrics = {
            f"{name}/acc1": 100 * correct1 / max(seen, 1),
            f"{name}/acc5": 100 * correct5 / max(seen, 1),
            f"{name}/loss": loss / max(seen, 1),
            f"{name}/images": seen,
            f"{name}/bad_images": bad,
        }
        self._write("eval", self.metrics)

    def _count(self, batch: Batch) -> torch.Tensor:
        """Right at first, right within five, summed loss, images seen, bad images: float64 of shape (5,)."""
        images, labels = self._to_device(batch)
        with autocast_context(images.device, self.autocast):
            logits = self.bare(normalize(images)).float()
        good = torch.from_numpy(~batch.bad).to(images.device)
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices.eq(labels[:, None]) & good[:, None]
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")[good]
        parts = (hits[:, 0].sum(), hits.sum(), losses.double().sum(), good.sum(), (~good).sum())
        return torch.stack([part.double() for part in parts])

    def _save(self) -> None:
        progress = self.progress
        card = checkpoints.Card(
            config=to_dict(self.config),
            class_names=self.job.manifest.class_names,
            dataset={
                "name": self.job.manifest.name,
                "digest": self.job.manifest.digest,
                "source": self.job.manifest.uri,
            },
            epoch=progress.epoch,
            step=progress.step,
            metrics=self.metrics,
            versions=checkpoints.versions(),
            mlflow_run=self.job.run_tag,
        )
        name = f"checkpoint_{progress.step:08d}"
        self.session.report(
            {**self.metrics, "epoch": progress.epoch, "step": progress.step},
            name,
            lambda folder: checkpoints.save(folder, self.bare, card, self.optimizer, progress),
        )
        self.saved = name

    def _write(self, kind: Any, values: dict[str, float]) -> None:
        if self.journal:
            self.journal.write(kind, self.progress.epoch, self.progress.step, values)
