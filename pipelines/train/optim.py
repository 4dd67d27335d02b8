"""AdamW with the authors' weight-decay groups, and their learning-rate schedule as a pure function."""

import math

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from pipelines.config import OptimConfig

REFERENCE_BATCH = 512
"""Global batch at which `OptimConfig.lr` holds; the rate is in proportion to the batch (linear scaling)."""


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW whose biases, norms and layer scales have no weight decay."""
    groups = param_groups_weight_decay(
        model,
        config.weight_decay,
        no_weight_decay_list=model.no_weight_decay(),  # type: ignore[operator]
    )
    return torch.optim.AdamW(groups, lr=config.lr, eps=1e-8)


def learning_rate(config: OptimConfig, *, epochs: int, batch_size: int, epoch: int, progress: float = 0.0) -> float:
    """The learning rate in force at a point of training: linear warm-up, then half a cosine down to `min_lr`.

    Args:
        epochs: of the whole run.
        batch_size: images of one optimizer step over all workers.
        epoch: from 0.
        progress: share of the epoch done, 0 to 1. Counts only where `config.schedule` is "step".
    """
    peak = config.lr * batch_size / REFERENCE_BATCH
    # The authors step their scheduler with the number of the epoch that has ended: the rate moves one epoch late.
    time = epoch + progress if config.schedule == "step" else max(epoch - 1, 0)
    if time < config.warmup_epochs:
        return config.warmup_lr + time * (peak - config.warmup_lr) / config.warmup_epochs
    return config.min_lr + 0.5 * (peak - config.min_lr) * (1 + math.cos(math.pi * min(time / epochs, 1.0)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
