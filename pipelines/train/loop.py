"""The training loop that every rank runs. Ray Train is known only to the session that is handed in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipelines.config import to_dict
from pipelines.data.plan import EpochPlan
from pipelines.data.stream import Batch
from pipelines.journal import JournalWriter, Kind
from pipelines.train import checkpoint as checkpoints
from pipelines.train.input import Input
from pipelines.train.job import Job
from pipelines.train.meter import Meter, all_reduce
from pipelines.train.optim import learning_rate, make_optimizer, set_learning_rate
from pipelines.train.session import Session
from pipelines.train.step import Mixer, autocast_context, autocast_dtype, normalize, train_step


class Training:
    """One rank's state: model, optimizer and progress; `run` trains to the end."""

    def __init__(self, job: Job, session: Session):
        config = job.config
        self.job, self.config, self.session = job, config, session
        self.input = Input(job, session)
        self.progress = self.input.progress
        torch.manual_seed(config.seed)
        self.bare = checkpoints.build_model(to_dict(config)["model"], len(job.manifest.class_names))
        resume_from = session.checkpoint()
        if resume_from:
            self.bare.load_state_dict(checkpoints.read_weights(resume_from))
        elif config.init_from:
            checkpoints.initialize(self.bare, Path(config.init_from))
        self.model = session.wrap(self.bare)
        self.optimizer = make_optimizer(self.bare, config.optim)
        if resume_from:
            checkpoints.load_optimizer(resume_from, self.optimizer)
        self.autocast = autocast_dtype(config.precision, session.device)
        self.mixer = Mixer(config.mix, len(job.manifest.class_names))
        self.journal = JournalWriter(job.run_uri) if session.rank == 0 else None
        self.metrics: dict[str, float] = {}
        self.meter = Meter(session)
        self.meter.saved = resume_from.name if resume_from else None
        job.clock.mark("model_ready")

    # The story of a run: segments of epochs, epochs of steps; evaluation and checkpoints once in a while.

    def run(self) -> dict[str, Any]:
        """Trains until the last epoch or step; returns what the driver shows in the end.

        Raises:
            NonFiniteLossError: on all ranks, after a step whose loss is not finite on any.
        """
        while not self.finished:
            plans, batches = self.input.segment(self.progress)
            for plan in plans:
                self._epoch(plan, batches)
                if self.finished:
                    break
            batches.close()
        return {
            "metrics": self.metrics,
            "steps": self.progress.step,
            "epochs": self.progress.epoch,
            **self.meter.totals(),
        }

    @property
    def finished(self) -> bool:
        return self.progress.epoch >= self.config.epochs or self._out_of_steps

    @property
    def _out_of_steps(self) -> bool:
        return self.config.max_steps is not None and self.progress.step >= self.config.max_steps

    def _epoch(self, plan: EpochPlan, batches: Iterator[Batch]) -> None:
        """Trains on (the rest of) an epoch, or on as much of it as `max_steps` allows."""
        config, progress = self.config, self.progress
        done_before = int(progress.consumed.sum()) // config.batch_size
        self.meter.start_epoch()
        steps = 0
        while steps < plan.steps and not self._out_of_steps:
            share = (done_before + steps) / self.input.steps_per_epoch
            self._step(plan.rows[self.session.rank, steps], next(batches), plan.epoch, share)
            steps += 1
        if steps:
            self._write("epoch", self.meter.epoch())
        progress.consumed[plan.consumed_after(steps)] = True
        if steps == plan.steps:
            progress.epoch, progress.consumed = plan.epoch + 1, np.zeros_like(progress.consumed)
        if self.input.evaluates_after(plan.epoch) or self.finished:
            self._evaluate()
        if progress.epoch % config.checkpoint_every == 0 or self.finished:
            self._save()

    def _step(self, rows: np.ndarray, batch: Batch, epoch: int, share: float) -> None:
        if self.meter.steps == 0:
            self.job.clock.mark("first_batch")
        self.meter.got_batch(batch)
        config, progress = self.config, self.progress
        if not np.array_equal(batch.rows, rows):
            raise RuntimeError(f"the stream does not give the rows that epoch {epoch} plans for step {progress.step}")
        rate = learning_rate(
            config.optim, epochs=config.epochs, batch_size=config.batch_size, epoch=epoch, progress=share
        )
        set_learning_rate(self.optimizer, rate)
        # Seeding by step makes stochastic depth and mixing the same after a restart.
        seed = [config.seed, progress.step, self.session.rank]
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        images, labels = self._to_device(batch)
        images, targets = self.mixer(normalize(images), labels, seed)
        self.model.train(not config.dropout_off)
        result = train_step(
            self.model, self.optimizer, images, targets, clip_grad=config.optim.clip_grad, autocast=self.autocast
        )
        progress.step += 1
        self.meter.stepped(result, progress.step, rate)
        if self.meter.steps == 1:
            self.job.clock.mark("first_step")
            self._write("start", {f"start/{stage}_seconds": s for stage, s in self.job.clock.seconds.items()})
        if progress.step % config.log_every == 0:
            self._write("train", self.meter.window())

    def _to_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.session.device
        images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
        if device.type == "cuda":
            images = images.pin_memory()
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    # Once in a while.

    @torch.inference_mode()
    def _evaluate(self) -> None:
        name = self.input.eval_split
        if name is None:
            return
        rows = self.job.manifest.split(name).rows
        self.bare.eval()
        counts = torch.zeros(5, dtype=torch.float64, device=self.session.device)
        for batch in self.input.evaluation(name):
            counts += self._count(batch)
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
        self.meter.saved = name

    def _write(self, kind: Kind, values: dict[str, float]) -> None:
        if self.journal:
            self.journal.write(kind, self.progress.epoch, self.progress.step, values)
