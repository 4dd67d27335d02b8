"""Small real JPEGs whose class shows: the tests' stand-in for photographs."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")
_COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def made_image(name: str, number: int, side: int = 24) -> Image.Image:
    """A noisy square of the class's colour; every number gives another one."""
    rng = np.random.default_rng([number, CLASSES.index(name)])
    noise = rng.integers(-35, 36, (side, side, 3))
    return Image.fromarray(np.clip(np.array(_COLOURS[name]) + noise, 0, 255).astype(np.uint8))


def write_image_folder(
    root: Path, *, per_class: int, first: int = 0, classes: tuple[str, ...] = CLASSES, side: int = 24
) -> None:
    """Writes `per_class` images of each class as root/CLASS/NUMBER.jpg."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + per_class):
            made_image(name, number, side).save(root / name / f"{number:04d}.jpg", quality=90)
