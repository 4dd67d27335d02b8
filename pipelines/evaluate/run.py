"""`gfnet evaluate CHECKPOINT --data DATASET`: the accuracy of a checkpoint, every image of a split counted once."""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from pipelines.data.manifest import Manifest, open_dataset
from pipelines.errors import UsageError
from pipelines.evaluate.scoring import Scoring, plan_workers, score_split
from pipelines.ray_session import ray_session
from pipelines.tracking import RUN_TAG, experiment_id, find_run, mlflow_client, tracking_uri

if TYPE_CHECKING:
    from pipelines.train.checkpoint import Card

_WORST = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """What to evaluate, on what."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Checkpoint folder, such as runs/NAME/checkpoint_00000330."""
    data: str
    """Folder or URI of Parquet shards."""
    split: str | None = None
    """Split to evaluate; None: validation, else test."""
    batch_size: int = 256
    """Images that a worker looks at together."""
    workers: int | None = None
    """Tasks that run the model at a time; None: one a GPU of the cluster, else one for every two CPUs."""
    use_gpu: bool | None = None
    """Run the model on GPUs; None: if the cluster has any."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 autocast on GPUs and on CPUs that compute in it, else float32."""
    tracking_uri: str | None = None
    """MLflow tracking URI; None: the MLFLOW_TRACKING_URI variable, else SQLite in the folder of the runs."""
    experiment: str = "gfnet"
    """MLflow experiment."""
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """What came out: percentages, the mean loss, and the counts they come from."""

    split: str
    acc1: float
    acc5: float
    loss: float
    images: int
    bad_rows: tuple[int, ...]
    confusion: np.ndarray
    class_names: tuple[str, ...]
    class_accuracy: np.ndarray
    images_per_second: float
    tracking_error: str | None

    def summary(self) -> dict[str, Any]:
        names = ("split", "acc1", "acc5", "loss", "images", "bad_rows", "images_per_second")
        return {name: getattr(self, name) for name in names}


def evaluate(config: EvaluateConfig) -> EvaluationResult:
    """Evaluates a checkpoint, in the Ray that this process is connected to, and logs the result to MLflow.

    Raises:
        UsageError: the checkpoint, the data set or the split cannot be used, or their classes differ.
    """
    from pipelines.train.checkpoint import read_card

    card = read_card(Path(config.checkpoint))
    manifest = open_dataset(config.data if "://" in config.data else str(Path(config.data).absolute()))
    split = config.split or manifest.evaluation_split()
    if split is None:
        raise UsageError(
            f"{config.data} has no validation or test split. Name one of {list(manifest.splits)} by --split."
        )
    rows = manifest.split(split).rows
    if not rows:
        raise UsageError(f"Split {split!r} of {config.data} has no images. Name another of {list(manifest.splits)}.")
    check_classes(card.class_names, manifest)
    uri = tracking_uri(config.tracking_uri, Path(config.checkpoint).absolute().parent.parent)
    workers, use_gpu = plan_workers(config.workers, config.use_gpu)
    scoring = Scoring(
        checkpoint=str(Path(config.checkpoint).absolute()),
        precision=config.precision,
        workers=workers,
        use_gpu=use_gpu,
        batch_size=config.batch_size,
    )
    counts, seconds = score_split(scoring, card, manifest, split)
    if counts.images + len(counts.bad_rows) != rows:
        raise RuntimeError(f"counted {counts.images} and {len(counts.bad_rows)} bad images of {rows} in {split!r}")
    result = EvaluationResult(
        split=split,
        acc1=counts.acc1,
        acc5=counts.acc5,
        loss=counts.mean_loss,
        images=counts.images,
        bad_rows=tuple(sorted(counts.bad_rows)),
        confusion=counts.confusion,
        class_names=manifest.class_names,
        class_accuracy=counts.class_accuracy(),
        images_per_second=counts.images / seconds,
        tracking_error=None,
    )
    return dataclasses.replace(result, tracking_error=_log(config, card, manifest, uri, result))


def check_classes(expected: tuple[str, ...], manifest: Manifest) -> None:
    """Refuses a data set whose classes are not the checkpoint's.

    Raises:
        UsageError: naming the first class that differs.
    """
    given = manifest.class_names
    if given == expected:
        return
    if len(given) != len(expected):
        raise UsageError(
            f"{manifest.uri} has {len(given)} classes, the checkpoint {len(expected)}. Give its own data set."
        )
    i = next(i for i, (a, b) in enumerate(zip(given, expected, strict=True)) if a != b)
    raise UsageError(
        f"Class {i} of {manifest.uri} is {given[i]!r}, the checkpoint's is {expected[i]!r}. "
        "Give a data set with the checkpoint's classes."
    )


def _log(config: EvaluateConfig, card: "Card", manifest: Manifest, uri: str, result: EvaluationResult) -> str | None:
    """Logs into the MLflow run that trained the checkpoint, or one of its own; returns why it could not, or None."""
    from pipelines.evaluate.picture import draw_confusion

    try:
        client = mlflow_client(uri)
        experiment = experiment_id(client, config.experiment)
        run_id = find_run(client, experiment, card.mlflow_run)
        if run_id is None:
            name = f"evaluate {Path(config.checkpoint).name}"
            run_id = client.create_run(experiment, run_name=name, tags={RUN_TAG: card.mlflow_run}).info.run_id
            client.set_terminated(run_id)
        split = result.split
        values = {"acc1": result.acc1, "acc5": result.acc5, "loss": result.loss, "images": result.images}
        for name, value in {**values, "bad_images": len(result.bad_rows)}.items():
            client.log_metric(run_id, f"evaluate/{split}/{name}", value, step=card.step)
        with tempfile.TemporaryDirectory() as folder:
            title = f"{manifest.name} {split}: acc@1 {result.acc1:.2f} % of {result.images:,} images"
            draw_confusion(result.confusion, result.class_names, title, Path(folder, "confusion_matrix.png"))
            _write_classes(result, Path(folder, "classes.csv"))
            client.log_artifacts(run_id, folder, f"evaluate/{split}")
    except Exception as error:  # MLflow raises errors of many libraries; none may cost a finished evaluation
        return f"{type(error).__name__}: {error}"
    return None


def _write_classes(result: EvaluationResult, path: Path) -> None:
    import csv

    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "images", "correct", "accuracy"])
        totals, right = result.confusion.sum(axis=1), np.diagonal(result.confusion)
        for name, total, correct, accuracy in zip(
            result.class_names, totals, right, result.class_accuracy, strict=True
        ):
            writer.writerow([name, total, correct, f"{accuracy:.2f}" if total else ""])


def print_result(config: EvaluateConfig, result: EvaluationResult) -> None:
    """The table of an evaluation, with the classes it does worst on."""
    from rich.text import Text

    from pipelines.screen import show, table, warn

    figures = table(title=f"{config.checkpoint} on {result.split}")
    figures.add_row("acc@1", f"{result.acc1:.2f} %")
    figures.add_row("acc@5", f"{result.acc5:.2f} %")
    figures.add_row("loss", f"{result.loss:.4f}")
    figures.add_row("images", f"{result.images:,}, {result.images_per_second:,.0f} a second")
    if result.bad_rows:
        figures.add_row("not decodable", f"{len(result.bad_rows)}, rows {', '.join(map(str, result.bad_rows[:10]))}")
    show(figures)
    worst = table("class", "acc@1", "images", title="Lowest classes")
    totals = result.confusion.sum(axis=1)
    order = [i for i in np.argsort(result.class_accuracy, kind="stable") if totals[i]]
    for i in order[:_WORST]:
        worst.add_row(Text(result.class_names[i]), f"{result.class_accuracy[i]:.1f} %", f"{totals[i]:,}")
    show(worst)
    if result.tracking_error:
        warn(f"MLflow does not have this result: {result.tracking_error}")
    else:
        print(f"In MLflow: evaluate/{result.split}/ with the confusion matrix and all classes.")
    print(f"Next: gfnet predict {config.checkpoint} IMAGES...")


def main(argv: list[str]) -> int:
    description = (
        "Accuracy of a checkpoint on a data set: every image is counted once.\n\n"
        "Example: gfnet evaluate runs/NAME/checkpoint_00000330 --data shards/digits --split test"
    )
    config = tyro.cli(EvaluateConfig, args=argv, prog="gfnet evaluate", description=description)
    if config.batch_size < 1 or (config.workers is not None and config.workers < 1):
        raise UsageError(f"--batch-size is {config.batch_size} and --workers {config.workers}; allowed: at least 1.")
    with ray_session(max(os.cpu_count() or 1, (config.workers or 1) + 1)):
        result = evaluate(config)
    if config.json:
        print(json.dumps({**result.summary(), "tracking_error": result.tracking_error}))
    else:
        print_result(config, result)
    return 0
