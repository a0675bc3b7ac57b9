"""The small Inception of figure 3 (paper, appendix A), with and without batch norm: 1,649,402 parameters each."""

from functools import partial

import torch
from torch import nn

from fastgen.models.base import PaperNetwork, Size, side_of
from fastgen.models.tensorflow import SameConv2d, SameMaxPool2d, without_scale


class ConvModule(nn.Sequential):
    """Convolution, batch norm, ReLU; or convolution and ReLU.

    Each output channel has one shift: batch norm's, as TensorFlow's slim has it (no bias in the convolution, beta, no
    gamma), or without batch norm the convolution's bias. So both networks have the paper's number of parameters.
    """

    def __init__(self, before: int, after: int, size: int, stride: int, batch_norm: bool) -> None:
        convolution = SameConv2d(before, after, size, stride=stride, bias=not batch_norm)
        if batch_norm:  # takes any scale out again
            nn.init.xavier_uniform_(convolution.weight)  # slim's default
        else:  # He's keeps a signal's variance; in each of eleven layers Glorot's loses a third, PyTorch's default 5/6
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        norm = [without_scale(nn.BatchNorm2d(after))] if batch_norm else []
        super().__init__(convolution, *norm, nn.ReLU(inplace=True))


class InceptionModule(nn.Module):
    """A 1x1 and a 3x3 conv module side by side, concatenated."""

    def __init__(self, before: int, c1: int, c3: int, batch_norm: bool) -> None:
        super().__init__()
        self.one = ConvModule(before, c1, 1, 1, batch_norm)
        self.three = ConvModule(before, c3, 3, 1, batch_norm)
        self.channels = c1 + c3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(x), self.three(x)], dim=1)


class DownsampleModule(nn.Module):
    """A 3x3 conv module and a 3x3 max pool, both of stride 2, concatenated: half the side."""

    def __init__(self, before: int, c3: int, batch_norm: bool) -> None:
        super().__init__()
        self.three = ConvModule(before, c3, 3, 2, batch_norm)
        self.pool = SameMaxPool2d(3, stride=2)
        self.channels = c3 + before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.three(x), self.pool(x)], dim=1)


# Channels of each module's 1x1 and 3x3 convolutions, top to bottom; a downsample module has a 3x3 convolution alone.
_WIDTHS = [(32, 32), (32, 48), (80,), (112, 48), (96, 64), (80, 80), (48, 96), (96,), (176, 160), (176, 160)]


class SmallInception(PaperNetwork):
    """Figure 3, top to bottom. The mean pool takes all that is left (7x7 at 28x28), so other sizes work too."""

    def __init__(
        self, batch_norm: bool, num_classes: int = 10, in_chans: int = 3, img_size: Size = 28, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        side_of(img_size, 4, "the small Inception")
        layers: list[nn.Module] = [ConvModule(in_chans, 96, 3, 1, batch_norm)]
        channels = 96
        for widths in _WIDTHS:
            module: InceptionModule | DownsampleModule
            if len(widths) == 2:
                module = InceptionModule(channels, widths[0], widths[1], batch_norm)
            else:
                module = DownsampleModule(channels, widths[0], batch_norm)
            layers.append(module)
            channels = module.channels
        self.body = nn.Sequential(*layers)
        self.num_features = channels
        self._finish(num_classes, drop_rate)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))


fastgen_inception = partial(SmallInception, True)
fastgen_inception_nobn = partial(SmallInception, False)
