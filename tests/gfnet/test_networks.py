"""The library as timm's users meet it."""

import subprocess
import sys

import pytest
import timm
import torch

import gfnet
from gfnet.layers import drop_path_rates


def test_created_through_timm() -> None:
    model = timm.create_model("gfnet_xs", num_classes=10, img_size=160, drop_path_rate=0.1)
    assert model(torch.zeros(2, 3, 160, 160)).shape == (2, 10)
    assert model.pretrained_cfg["crop_pct"] == 0.875


@pytest.mark.parametrize(("name", "size"), [("gfnet_ti", (64, 32)), ("gfnet_h_ti", (64, 96))])
def test_images_need_not_be_square(name: str, size: tuple[int, int]) -> None:
    model = gfnet.create_model(name, img_size=size, num_classes=4)
    assert model(torch.zeros(1, 3, *size)).shape == (1, 4)


def test_the_head_can_be_replaced() -> None:
    model = gfnet.create_model("gfnet_ti", img_size=32, num_classes=0)
    tokens = model.forward_features(torch.zeros(2, 3, 32, 32))
    assert tokens.shape == (2, 2, 2, 256)
    assert model.forward_head(tokens).shape == (2, model.num_features)
    model.reset_classifier(7)
    assert model.get_classifier().out_features == 7
    assert model.forward_head(tokens).shape == (2, 7)


def test_stochastic_depth_grows_linearly_and_only_acts_in_training() -> None:
    assert drop_path_rates(0.2, 5) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    torch.manual_seed(0)
    model = gfnet.create_model("gfnet_ti", img_size=32, drop_path_rate=0.9)
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.eval()(image), model(image))
    model.train()
    assert not torch.equal(model(image), model(image))


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return gfnet.create_model("gfnet_ti").state_dict()["blocks.3.filter.complex_weight"]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert weights(1).std() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gfnet_sx"}, "No variant 'gfnet_sx'. Did you mean gfnet_"),
        ({"name": "gfnet_xs", "img_size": 100}, "multiples of 16 pixels. The nearest to 100: 96 or 112"),
        ({"name": "gfnet_h_ti", "img_size": 48}, "multiples of 32 pixels. The nearest to 48: 32 or 64"),
        ({"name": "gfnet_xs", "num_classes": -1}, "num_classes is -1"),
        ({"name": "gfnet_xs", "drop_path_rate": 1.5}, "drop_path_rate is 1.5; allowed: 0 up to below 1"),
        ({"name": "gfnet_xs", "heads": 8}, "heads"),
    ],
)
def test_bad_arguments_say_what_is_allowed(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(gfnet.GFNetError) as error:
        gfnet.create_model(**arguments)
    assert message in str(error.value)


def test_a_wrong_input_says_what_the_model_takes() -> None:
    model = gfnet.create_model("gfnet_ti", img_size=32)
    with pytest.raises(gfnet.GFNetError, match=r"this model takes \(batch, 3, 32, 32\)"):
        model(torch.zeros(1, 3, 64, 64))
    with pytest.raises(gfnet.GFNetError, match=r"\(1, 4, 32, 32\)"):
        model(torch.zeros(1, 4, 32, 32))


def test_the_library_knows_nothing_of_what_is_built_on_it() -> None:
    code = "import sys, gfnet; print([m for m in ('ray', 'mlflow', 'pipelines') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
