"""The seven published variants, in one table, and their registration with timm."""

import dataclasses
import difflib
from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from gfnet.errors import GFNetError
from gfnet.isotropic import GFNet
from gfnet.pyramid import GFNetPyramid


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A published network.

    Attributes:
        network: its class.
        arguments: what makes it this variant.
        drop_path_rate: stochastic depth that it was trained with on ImageNet.
    """

    network: type[GFNet] | type[GFNetPyramid]
    arguments: dict[str, Any]
    drop_path_rate: float


def _isotropic(dim: int, depth: int, drop_path_rate: float) -> Variant:
    return Variant(network=GFNet, arguments={"embed_dim": dim, "depth": depth}, drop_path_rate=drop_path_rate)


def _pyramid(dim: int, middle: int, drop_path_rate: float, layer_scale: float) -> Variant:
    dims = (dim, 2 * dim, 4 * dim, 8 * dim)
    arguments = {"embed_dim": dims, "depth": (3, 3, middle, 3), "layer_scale": layer_scale}
    return Variant(network=GFNetPyramid, arguments=arguments, drop_path_rate=drop_path_rate)


VARIANTS: dict[str, Variant] = {
    "gfnet_ti": _isotropic(256, 12, 0.0),
    "gfnet_xs": _isotropic(384, 12, 0.0),
    "gfnet_s": _isotropic(384, 19, 0.15),
    "gfnet_b": _isotropic(512, 19, 0.25),
    "gfnet_h_ti": _pyramid(64, 10, 0.1, 1e-3),
    "gfnet_h_s": _pyramid(96, 10, 0.2, 1e-5),
    "gfnet_h_b": _pyramid(96, 27, 0.4, 1e-6),
}


def create_model(name: str, **arguments: Any) -> nn.Module:
    """`timm.create_model` for the variants of this library; "gfnet-xs" is as good as "gfnet_xs".

    Args:
        name: a key of `VARIANTS`.
        arguments: of the network's class, such as num_classes, img_size, drop_path_rate.

    Raises:
        GFNetError: there is no such variant, or an argument is unknown or out of its range.
    """
    key = name.replace("-", "_")
    if key not in VARIANTS:
        near = difflib.get_close_matches(key, VARIANTS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise GFNetError(f"No variant {name!r}.{hint} Allowed: {', '.join(VARIANTS)}.")
    try:
        return timm.create_model(key, **arguments)
    except TypeError as error:
        raise GFNetError(f"{key} does not take these arguments: {error}") from error


def _default_cfg(first_conv: str) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "pool_size": None,
        "crop_pct": 224 / 256,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": first_conv,
        "classifier": "head",
        "license": "mit",
        "paper_ids": "arXiv:2107.00645",
        "paper_name": "Global Filter Networks for Image Classification",
    }


default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": _default_cfg("patch_embed.proj" if variant.network is GFNet else "patch_embed.0.proj")
        for name, variant in VARIANTS.items()
    }
)


def _create(name: str, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    variant = VARIANTS[name]
    return build_model_with_cfg(variant.network, name, pretrained, **{**variant.arguments, **arguments})


# timm registers functions by their names, from the module that defines them: one function for each variant.


@register_model
def gfnet_ti(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GFNet-Ti: 7.5 M parameters, 1.3 GFLOPs."""
    return _create("gfnet_ti", pretrained, kwargs)


@register_model
def gfnet_xs(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GFNet-XS: 16 M parameters, 2.8 GFLOPs."""
    return _create("gfnet_xs", pretrained, kwargs)


@register_model
def gfnet_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GFNet-S: 25 M parameters, 4.5 GFLOPs."""
    return _create("gfnet_s", pretrained, kwargs)


@register_model
def gfnet_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GFNet-B: 43 M parameters, 7.9 GFLOPs."""
    return _create("gfnet_b", pretrained, kwargs)


@register_model
def gfnet_h_ti(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GFNet-H-Ti: 15 M parameters, 2.0 GFLOPs."""
    return _create("gfnet_h_ti", pretrained, kwargs)


@register_model
def gfnet_h_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GFNet-H-S: 32 M parameters, 4.5 GFLOPs."""
    return _create("gfnet_h_s", pretrained, kwargs)


@register_model
def gfnet_h_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GFNet-H-B: 54 M parameters, 8.4 GFLOPs."""
    return _create("gfnet_h_b", pretrained, kwargs)
