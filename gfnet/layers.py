"""The parts of a Global Filter Network. Tokens are kept as (B, H, W, C) throughout."""

import torch
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import nn

from gfnet.errors import GFNetError
from gfnet.functional import global_filter

_NORM_EPS = 1e-6


class GlobalFilter(nn.Module):
    """A learnable filter over the whole grid of tokens.

    Args:
        dim: channels.
        grid: height and width of the grid in tokens.
    """

    def __init__(self, dim: int, grid: tuple[int, int]):
        super().__init__()
        height, width = grid
        self.complex_weight = nn.Parameter(torch.randn(height, width // 2 + 1, dim, 2) * 0.02)

    def forward(self, x_BHWC: torch.Tensor) -> torch.Tensor:
        return global_filter(x_BHWC, self.complex_weight)


class Block(nn.Module):
    """Norm, global filter, norm and MLP, with one residual connection around all four.

    Args:
        dim: channels.
        grid: height and width of the grid in tokens.
        mlp_ratio: hidden width of the MLP over `dim`.
        drop: dropout inside the MLP.
        drop_path: probability that the block is skipped for an image in training.
        layer_scale: initial value of the per-channel scale of the residual branch; None: no such scale.
    """

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.filter = GlobalFilter(dim, grid)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale)) if layer_scale is not None else None
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_BHWC: torch.Tensor) -> torch.Tensor:
        branch_BHWC = self.mlp(self.norm2(self.filter(self.norm1(x_BHWC))))
        if self.gamma is not None:
            branch_BHWC = self.gamma * branch_BHWC
        return x_BHWC + self.drop_path(branch_BHWC)


class PatchEmbed(nn.Module):
    """Cuts an image of a fixed size into patches and projects each to a token.

    Args:
        img_size: height and width in pixels.
        patch_size: side of a patch in pixels.

    Raises:
        GFNetError: the image size is not a multiple of the patch size; in `forward`, the image has another size.
    """

    def __init__(self, img_size: tuple[int, int], patch_size: int, in_chans: int, dim: int):
        super().__init__()
        check_img_size(img_size, patch_size)
        self.img_size = img_size
        self.in_chans = in_chans
        self.grid = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        channels, *size = image_BCHW.shape[1:]
        if channels != self.in_chans or tuple(size) != self.img_size:
            raise GFNetError(
                f"The input is of shape {tuple(image_BCHW.shape)}; this model takes (batch, {self.in_chans}, "
                f"{self.img_size[0]}, {self.img_size[1]}). Resize the images, or create the model with "
                f"img_size={tuple(size)}."
            )
        return self.proj(image_BCHW).permute(0, 2, 3, 1)


class Downsample(nn.Module):
    """Halves the grid and widens the channels, between the stages of the pyramid."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.proj = nn.Conv2d(dim_in, dim_out, kernel_size=2, stride=2)

    def forward(self, x_BHWC: torch.Tensor) -> torch.Tensor:
        return self.proj(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def check_img_size(img_size: tuple[int, int], multiple: int) -> None:
    """Refuses sizes that patches of `multiple` pixels do not tile.

    Raises:
        GFNetError: naming the nearest sizes that do.
    """
    for side in img_size:
        if side < multiple or side % multiple:
            below = side // multiple * multiple
            near = [str(size) for size in (below, below + multiple) if size > 0]
            raise GFNetError(
                f"img_size is {img_size[0]}x{img_size[1]}; allowed: multiples of {multiple} pixels. "
                f"The nearest to {side}: {' or '.join(near)}."
            )


def init_weights(module: nn.Module) -> None:
    """The authors' initial values: truncated normal of standard deviation 0.02 for linear layers, no biases."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Stochastic depth per block: from 0 for the first, linearly, to `last` for the last."""
    return torch.linspace(0, last, depth).tolist()
