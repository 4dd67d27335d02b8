"""GFNet: one grid of tokens through all blocks (Rao et al., NeurIPS 2021, section 3.3)."""

import torch
from timm.layers import to_2tuple, trunc_normal_
from torch import nn

from gfnet.classifier import Classifier, check_rate
from gfnet.layers import Block, PatchEmbed, drop_path_rates, init_weights


class GFNet(Classifier):
    """The isotropic Global Filter Network.

    Args:
        img_size: side of the input in pixels, or height and width.
        patch_size: side of a patch in pixels.
        in_chans: channels of the input.
        num_classes: outputs of the head; 0: none.
        embed_dim: channels of a token.
        depth: blocks.
        mlp_ratio: hidden width of the MLPs over `embed_dim`.
        drop_rate: dropout after the position embedding, inside the MLPs and before the head.
        drop_path_rate: stochastic depth of the last block; the earlier ones' grows linearly from 0.

    Raises:
        GFNetError: an argument is out of its range.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 12,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        check_rate("drop_rate", drop_rate)
        check_rate("drop_path_rate", drop_path_rate)
        self.patch_embed = PatchEmbed(to_2tuple(img_size), patch_size, in_chans, embed_dim)
        height, width = self.patch_embed.grid
        self.pos_embed = nn.Parameter(torch.zeros(1, height * width, embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.Sequential(
            *(
                Block(embed_dim, (height, width), mlp_ratio, drop_rate, rate)
                for rate in drop_path_rates(drop_path_rate, depth)
            )
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        trunc_normal_(self.pos_embed, std=0.02)
        self.apply(init_weights)
        self._init_head(embed_dim, num_classes, drop_rate)

    def forward_features(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        x_BHWC = self.patch_embed(image_BCHW)
        x_BHWC = self.pos_drop(x_BHWC + self.pos_embed.view(1, *x_BHWC.shape[1:]))
        return self.norm(self.blocks(x_BHWC))
