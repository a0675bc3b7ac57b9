"""What the five networks share: timm's interface of features, head and classifier."""

import torch
from torch import nn
from torch.nn import functional as F

from pipelines.errors import UserError

Size = int | tuple[int, int]  # pixels: the side of a square, or height and width


class PaperNetwork(nn.Module):
    """A network with a linear classifier, used the way timm's are.

    Input: float (B, in_chans, H, W). Output: logits float (B, num_classes).
    A subclass sets `num_features`, and implements `forward_features`; it calls `_finish` with its classifier's
    settings at the end of its __init__.
    """

    num_features: int
    num_classes: int
    classifier: nn.Module

    def _finish(self, num_classes: int, drop_rate: float) -> None:
        self.drop_rate = drop_rate
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for another number of classes; 0 leaves the features.

        global_pool: as timm passes it; None or "avg", since the pooling is part of the features. Raises UserError.
        """
        if global_pool not in (None, "avg"):
            raise UserError(f"global_pool={global_pool!r} is not possible: the paper's networks pool as they are built")
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("every network defines its features")

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def side_of(img_size: Size, smallest: int, name: str) -> tuple[int, int]:
    """Height and width, at least `smallest` pixels each; raises UserError below that."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if min(height, width) < smallest:
        raise UserError(f"{name} needs images of at least {smallest}x{smallest} pixels, not {width}x{height}")
    return height, width
