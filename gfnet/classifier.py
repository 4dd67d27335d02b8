"""What the isotropic and the pyramid network share: the head, and timm's contract around it."""

import torch
from torch import nn

from gfnet.errors import GFNetError


class Classifier(nn.Module):
    """A network that turns images into tokens, and their mean into class scores.

    Subclasses give `forward_features` and call `_init_head` in their constructor.
    """

    num_classes: int
    num_features: int
    head: nn.Module

    def _init_head(self, num_features: int, num_classes: int, drop_rate: float) -> None:
        self.num_features = self.head_hidden_size = num_features
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def forward_features(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Images -> normalised tokens of the last grid, (B, H, W, C)."""
        raise TypeError(f"{type(self).__name__} does not define forward_features")

    def forward_head(self, x_BHWC: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Tokens -> class scores (B, num_classes), or their mean (B, C) where `pre_logits` is set."""
        features_BC = self.head_drop(x_BHWC.mean(dim=(1, 2)))
        return features_BC if pre_logits else self.head(features_BC)

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W), normalised, of the model's size -> class scores (B, num_classes)."""
        return self.forward_head(self.forward_features(image_BCHW))

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that the authors exclude from weight decay, beside biases, norms and layer scales."""
        return {"pos_embed"}

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Puts a new head for `num_classes` classes; 0 removes it.

        Raises:
            GFNetError: `num_classes` is negative.
        """
        if num_classes < 0:
            raise GFNetError(f"num_classes is {num_classes}; allowed: 0 (no head) or more.")
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        if isinstance(self.head, nn.Linear):
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)


def check_rate(name: str, rate: float) -> None:
    """Refuses a dropout probability outside [0, 1).

    Raises:
        GFNetError: naming the argument.
    """
    if not 0 <= rate < 1:
        raise GFNetError(f"{name} is {rate}; allowed: 0 up to below 1.")
