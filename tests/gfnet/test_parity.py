"""The networks are the authors': names, shapes, counts and outputs."""

import numpy as np
import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay

import gfnet
from tests.golden_figures import arrays, figures, fill_weights, input_images

STATE_DICTS = figures("official_state_dict.json")
OUTPUTS = arrays("official_224.npz")
RESIZED = arrays("official_finetune_resolution.npz")


@pytest.mark.parametrize("arch", sorted(STATE_DICTS))
def test_names_shapes_and_counts(arch: str) -> None:
    model = gfnet.create_model(arch)
    assert {name: list(t.shape) for name, t in model.state_dict().items()} == STATE_DICTS[arch]["tensors"]
    assert sum(p.numel() for p in model.parameters()) == STATE_DICTS[arch]["parameters"]


def test_the_table_is_complete() -> None:
    assert {name.replace("_", "-") for name in gfnet.VARIANTS} == set(STATE_DICTS)
    assert all(timm.is_model(name) for name in gfnet.VARIANTS)


@pytest.mark.parametrize("arch", sorted({key.split("/")[0] for key in OUTPUTS}))
def test_outputs_at_224(arch: str) -> None:
    model = gfnet.create_model(arch).eval()
    fill_weights(model)
    with torch.inference_mode():
        tokens = model.forward_features(input_images(2, 224))
        features, logits = model.forward_head(tokens, pre_logits=True), model.forward_head(tokens)
    assert np.abs(logits.numpy() - OUTPUTS[f"{arch}/224/logits"]).max() <= 1e-4
    assert np.abs(features.numpy() - OUTPUTS[f"{arch}/224/features"]).max() <= 1e-4


@pytest.mark.parametrize("key", sorted(RESIZED))
def test_outputs_after_a_change_of_resolution(key: str) -> None:
    arch, size, _ = key.split("/")
    small, large = gfnet.create_model(arch), gfnet.create_model(arch, img_size=int(size)).eval()
    fill_weights(small)
    large.load_state_dict(gfnet.resize_state_dict(small.state_dict(), large))
    with torch.inference_mode():
        logits = large(input_images(len(RESIZED[key]), int(size)))
    assert np.abs(logits.numpy() - RESIZED[key]).max() <= 1e-4


@pytest.mark.parametrize("arch", ["gfnet-ti", "gfnet-h-ti"])
def test_weight_decay_groups(arch: str) -> None:
    model = gfnet.create_model(arch)
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    names = {id(p): name for name, p in model.named_parameters()}
    without = sorted(names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"])
    assert without == sorted(figures("official_recipe.json")[arch]["no_weight_decay"])
