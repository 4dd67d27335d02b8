"""GFNet-H: four stages of ever coarser grids (Rao et al., NeurIPS 2021, section 3.3, hierarchical models)."""

import itertools
from collections.abc import Sequence

import torch
from timm.layers import to_2tuple, trunc_normal_
from torch import nn

from gfnet.classifier import Classifier, check_rate
from gfnet.layers import Block, Downsample, PatchEmbed, check_img_size, drop_path_rates, init_weights


class GFNetPyramid(Classifier):
    """The hierarchical Global Filter Network, with layer scale.

    Args:
        img_size: side of the input in pixels, or height and width; multiples of 32 with patches of 4.
        patch_size: side of a patch of the first stage in pixels.
        in_chans: channels of the input.
        num_classes: outputs of the head; 0: none.
        embed_dim: channels of a token in each stage.
        depth: blocks of each stage.
        mlp_ratio: hidden width of the MLPs over their stage's channels.
        drop_rate: dropout after the position embedding, inside the MLPs and before the head.
        drop_path_rate: stochastic depth of the last block; the earlier ones' grows linearly from 0.
        layer_scale: initial value of the scale of each residual branch.

    Raises:
        GFNetError: an argument is out of its range.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: Sequence[int] = (64, 128, 256, 512),
        depth: Sequence[int] = (3, 3, 10, 3),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-3,
    ):
        super().__init__()
        check_rate("drop_rate", drop_rate)
        check_rate("drop_path_rate", drop_path_rate)
        size = to_2tuple(img_size)
        check_img_size(size, patch_size * 2 ** (len(depth) - 1))
        embed = PatchEmbed(size, patch_size, in_chans, embed_dim[0])
        between = [Downsample(narrow, wide) for narrow, wide in itertools.pairwise(embed_dim)]
        self.patch_embed = nn.ModuleList([embed, *between])
        self.pos_embed = nn.Parameter(torch.zeros(1, embed.grid[0] * embed.grid[1], embed_dim[0]))
        self.pos_drop = nn.Dropout(drop_rate)
        rates = iter(drop_path_rates(drop_path_rate, sum(depth)))
        self.blocks = nn.ModuleList()
        for stage, (dim, blocks) in enumerate(zip(embed_dim, depth, strict=True)):
            grid = (embed.grid[0] >> stage, embed.grid[1] >> stage)
            stack = (Block(dim, grid, mlp_ratio, drop_rate, next(rates), layer_scale) for _ in range(blocks))
            self.blocks.append(nn.Sequential(*stack))
        self.norm = nn.LayerNorm(embed_dim[-1], eps=1e-6)
        trunc_normal_(self.pos_embed, std=0.02)
        self.apply(init_weights)
        self._init_head(embed_dim[-1], num_classes, drop_rate)

    def forward_features(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        x_BHWC = self.patch_embed[0](image_BCHW)
        x_BHWC = self.pos_drop(x_BHWC + self.pos_embed.view(1, *x_BHWC.shape[1:]))
        x_BHWC = self.blocks[0](x_BHWC)
        for downsample, blocks in zip(self.patch_embed[1:], self.blocks[1:], strict=True):
            x_BHWC = blocks(downsample(x_BHWC))
        return self.norm(x_BHWC)
