"""Layers as TensorFlow has them, where PyTorch's differ: padding SAME, and batch norm with a shift alone.

SAME pads so that a side of n pixels becomes ceil(n / stride), with the odd pixel behind: of a 3x3 window with stride 2
nothing before and one pixel behind an even side, one each around an odd one. (https://www.tensorflow.org/api_docs/
python/tf/nn, notes on padding.)
"""

import torch
from torch import nn
from torch.nn import functional as F


def same_padding(side: int, size: int, stride: int) -> tuple[int, int]:
    """Pixels that TensorFlow's SAME adds before and behind a side, for a window of `size` pixels."""
    missing = max(0, (-(-side // stride) - 1) * stride + size - side)
    return missing // 2, missing - missing // 2


def _around(x: torch.Tensor, size: int, stride: int) -> list[int]:
    """As F.pad takes it: left, right, top, bottom."""
    height, width = x.shape[-2:]
    return [*same_padding(width, size, stride), *same_padding(height, size, stride)]


class SameConv2d(nn.Conv2d):
    """A convolution with a square kernel and padding SAME, on (B, C, H, W). Kernels of stride 1 have an odd side."""

    def __init__(self, before: int, after: int, size: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(before, after, size, stride=stride, padding=size // 2 if stride == 1 else 0, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride[0] > 1:
            x = F.pad(x, _around(x, self.kernel_size[0], self.stride[0]))
        return super().forward(x)


class SameMaxPool2d(nn.Module):
    """A max pool with a square window and padding SAME, on (B, C, H, W). What is padded never is the largest."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right, top, bottom = _around(x, self.size, self.stride)
        if left == top == 0:  # windows that reach over the edge need no copy of x
            return F.max_pool2d(x, self.size, self.stride, ceil_mode=True)
        return F.max_pool2d(F.pad(x, [left, right, top, bottom], value=-torch.inf), self.size, self.stride)

    def extra_repr(self) -> str:
        return f"{self.size}, stride={self.stride}"


def without_scale(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Leave batch norm its learnable shift (beta) alone, as slim's default does: center=True, scale=False.

    The scale (gamma) is then a constant, ones, and no part of a checkpoint: cuDNN's kernels take both or neither.
    """
    ones = torch.ones_like(norm.weight.detach())
    del norm.weight
    norm.register_buffer("weight", ones, persistent=False)
    return norm
