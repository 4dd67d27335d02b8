"""What the training loop needs of its surroundings: its rank, and a place to report to. Ray Train, or this process."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import nn


class Session(Protocol):
    """A rank's view of the run."""

    rank: int
    world: int
    device: torch.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """Moves the model to the device and makes its gradients agree over the ranks."""

    def checkpoint(self) -> Path | None:
        """The folder of the newest checkpoint of the run, or None at the first start."""

    def report(self, metrics: dict[str, float], name: str, write: Callable[[Path], None]) -> None:
        """Keeps a checkpoint called `name`, which `write` writes on rank 0. All ranks call it."""


class RaySession:
    """A worker of a Ray Train run."""

    def __init__(self) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world = context.get_world_size()
        self.device = ray.train.torch.get_device()

    def wrap(self, model: nn.Module) -> nn.Module:
        import ray.train.torch

        return ray.train.torch.prepare_model(model)

    def checkpoint(self) -> Path | None:
        import ray.train

        newest = ray.train.get_checkpoint()
        return Path(newest.path) if newest else None

    def report(self, metrics: dict[str, float], name: str, write: Callable[[Path], None]) -> None:
        import ray.train

        if self.rank != 0:
            ray.train.report(metrics, checkpoint=None, checkpoint_dir_name=name)
            return
        with tempfile.TemporaryDirectory(prefix="gfnet-checkpoint-") as folder:
            write(Path(folder))
            ray.train.report(metrics, ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name)


class LocalSession:
    """One rank in this process, without Ray, for debugging: the run's folder must be a local one."""

    rank = 0
    world = 1

    def __init__(self, folder: Path, *, use_gpu: bool, keep: int):
        self.device = torch.device("cuda" if use_gpu else "cpu")
        self._folder = folder
        self._keep = keep

    def wrap(self, model: nn.Module) -> nn.Module:
        return model.to(self.device)

    def checkpoint(self) -> Path | None:
        return max(self._folder.glob("checkpoint_*"), default=None)

    def report(self, metrics: dict[str, float], name: str, write: Callable[[Path], None]) -> None:
        partial = self._folder / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(self._folder / name)
        for old in sorted(self._folder.glob("checkpoint_*"))[: -self._keep]:
            shutil.rmtree(old)
