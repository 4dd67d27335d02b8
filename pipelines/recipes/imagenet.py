"""ImageNet-1k as the authors train it: 300 epochs, global batch 1024, AdamW, RandAugment, mixup and cutmix.

Accuracies are the papers' (top-1 on the validation set); none of these runs has been repeated here yet.
"""

import dataclasses

from pipelines.config import ModelConfig, OptimConfig, TrainConfig


def _in1k(recipe: str, model: str, drop_path_rate: float) -> TrainConfig:
    return TrainConfig(recipe=recipe, model=ModelConfig(name=model, drop_path_rate=drop_path_rate))


def gfnet_ti_in1k() -> TrainConfig:
    """GFNet-Ti on ImageNet, 224 px, 300 epochs. Published top-1: 74.6 %.

    Command: gfnet train gfnet_ti_in1k --data IMAGENET_SHARDS --workers 8. Hours on 8 GPUs: not yet run.
    """
    return _in1k("gfnet_ti_in1k", "gfnet_ti", 0.0)


def gfnet_xs_in1k() -> TrainConfig:
    """GFNet-XS on ImageNet, 224 px, 300 epochs. Published top-1: 78.6 %.

    Command: gfnet train gfnet_xs_in1k --data IMAGENET_SHARDS --workers 8. Hours on 8 GPUs: not yet run.
    """
    return _in1k("gfnet_xs_in1k", "gfnet_xs", 0.0)


def gfnet_s_in1k() -> TrainConfig:
    """GFNet-S on ImageNet, 224 px, 300 epochs. Published top-1: 80.0 %.

    Command: gfnet train gfnet_s_in1k --data IMAGENET_SHARDS --workers 8. Hours on 8 GPUs: not yet run.
    """
    return _in1k("gfnet_s_in1k", "gfnet_s", 0.15)


def gfnet_b_in1k() -> TrainConfig:
    """GFNet-B on ImageNet, 224 px, 300 epochs. Published top-1: 80.7 %.

    Command: gfnet train gfnet_b_in1k --data IMAGENET_SHARDS --workers 8. Hours on 8 GPUs: not yet run.
    """
    return _in1k("gfnet_b_in1k", "gfnet_b", 0.25)


def gfnet_h_ti_in1k() -> TrainConfig:
    """GFNet-H-Ti (pyramid) on ImageNet, 224 px, 300 epochs. Published top-1: 80.1 %.

    Command: gfnet train gfnet_h_ti_in1k --data IMAGENET_SHARDS --workers 8. Hours on 8 GPUs: not yet run.
    """
    return _in1k("gfnet_h_ti_in1k", "gfnet_h_ti", 0.1)


def gfnet_h_s_in1k() -> TrainConfig:
    """GFNet-H-S (pyramid) on ImageNet, 224 px, 300 epochs. Published top-1: 81.5 %.

    Command: gfnet train gfnet_h_s_in1k --data IMAGENET_SHARDS --workers 8. Hours on 8 GPUs: not yet run.
    """
    return _in1k("gfnet_h_s_in1k", "gfnet_h_s", 0.2)


def gfnet_h_b_in1k() -> TrainConfig:
    """GFNet-H-B (pyramid) on ImageNet, 224 px, 300 epochs. Published top-1: 82.9 %.

    Command: gfnet train gfnet_h_b_in1k --data IMAGENET_SHARDS --workers 8. Hours on 8 GPUs: not yet run.
    """
    return _in1k("gfnet_h_b_in1k", "gfnet_h_b", 0.4)


def gfnet_xs_in1k_384() -> TrainConfig:
    """GFNet-XS fine-tuned at 384 px, 30 epochs, from 224 px weights (--init-from CHECKPOINT).

    Command: gfnet train gfnet_xs_in1k_384 --data IMAGENET_SHARDS --init-from CHECKPOINT --workers 8.
    Hours on 8 GPUs: not yet run. As the authors do it, the model stays in eval mode and the
    learning rate, once warmed up, is constant.
    """
    return dataclasses.replace(
        gfnet_xs_in1k(),
        recipe="gfnet_xs_in1k_384",
        model=ModelConfig(name="gfnet_xs", img_size=384),
        optim=OptimConfig(lr=5e-6, min_lr=5e-6, weight_decay=1e-8),
        epochs=30,
        batch_size=512,
        dropout_off=True,
    )


RECIPES = (
    gfnet_ti_in1k,
    gfnet_xs_in1k,
    gfnet_s_in1k,
    gfnet_b_in1k,
    gfnet_h_ti_in1k,
    gfnet_h_s_in1k,
    gfnet_h_b_in1k,
    gfnet_xs_in1k_384,
)
