"""What a person sees of a run: a bar and a line for each epoch, read from the run's journal, and the summary."""

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import TrainConfig
from pipelines.data.manifest import Manifest
from pipelines.journal import JournalReader, Record
from pipelines.train.resources import Resources

if TYPE_CHECKING:
    from pipelines.train.run import Outcome

_POLL_SECONDS = 0.3


class Display:
    """Prints the run's progress from a thread of the driver."""

    def __init__(self, folder: Path, config: TrainConfig, manifest: Manifest, resources: Resources):
        from tqdm import tqdm

        self._config = config
        self._resources = resources
        rows = manifest.split(config.data.train_split).rows
        steps = config.epochs * (rows // config.batch_size)
        self._reader = JournalReader(str(folder))
        self._reader.poll()  # what a restarted run has shown before
        self._bar = tqdm(
            total=min(steps, config.max_steps or steps),
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            leave=False,
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, name="display", daemon=True)
        what = f"{manifest.name} ({rows:,} images, {len(manifest.class_names)} classes)"
        print(f"run {config.name}: {config.model.name} on {what}")

    def start(self) -> None:
        kind = "GPU" if self._resources.use_gpu else "CPU"
        where = f"{self._resources.workers} {kind} workers" if self._resources.workers else "this process"
        self._line(f"starting {where}, {self._resources.decode_tasks or 'no'} decoding tasks each …")
        self._thread.start()

    def finish(self) -> None:
        self._ended.set()
        self._thread.join()
        self._bar.close()

    def _show(self) -> None:
        last_round = False
        while not last_round:
            last_round = self._ended.wait(_POLL_SECONDS)
            for record in self._reader.poll():
                self._record(record)

    def _record(self, record: Record) -> None:
        values = record.values
        self._bar.update(record.step - self._bar.n)
        if record.kind == "start":
            self._line(f"first step {values['start/first_step_seconds']:.1f} s after the command")
        elif record.kind == "train":
            self._bar.set_postfix_str(
                f"loss {values['train/loss']:.3f}, {values['train/images_per_second']:,.0f} images/s"
            )
        elif record.kind == "epoch":
            self._line(
                f"epoch {record.epoch + 1:>3}/{self._config.epochs}  loss {values['epoch/loss']:.4f}  "
                f"lr {values['train/lr']:.2e}  {values['epoch/images_per_second']:>7,.0f} images/s  "
                f"waiting for data {values['epoch/data_wait_share']:.0%}"
            )
        elif record.kind == "eval":
            split = next(iter(values)).split("/")[0]
            self._line(
                f"     {split}: acc@1 {values[f'{split}/acc1']:.2f} %  acc@5 {values[f'{split}/acc5']:.2f} %  "
                f"loss {values[f'{split}/loss']:.4f}  ({values[f'{split}/images']:,.0f} images)"
            )

    def _line(self, text: str) -> None:
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()


def print_summary(outcome: "Outcome", *, data: str) -> None:
    """The table that ends a run, with the commands to type next."""
    from pipelines.screen import show, table, warn

    figures = table(title=f"Run {outcome.folder.name}")
    for name, value in outcome.metrics.items():
        if not name.endswith("bad_images") or value:
            unit = " %" if "/acc" in name else ""
            figures.add_row(name, f"{value:,.0f}" if name.endswith("images") else f"{value:.2f}{unit}")
    figures.add_row("training speed", f"{outcome.images_per_second:,.0f} images/s over all workers")
    figures.add_row("time", f"{outcome.seconds:.0f} s, {outcome.steps:,} steps")
    figures.add_row("checkpoint", _short(outcome.checkpoint))
    show(figures)
    if outcome.tracking_error:
        warn(f"MLflow does not have all of this run: {outcome.tracking_error}")
    server = outcome.tracking_uri.startswith("http")
    look = outcome.tracking_uri if server else f"mlflow ui --backend-store-uri {outcome.tracking_uri}"
    print("Next:")
    print(f"  results   {look}")
    print(f"  evaluate  gfnet evaluate {_short(outcome.checkpoint)} --data {data}")
    print(f"  predict   gfnet predict {_short(outcome.checkpoint)} IMAGES...")


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
