"""Checkpoints: a folder with the weights (safetensors), a card (JSON) and what it takes to go on training.

`model.safetensors` and `card.json` are all that evaluation and prediction read; nothing in them can run code.
"""

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.errors import UsageError
from pipelines.train.progress import Progress

WEIGHTS, CARD, OPTIMIZER = "model.safetensors", "card.json", "optimizer.pt"
CARD_FORMAT = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a checkpoint is.

    Attributes:
        config: the resolved configuration of the run (`pipelines.config.to_dict`).
        class_names: in the order of the head's outputs.
        dataset: name and digest of the training data.
        epoch: epochs finished.
        step: optimizer steps done.
        metrics: the newest evaluation, empty before the first.
        versions: of the software.
        mlflow_run: tag that finds the run in MLflow.
    """

    config: dict[str, Any]
    class_names: tuple[str, ...]
    dataset: dict[str, str]
    epoch: int
    step: int
    metrics: dict[str, float]
    versions: dict[str, str]
    mlflow_run: str


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide about the result."""
    import gfnet

    names = {"gfnet": gfnet.__version__, "torch": torch.__version__, "python": platform.python_version()}
    for library in ("timm", "ray", "numpy", "PIL"):
        names[library] = getattr(__import__(library), "__version__", "unknown")
    return names


def save(folder: Path, model: nn.Module, card: Card, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Writes a checkpoint into the existing folder `folder`."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    torch.save(optimizer.state_dict(), folder / OPTIMIZER)
    progress.save(folder)
    card_fields = {"format": CARD_FORMAT, **dataclasses.asdict(card)}
    (folder / CARD).write_text(json.dumps(card_fields, indent=1))


def read_card(folder: Path) -> Card:
    """Reads a checkpoint's card.

    Raises:
        UsageError: the folder is not a checkpoint.
    """
    try:
        fields = json.loads((folder / CARD).read_text())
        if fields.pop("format") != CARD_FORMAT:
            raise KeyError("format")
        return Card(**{**fields, "class_names": tuple(fields["class_names"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{str(folder)!r} is not a checkpoint: it has no readable {CARD} ({error}). Give a folder that "
            "'gfnet train' names in the end, such as runs/NAME/checkpoint_00000330."
        ) from error


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors by name, on the CPU.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{folder / WEIGHTS} cannot be read: {error}. Take another checkpoint.") from error


def load_model(folder: Path) -> tuple[nn.Module, Card]:
    """The model of a checkpoint with its weights, in eval mode, and its card.

    Raises:
        UsageError: the folder is not a checkpoint, or its weights do not fit its card.
    """
    card = read_card(folder)
    model = build_model(card.config["model"], len(card.class_names))
    try:
        model.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        raise UsageError(f"The weights in {folder} do not fit its {CARD}: {error}") from error
    return model.eval(), card


def build_model(model_config: dict[str, Any], num_classes: int) -> nn.Module:
    """The network that a configuration's `model` part (as plain values) describes."""
    import gfnet
    from pipelines.config import ModelConfig

    config = ModelConfig(**model_config)
    return gfnet.create_model(config.name, num_classes=num_classes, **config.arguments())


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Puts the optimizer back to where the checkpoint left it."""
    optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu"))


def initialize(model: nn.Module, folder: Path) -> None:
    """Starts `model` from a checkpoint's weights, fitted to its resolution; a head of other classes starts anew.

    Raises:
        UsageError: the folder is no checkpoint, or one of another network.
    """
    from gfnet.resize import resize_state_dict

    weights = resize_state_dict(read_weights(folder), model)
    own = model.state_dict()
    for name in [name for name in weights if name.startswith("head.") and weights[name].shape != own[name].shape]:
        weights[name] = own[name]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(f"init_from is {str(folder)!r}, a checkpoint of another network: {error}") from error
