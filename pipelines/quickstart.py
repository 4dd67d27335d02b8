"""`gfnet quickstart`: the whole path on real images within minutes: prepare, stream, train, evaluate, MLflow."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from pipelines.config import DataConfig, TrainConfig
from pipelines.ray_session import ray_session
from pipelines.recipes.debug import gfnet_debug_digits

_SIDE = 32
_HELD_OUT = 5  # every fifth digit is for evaluation


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartConfig:
    """Where the quickstart works."""

    folder: str = "runs/quickstart"
    """Folder for the images, the shards, the runs and MLflow's database."""
    workers: int = 2
    """Training workers."""
    epochs: int | None = None
    """Passes over the digits; None: the recipe's."""


def write_digits(folder: Path) -> Path:
    """Writes scikit-learn's 1797 handwritten digits as JPEGs: train/CLASS/… and test/CLASS/….

    The digits are 8x8 pixels of 17 greys, from the test set of "Optical Recognition of Handwritten Digits" (UCI).

    Returns:
        `folder`, which is complete if it is there.
    """
    if folder.exists():
        return folder
    from sklearn.datasets import load_digits

    digits = load_digits()
    partial = folder.with_name(folder.name + ".partial")
    for i, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "test" if i % _HELD_OUT == 0 else "train"
        path = partial / split / str(label) / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * (255 / 16)).astype(np.uint8))
        image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(path, quality=95)
    partial.rename(folder)
    return folder


def configure(config: QuickstartConfig, shards: Path) -> TrainConfig:
    """The recipe of the digits with this folder's paths."""
    recipe = gfnet_debug_digits()
    data: DataConfig = dataclasses.replace(recipe.data, path=str(shards))
    epochs = config.epochs or recipe.epochs
    return dataclasses.replace(recipe, data=data, workers=config.workers, epochs=epochs, storage=config.folder)


def main(argv: list[str]) -> int:
    from pipelines.data.prepare import PrepareConfig, prepare
    from pipelines.data.prepare import print_summary as print_prepared
    from pipelines.evaluate.run import EvaluateConfig, evaluate
    from pipelines.train.display import print_summary
    from pipelines.train.run import STARTED, train

    config = tyro.cli(
        QuickstartConfig,
        args=argv,
        prog="gfnet quickstart",
        description="Trains a small GFNet on handwritten digits: prepare, stream, train, evaluate.",
    )
    folder = Path(config.folder)
    shards = folder / "shards"
    print("1/3 the digits of scikit-learn -> JPEGs -> Parquet shards", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    images = write_digits(folder / "digits")
    # Every worker needs a CPU for itself and one for decoding, even where the machine has fewer.
    with ray_session(max(os.cpu_count() or 1, 2 * config.workers)):
        if not (shards / "manifest.json").exists():
            print_prepared(prepare(PrepareConfig(images=str(images), target=str(shards))))
        print("2/3 training", flush=True)
        outcome = train(configure(config, shards), started=STARTED)
        print("3/3 evaluation of the checkpoint", flush=True)
        result = evaluate(EvaluateConfig(checkpoint=str(outcome.checkpoint), data=str(shards)))
    print(f"held-out digits: {result.acc1:.2f} % of {result.images} right, each counted once")
    print_summary(outcome, data=str(shards))
    print(f"            such as {images}/test/3")
    return 0
