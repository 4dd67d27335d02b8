"""Weights trained at one resolution, fitted to another by the authors' rules.

Position embeddings are resized bicubically (align_corners=False); so are the real and imaginary parts of the filters,
as if they were pictures (align_corners=True).
"""

import torch
from torch import nn
from torch.nn.functional import interpolate

from gfnet.errors import GFNetError


def resize_state_dict(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of `state_dict` whose position embedding and filters have the shapes that `model` has.

    The source's grids must be square, as all published ones are; the model's may be of any shape.

    Raises:
        GFNetError: a grid of the source is not square.
    """
    own = model.state_dict()
    resized = dict(state_dict)
    for name, source in state_dict.items():
        target = own.get(name)
        if target is None or target.shape == source.shape:
            continue
        if name == "pos_embed" and source.shape[2] == target.shape[2]:
            resized[name] = _resize_pos_embed(source, _grid(model))
        elif name.endswith("complex_weight") and source.shape[2:] == target.shape[2:]:
            resized[name] = _resize_filter(source, (target.shape[0], target.shape[1]))
    return resized


def _grid(model: nn.Module) -> tuple[int, int]:
    embed = model.patch_embed
    return (embed[0] if isinstance(embed, nn.ModuleList) else embed).grid  # type: ignore[union-attr,return-value]


def _resize_pos_embed(source_1NC: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    tokens, dim = source_1NC.shape[1:]
    side = round(tokens**0.5)
    if side * side != tokens:
        raise GFNetError(f"pos_embed has {tokens} tokens, which are no square grid; only square grids can be resized.")
    image_1CHW = source_1NC.reshape(1, side, side, dim).permute(0, 3, 1, 2)
    image_1CHW = interpolate(image_1CHW, size=grid, mode="bicubic", align_corners=False)
    return image_1CHW.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], dim)


def _resize_filter(source_HFC2: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    dim = source_HFC2.shape[2]
    image_1CHF = source_HFC2.flatten(2).permute(2, 0, 1)[None]
    image_1CHF = interpolate(image_1CHF, size=shape, mode="bicubic", align_corners=True)
    return image_1CHF[0].permute(1, 2, 0).reshape(*shape, dim, 2)
