"""Transfer of ImageNet weights to smaller data sets, as the authors fine-tune them."""

from pipelines.config import ModelConfig, OptimConfig, TrainConfig


def gfnet_xs_cifar10() -> TrainConfig:
    """GFNet-XS fine-tuned on CIFAR-10 at 224 px, 1000 epochs (--init-from CHECKPOINT). Published top-1: 98.6 %.

    Command: gfnet train gfnet_xs_cifar10 --data CIFAR10 --init-from CHECKPOINT --workers 8.
    Hours on 8 GPUs: not yet run.
    """
    return TrainConfig(
        recipe="gfnet_xs_cifar10",
        model=ModelConfig(name="gfnet_xs"),
        optim=OptimConfig(lr=1e-4, weight_decay=1e-4),
        epochs=1000,
        batch_size=512,
    )


RECIPES = (gfnet_xs_cifar10,)
