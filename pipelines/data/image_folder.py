"""Finds the images of a folder tree: `train/<class>/…` and `val/<class>/…`, or one tree `<class>/…` to be split."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.data.manifest import split_name
from pipelines.errors import UsageError


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFile:
    """An image to be: path relative to the tree's root, class index, and size in bytes."""

    path: str
    label: int
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """What was found.

    Attributes:
        splits: files of each split, sorted by path.
        empty_classes: class folders without a file, as "split/class".
    """

    root: Path
    class_names: tuple[str, ...]
    splits: dict[str, list[ImageFile]]
    empty_classes: tuple[str, ...]


def scan(root: Path, *, val_fraction: float, seed: int) -> ImageFolder:
    """Lists the images under `root`; nothing is opened.

    Args:
        val_fraction: share of each class that becomes the validation split, where the tree has no splits itself.
        seed: of that choice.

    Raises:
        UsageError: there is no such folder, no class folder or no file, or the splits' classes differ.
    """
    if not root.is_dir():
        kind = "a file" if root.exists() else "missing"
        raise UsageError(f"IMAGES is {str(root)!r}, which is {kind}. Give a folder with a subfolder for each class.")
    folders = {split: folder for folder in _folders(root) if (split := split_name(folder.name))}
    if folders and "train" not in folders:
        raise UsageError(
            f"{root} has {', '.join(folders)} but no train folder. Allowed: train, val and test, or classes."
        )
    if folders and val_fraction:
        raise UsageError(
            f"--val-fraction is {val_fraction}, but {root} has splits of its own: {', '.join(folders)}. Leave it out."
        )
    trees = folders or {"train": root}
    class_names = tuple(folder.name for folder in _folders(trees["train"]))
    if not class_names:
        raise UsageError(
            f"{trees['train']} has no class folders. Put the images of each class into a folder of its own."
        )
    splits, empty = {}, []
    for split, tree in trees.items():
        splits[split], without = _files(root, tree, class_names)
        empty += [f"{split}/{name}" for name in without]
    if not any(splits.values()):
        raise UsageError(f"No images under {root}: its {len(class_names)} class folders hold no files.")
    if val_fraction:
        splits["train"], splits["validation"] = _split(splits["train"], val_fraction, seed)
        if not splits["validation"]:
            raise UsageError(
                f"--val-fraction is {val_fraction}, but every class of {root} has a single image: none can be held out."
            )
    return ImageFolder(root=root, class_names=class_names, splits=splits, empty_classes=tuple(empty))


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path, tree: Path, class_names: tuple[str, ...]) -> tuple[list[ImageFile], list[str]]:
    labels = {name: label for label, name in enumerate(class_names)}
    strange = [folder.name for folder in _folders(tree) if folder.name not in labels]
    if strange:
        raise UsageError(
            f"{tree} has classes that train has not: {', '.join(strange[:5])}{' …' if len(strange) > 5 else ''}. "
            "All splits need the same class names."
        )
    stray = [entry.name for entry in tree.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    if any(name.lower().endswith((".jpg", ".jpeg", ".png")) for name in stray):
        raise UsageError(f"{tree} has images outside of class folders, such as {sorted(stray)[0]}. Move them into one.")
    found, empty = [], []
    for name, label in labels.items():
        files = [ImageFile(path, label, size) for path, size in _walk(root, tree / name)]
        found += files
        empty += [] if files else [name]
    return found, empty


def _walk(root: Path, folder: Path) -> Iterator[tuple[str, int]]:
    for parent, names, files in os.walk(folder, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                path = Path(parent, name)
                # A dangling link has no size; whoever opens it reports it by name.
                yield str(path.relative_to(root)), path.stat().st_size if path.exists() else 0


def _split(files: list[ImageFile], fraction: float, seed: int) -> tuple[list[ImageFile], list[ImageFile]]:
    """Takes `fraction` of each class, at least one image of a class that has two."""
    rng = np.random.default_rng(seed)
    labels = np.array([file.label for file in files])
    held_out = np.zeros(len(files), dtype=bool)
    for label in np.unique(labels):
        where = rng.permutation(np.flatnonzero(labels == label))
        count = max(1, round(fraction * len(where))) if len(where) > 1 else 0
        held_out[where[:count]] = True
    pairs = list(zip(files, held_out, strict=True))
    return [file for file, held in pairs if not held], [file for file, held in pairs if held]
