"""Scoring a split on the cluster: tasks decode, tasks that keep their model score, the driver counts."""

import dataclasses
import functools
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.data.manifest import Manifest
from pipelines.data.plan import DecodeTask, evaluation_tasks
from pipelines.data.ray_data import ray_data
from pipelines.data.stream import Decoder
from pipelines.data.transforms import EvalTransform
from pipelines.errors import UsageError
from pipelines.evaluate.metrics import TOP, Counts

if TYPE_CHECKING:
    from pipelines.train.checkpoint import Card


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How a split is scored.

    Attributes:
        checkpoint: absolute path of the folder.
        precision: "auto", "bf16" or "fp32".
        workers: scoring tasks at a time.
        use_gpu: one GPU for each of them.
        batch_size: images that a task looks at together.
    """

    checkpoint: str
    precision: str
    workers: int
    use_gpu: bool
    batch_size: int


class Scorer:
    """Runs the model on decoded batches; each process of the cluster that scores holds one."""

    def __init__(self, checkpoint: str, precision: str, use_gpu: bool):
        import torch

        from pipelines.train.checkpoint import load_model
        from pipelines.train.step import autocast_dtype

        self._device = torch.device("cuda" if use_gpu else "cpu")
        model, _ = load_model(Path(checkpoint))
        self._model = model.to(self._device)
        self._autocast = autocast_dtype(precision, self._device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        from pipelines.train.step import autocast_context, normalize

        images = torch.tensor(batch["image"]).to(self._device)
        with torch.inference_mode():
            with autocast_context(self._device, self._autocast):
                logits = self._model(normalize(images))
            # The driver refuses labels that are no class; here one would end a GPU's process with no reason given.
            labels = torch.tensor(batch["label"]).clamp(0, logits.shape[1] - 1).to(self._device)
            losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
            top = logits.float().topk(min(TOP, logits.shape[1]), dim=1).indices
        counted = {"top": top.cpu().numpy(), "loss": losses.double().cpu().numpy()}
        return {"row": batch["row"], "label": batch["label"], "bad": batch["bad"], **counted}


@functools.lru_cache(maxsize=1)
def _scorer(evaluation: str, checkpoint: str, precision: str, use_gpu: bool) -> Scorer:
    return Scorer(checkpoint, precision, use_gpu)


def score(
    batch: dict[str, np.ndarray], evaluation: str, checkpoint: str, precision: str, use_gpu: bool
) -> dict[str, np.ndarray]:
    """Scores a batch with the process's model, which its first call of an evaluation loads.

    Args:
        batch: columns of `pipelines.data.stream.Batch`.
        evaluation: differs for every evaluation: a process outlives one, and the folder may have new weights since.
    """
    return _scorer(evaluation, checkpoint, precision, use_gpu)(batch)


def plan_workers(workers: int | None, use_gpu: bool | None) -> tuple[int, bool]:
    """Scoring tasks at a time, and whether each has a GPU, for the cluster that this process is connected to.

    Raises:
        UsageError: the cluster is too small; the message has the numbers.
    """
    import ray

    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 0))
    use_gpu = gpus > 0 if use_gpu is None else use_gpu
    workers = workers or (gpus if use_gpu else cpus // 2) or 1
    if use_gpu and workers > gpus:
        way_out = f"Give --workers {gpus} or --use-gpu False." if gpus else "Give --use-gpu False."
        raise UsageError(f"{workers} workers with a GPU each, but the cluster has {gpus}. {way_out}")
    if cpus < workers + 1:
        raise UsageError(
            f"{workers} workers and a decoding task need {workers + 1} CPUs; the cluster has {cpus}. "
            "Give fewer --workers."
        )
    return workers, use_gpu


def score_split(scoring: Scoring, card: "Card", manifest: Manifest, split: str) -> tuple[Counts, float]:
    """Counts the predictions of a checkpoint over a split; also gives the seconds that it took.

    Raises:
        UsageError: a label of the split is no class.
    """
    from tqdm import tqdm

    rows, classes = manifest.split(split).rows, len(manifest.class_names)
    transform = EvalTransform(size=card.config["model"]["img_size"], eval_crop=card.config["data"]["eval_crop"])
    decoder = Decoder(manifest=manifest, split=split, transform=transform, seed=0)
    tasks = evaluation_tasks(np.arange(rows), batch=scoring.batch_size)
    dataset = _scored(scoring, decoder, tasks, image_bytes=3 * transform.size**2)
    counts, began = Counts.empty(classes, rows), time.monotonic()
    with tqdm(total=rows, unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True, leave=False) as bar:
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            _check_labels(batch, classes, f"{manifest.uri}, split {split!r}")
            counts.add(batch["row"], batch["label"], batch["top"], batch["loss"], batch["bad"])
            bar.update(len(batch["row"]))
    return counts, time.monotonic() - began


def _scored(scoring: Scoring, decoder: Decoder, tasks: Sequence[DecodeTask], *, image_bytes: int) -> Any:
    """The Dataset of scored rows, not yet executed."""

    def decode(block: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for index in block["id"]:
            for batch in decoder(tasks[index]):
                yield batch.columns()

    data = ray_data()
    source = data.range(len(tasks), override_num_blocks=len(tasks))
    # Of this Dataset alone: whatever this process does with Ray Data afterwards has its own block size.
    source.context.target_max_block_size = max(1, int(0.8 * scoring.batch_size * image_bytes))
    return source.map_batches(decode, batch_size=None, num_cpus=1).map_batches(
        score,
        fn_args=(uuid.uuid4().hex, scoring.checkpoint, scoring.precision, scoring.use_gpu),
        batch_size=scoring.batch_size,
        compute=data.TaskPoolStrategy(size=min(scoring.workers, len(tasks))),
        num_cpus=1,
        num_gpus=1 if scoring.use_gpu else 0,
        max_calls=0,  # the process that has loaded the model goes on to the next task, with a GPU too
    )


def _check_labels(batch: dict[str, np.ndarray], classes: int, where: str) -> None:
    outside = (batch["label"] < 0) | (batch["label"] >= classes)
    if outside.any():
        row, label = batch["row"][outside][0], batch["label"][outside][0]
        raise UsageError(
            f"Row {row} of {where} has the label {label}; allowed: 0 to {classes - 1}. "
            "Public test splits often come without labels: name a split that has them by --split."
        )
