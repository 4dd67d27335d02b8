"""The training step and the schedule are the authors'."""

import itertools

import numpy as np
import pytest
import torch

import gfnet
from pipelines.config import MixConfig, OptimConfig
from pipelines.recipes import find
from pipelines.train.optim import learning_rate, make_optimizer, set_learning_rate
from pipelines.train.step import Mixer, autocast_dtype, normalize, soft_cross_entropy, train_step
from tests.golden_figures import figures, fill_weights, input_images

RECIPE = figures("official_recipe.json")


def test_learning_rates_of_the_imagenet_recipe() -> None:
    config = find("gfnet_xs_in1k")()
    golden = RECIPE["learning_rate_by_epoch"]
    ours = [
        learning_rate(config.optim, epochs=config.epochs, batch_size=config.batch_size, epoch=epoch, progress=0.5)
        for epoch in range(len(golden))
    ]
    assert len(ours) == 300
    assert max(abs(a - b) for a, b in zip(ours, golden, strict=True)) <= 1e-9


def test_the_rate_by_step_is_continuous_and_ends_low() -> None:
    optim = OptimConfig(lr=1e-3, min_lr=1e-6, warmup_epochs=2, schedule="step")
    rates = [
        learning_rate(optim, epochs=10, batch_size=512, epoch=epoch, progress=step / 50)
        for epoch in range(10)
        for step in range(50)
    ]
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) == pytest.approx(1e-3, rel=0.1)
    assert rates[-1] < 2e-6
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 1e-4


def test_the_rate_grows_with_the_batch() -> None:
    optim = OptimConfig(lr=1e-3, warmup_epochs=0)
    peak = {b: learning_rate(optim, epochs=10, batch_size=b, epoch=0) for b in (256, 512, 1024)}
    assert peak == pytest.approx({256: 5e-4, 512: 1e-3, 1024: 2e-3})


def test_five_steps_equal_the_golden_losses_and_gradient_norms() -> None:
    model = gfnet.create_model("gfnet_ti", img_size=64).train()
    fill_weights(model)
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.05))
    set_learning_rate(optimizer, 1e-4)
    targets = torch.softmax(3 * torch.sin(torch.arange(4000.0)).reshape(4, 1000), dim=-1)
    for golden in RECIPE["five_steps_gfnet_ti_64px_batch4_lr1e-4_wd0.05_clip1"]:
        result = train_step(model, optimizer, input_images(4, 64), targets, clip_grad=1.0, autocast=None)
        assert result.loss.item() == pytest.approx(golden["loss"], abs=1e-4)
        assert result.grad_norm.item() == pytest.approx(golden["grad_norm_before_clipping"], abs=1e-4)


@pytest.mark.parametrize("arch", ["gfnet-ti", "gfnet-h-ti"])
def test_weight_decay_groups(arch: str) -> None:
    model = gfnet.create_model(arch)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = make_optimizer(model, OptimConfig(weight_decay=0.05)).param_groups
    without = sorted(names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"])
    assert without == sorted(RECIPE[arch]["no_weight_decay"])
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_normalisation() -> None:
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(normalize(images), expected)


def test_mixing_repeats_with_its_seed_and_keeps_the_mass_of_targets() -> None:
    mixer = Mixer(MixConfig(), num_classes=5)
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 5

    def mixed(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return mixer(images.clone(), labels, [seed, 0, 0])

    first, targets = mixed(3)
    again, targets_again = mixed(3)
    other, _ = mixed(4)
    assert torch.equal(first, again)
    assert torch.equal(targets, targets_again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))


def test_smoothing_alone() -> None:
    mixer = Mixer(MixConfig(mixup=0, cutmix=0, label_smoothing=0.1), num_classes=4)
    images, targets = mixer(torch.zeros(2, 3, 4, 4), torch.tensor([1, 3]), [0])
    assert torch.equal(images, torch.zeros(2, 3, 4, 4))
    torch.testing.assert_close(targets, torch.full((2, 4), 0.025) + 0.9 * torch.eye(4)[[1, 3]])
    logits = torch.randn(2, 4)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 3]), label_smoothing=0.1)
    torch.testing.assert_close(soft_cross_entropy(logits, targets), expected)


def test_precisions() -> None:
    cpu = torch.device("cpu")
    assert autocast_dtype("fp32", cpu) is None
    assert autocast_dtype("bf16", cpu) == torch.bfloat16
    assert autocast_dtype("auto", cpu) in (None, torch.bfloat16)


def test_a_step_under_bf16_stays_near_float32() -> None:
    losses = []
    for autocast in (None, torch.bfloat16):
        torch.manual_seed(0)
        model = gfnet.create_model("gfnet_ti", img_size=32, patch_size=4, embed_dim=32, depth=2, num_classes=10)
        optimizer = make_optimizer(model, OptimConfig())
        targets = torch.eye(10)[np.arange(8)]
        result = train_step(model, optimizer, input_images(8, 32), targets, clip_grad=1.0, autocast=autocast)
        losses.append(result.loss.item())
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
