"""From the bytes of an image to a uint8 array of the network's input size, on the CPU.

Crops are sampled as torchvision's RandomResizedCrop does and resized with Pillow's antialiased bicubic filter, as the
authors' loader does through timm. Everything is drawn from a generator of its own for each image and epoch.
"""

import dataclasses
import functools
import io
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.errors import UsageError

Transform = Callable[[Image.Image, np.random.Generator], np.ndarray]
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


DECODING_ERRORS = (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError)
"""What Pillow's decoders raise for damaged images; RuntimeError is AVIF's."""


class BadImageError(Exception):
    """The bytes are not an image that can be decoded."""


def decode(data: bytes) -> Image.Image:
    """Decodes an image to RGB.

    Raises:
        BadImageError: with the reason.
    """
    try:
        # A palette's odd transparency or broken EXIF is not a reason to lose an image.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return Image.open(io.BytesIO(data)).convert("RGB")
    except DECODING_ERRORS as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BadImageError(reason) from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainTransform:
    """Random resized crop, horizontal flip and RandAugment; gives uint8 of shape (size, size, 3)."""

    size: int
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    hflip: float
    rand_augment: str | None

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        box = sample_crop(image.size, self.crop_scale, self.crop_ratio, rng)
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        if rng.random() < self.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rand_augment:
            # timm draws from the global generators of `random` and NumPy.
            random.seed(int(rng.integers(2**32)))
            np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
            image = rand_augment(self.rand_augment, self.size)(image)
        return np.asarray(image)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvalTransform:
    """Resize of the shorter side and centre crop; gives uint8 of shape (size, size, 3)."""

    size: int
    eval_crop: float

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        short = int(self.size / self.eval_crop)
        width, height = image.size
        scale = short / min(width, height)
        # Rounded down, as torchvision's Resize does.
        resized = (max(short, int(width * scale)), max(short, int(height * scale)))
        image = image.resize(resized, Image.Resampling.BICUBIC)
        left = round((resized[0] - self.size) / 2)
        top = round((resized[1] - self.size) / 2)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))


def sample_crop(
    image_size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random box (left, top, right, bottom) of the asked share of the area and aspect ratio, inside the image.

    Ten tries, then the largest centred box whose ratio is within the limits.
    """
    width, height = image_size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, round(height * aspect))
    h = min(height, round(width / aspect))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@functools.lru_cache(maxsize=4)
def rand_augment(policy: str, size: int) -> Callable[[Image.Image], Image.Image]:
    """timm's RandAugment, mended so that it never raises.

    Its strongest posterize keeps 0 bits, which Pillow 13 refuses; earlier Pillows gave a black image, and so does this.

    Raises:
        UsageError: timm does not understand `policy`.
    """
    from timm.data.auto_augment import rand_augment_transform  # imports torch: seconds, only where it is used

    parameters: dict[str, Any] = {
        "translate_const": int(size * 0.45),
        "img_mean": tuple(min(255, round(255 * mean)) for mean in MEAN),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        augment = rand_augment_transform(policy, parameters)
    except (AssertionError, ValueError, KeyError) as error:
        raise UsageError(
            f"data.rand_augment is {policy!r}, which timm does not understand ({error}). "
            "Allowed: a policy such as rand-m9-mstd0.5-inc1, or None."
        ) from error
    for operation in augment.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return augment


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    if bits_to_keep >= 8:
        return image
    return ImageOps.posterize(image, bits_to_keep) if bits_to_keep > 0 else Image.new(image.mode, image.size)
