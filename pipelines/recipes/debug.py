"""Small networks that train within minutes on a laptop, through the same path as the large ones."""

from pipelines.config import DataConfig, MixConfig, ModelConfig, OptimConfig, TrainConfig


def gfnet_debug_digits() -> TrainConfig:
    """A GFNet of 0.2 M parameters on handwritten digits, 32 px: what 'gfnet quickstart' trains."""
    return TrainConfig(
        recipe="gfnet_debug_digits",
        model=ModelConfig(name="gfnet_ti", img_size=32, patch_size=4, embed_dim=64, depth=4),
        # Digits are not mirror images of each other, and a crop that cuts a stroke makes another digit.
        data=DataConfig(crop_scale=(0.85, 1.0), crop_ratio=(0.9, 1.11), hflip=0.0, rand_augment=None, eval_crop=1.0),
        mix=MixConfig(mixup=0.0, cutmix=0.0),
        optim=OptimConfig(lr=8e-3, warmup_epochs=2, schedule="step"),
        epochs=40,
        batch_size=128,
        eval_every=5,
        checkpoint_every=10,
        log_every=10,
    )


def gfnet_debug_cifar10() -> TrainConfig:
    """A GFNet of 0.2 M parameters on CIFAR-10 from scratch, 32 px: minutes on a laptop."""
    return TrainConfig(
        recipe="gfnet_debug_cifar10",
        model=ModelConfig(name="gfnet_ti", img_size=32, patch_size=4, embed_dim=64, depth=4),
        data=DataConfig(crop_scale=(0.5, 1.0), rand_augment=None, eval_crop=1.0),
        mix=MixConfig(mixup=0.0, cutmix=0.0),
        optim=OptimConfig(lr=4e-3, warmup_epochs=1, schedule="step"),
        epochs=10,
        batch_size=256,
        eval_every=2,
        log_every=50,
    )


RECIPES = (gfnet_debug_digits, gfnet_debug_cifar10)
