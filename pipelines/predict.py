"""`gfnet predict CHECKPOINT IMAGES…`: the likeliest classes of image files, in this process, without Ray."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from pipelines.data.transforms import BadImageError, EvalTransform, decode
from pipelines.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """What to predict with, and what."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Checkpoint folder, such as runs/NAME/checkpoint_00000330."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, or folders to search for them."""
    top: int = 5
    """How many classes to name."""
    batch_size: int = 64
    """Images that the model looks at together."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclasses.dataclass(frozen=True, slots=True)
class Guess:
    """A class and its probability."""

    label: int
    name: str
    probability: float


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """The likeliest classes of an image, likeliest first; or why it could not be read."""

    path: str
    guesses: tuple[Guess, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, "predictions": [dataclasses.asdict(guess) for guess in self.guesses]}


def predict(config: PredictConfig) -> Iterator[Prediction]:
    """Predicts every image, a batch at a time.

    Raises:
        UsageError: the checkpoint cannot be used, a path does not exist, or there are no images.
    """
    if config.top < 1 or config.batch_size < 1:
        raise UsageError(f"--top is {config.top} and --batch-size {config.batch_size}; allowed: at least 1.")
    paths = find_images(config.images)
    from pipelines.train.checkpoint import load_model

    model, card = load_model(Path(config.checkpoint))
    transform = EvalTransform(size=card.config["model"]["img_size"], eval_crop=card.config["data"]["eval_crop"])
    for start in range(0, len(paths), config.batch_size):
        images, errors = _read(paths[start : start + config.batch_size], transform)
        probabilities = iter(_probabilities(model, images)) if images else iter(())
        for path, error in errors:
            if error is not None:
                yield Prediction(path, error=error)
            else:
                yield _name(path, next(probabilities), card.class_names, config.top)


def find_images(paths: tuple[str, ...]) -> list[str]:
    """The files that `paths` name, folders searched; hidden files are passed over.

    Raises:
        UsageError: a path does not exist, or there is no file.
    """
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise UsageError(f"No such file or folder: {', '.join(missing)}.")
    found: list[str] = []
    for path in paths:
        if not Path(path).is_dir():
            found.append(path)
            continue
        for parent, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [str(Path(parent, name)) for name in sorted(files) if not name.startswith(".")]
    if not found:
        raise UsageError(f"No files in {', '.join(paths) or 'nothing'}. Give image files, or folders that hold some.")
    return found


def _read(paths: list[str], transform: EvalTransform) -> tuple[list[np.ndarray], list[tuple[str, str | None]]]:
    images: list[np.ndarray] = []
    errors: list[tuple[str, str | None]] = []
    for path in paths:
        try:
            images.append(transform(decode(Path(path).read_bytes())))
            errors.append((path, None))
        except (BadImageError, OSError) as error:
            errors.append((path, str(error)))
    return images, errors


def _probabilities(model: "nn.Module", images: list[np.ndarray]) -> np.ndarray:
    import torch

    from pipelines.train.step import normalize

    with torch.inference_mode():
        logits = model(normalize(torch.from_numpy(np.stack(images))))
    return logits.float().softmax(dim=1).numpy()


def _name(path: str, probabilities: np.ndarray, class_names: tuple[str, ...], top: int) -> Prediction:
    order = np.argsort(-probabilities, kind="stable")[:top]
    return Prediction(path, tuple(Guess(int(i), class_names[i], float(probabilities[i])) for i in order))


def print_table(predictions: list[Prediction]) -> None:
    """One row for each readable image."""
    from rich.text import Text

    from pipelines.screen import show, table

    places = max(len(prediction.guesses) for prediction in predictions)
    rows = table("image", *("likeliest" if place == 0 else f"{place + 1}." for place in range(places)))
    for prediction in predictions:
        # As text, so that square brackets in names are no markup.
        guesses = [Text(f"{guess.name} {guess.probability:.1%}") for guess in prediction.guesses]
        if guesses:
            rows.add_row(Text(prediction.path), *guesses)
    show(rows)


def main(argv: list[str]) -> int:
    description = (
        "The likeliest classes of images, with their probabilities.\n\n"
        "Example: gfnet predict runs/NAME/checkpoint_00000330 photo.jpg folder --top 3"
    )
    config = tyro.cli(PredictConfig, args=argv, prog="gfnet predict", description=description)
    predictions = list(predict(config))
    unreadable = [p for p in predictions if p.error is not None]
    if len(unreadable) == len(predictions):
        named = "; ".join(f"{p.path}: {p.error}" for p in unreadable[:5])
        raise UsageError(f"None of the {len(unreadable)} files is a readable image: {named}.")
    if config.json:
        print(json.dumps([prediction.to_json() for prediction in predictions], indent=1))
    else:
        print_table(predictions)
    for prediction in unreadable:
        print(f"gfnet predict: {prediction.path} cannot be read: {prediction.error}", file=sys.stderr)
    return 1 if unreadable else 0
