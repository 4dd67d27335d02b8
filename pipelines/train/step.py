"""One optimizer step, in pure torch: from uint8 images to new weights. Nothing here waits for the device."""

import contextlib
import dataclasses
import functools

import numpy as np
import torch
from timm.data.mixup import Mixup, mixup_target
from torch import nn

from pipelines.config import MixConfig
from pipelines.data.transforms import MEAN, STD


@dataclasses.dataclass(frozen=True, slots=True)
class StepResult:
    """What a step leaves on the device: scalars of shape ()."""

    loss: torch.Tensor
    grad_norm: torch.Tensor


def normalize(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) with ImageNet's mean and standard deviation per channel."""
    scale, shift = _scale_and_shift(images.device)
    return torch.addcmul(shift, images.float(), scale).permute(0, 3, 1, 2).contiguous()


@functools.lru_cache
def _scale_and_shift(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    # Made once: a copy to the device in every step would wait for it.
    with torch.inference_mode(False):
        scale = torch.tensor([1 / (255 * s) for s in STD], device=device)
        return scale, torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)], device=device)


class Mixer:
    """Mixup, cutmix and label smoothing of a batch with timm's rules; repeatable for a given seed and step."""

    def __init__(self, config: MixConfig, num_classes: int):
        self._config = config
        self._num_classes = num_classes
        self._mixup = None
        if config.mixup > 0 or config.cutmix > 0:
            self._mixup = Mixup(
                mixup_alpha=config.mixup,
                cutmix_alpha=config.cutmix,
                prob=config.prob,
                switch_prob=config.switch_prob,
                label_smoothing=config.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, seed: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) images, changed in place, and (B,) labels -> images and (B, classes) soft targets."""
        if self._mixup is None:
            return images, mixup_target(labels, self._num_classes, smoothing=self._config.label_smoothing)
        np.random.seed(np.random.SeedSequence(seed).generate_state(1)[0])  # noqa: NPY002 - timm draws from it
        mixed, targets = self._mixup(images, labels)
        return mixed, targets


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of -sum(target · log softmax(logits)), in float32. Shapes (B, classes) -> ()."""
    return torch.sum(-targets * torch.log_softmax(logits.float(), dim=-1), dim=-1).mean()


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    targets: torch.Tensor,
    *,
    clip_grad: float | None,
    autocast: torch.dtype | None,
) -> StepResult:
    """Forward, backward, clip, step.

    Args:
        model: in train or eval mode, as the caller wants it; wrapped for data parallelism or not.
        images: float32 of shape (B, 3, H, W).
        targets: soft targets of shape (B, classes).
        clip_grad: largest norm of the whole gradient; None: not clipped.
        autocast: dtype of mixed precision; None: everything in float32.
    """
    with autocast_context(images.device, autocast):
        logits = model(images)
    loss = soft_cross_entropy(logits, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    limit = clip_grad if clip_grad is not None else float("inf")
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
    optimizer.step()
    return StepResult(loss.detach(), grad_norm.detach())


def autocast_context(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[None]:
    """Autocast to `dtype`, or a context that does nothing."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What `precision` ("auto", "bf16" or "fp32") means on `device`: bfloat16, or None for float32."""
    if precision == "fp32":
        return None
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else None
