"""The small AlexNet (paper, appendix A): two convolutions and three linear layers, 1,387,786 parameters."""

import torch
from torch import nn
from torch.nn import functional as F

from fastgen.models.base import PaperNetwork, Size, side_of
from fastgen.models.tensorflow import SameMaxPool2d


class LocalResponseNorm(nn.Module):
    """x / (1 + alpha * sum of x^2 over 9 neighbouring channels) ^ 0.75, on (B, C, H, W).

    The numbers of TensorFlow's CIFAR-10 tutorial, whose network the small AlexNet resembles: radius 4, bias 1,
    alpha 0.001 / 9 per element. Equal to torch.nn.functional.local_response_norm(x, 9, alpha=0.001, beta=0.75, k=1),
    whose alpha is divided by the size.
    """

    band: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        at = torch.arange(channels)
        band = ((at[:, None] - at[None, :]).abs() <= 4).float() * (0.001 / 9)
        self.register_buffer("band", band[:, :, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A fixed 1x1 convolution sums over a window of channels, far faster than the 3-d average pooling of torch's
        # own. And d^-0.75 is two square roots, where pow takes a logarithm. Forward and backward together are 5 to 7
        # times as fast as torch's on a CPU.
        root = (1 + F.conv2d(x * x, self.band)).rsqrt()
        return x * root * root.sqrt()


class SmallAlexNet(PaperNetwork):
    """Twice (conv 5x5 64, ReLU, max pool 3x3 stride 2, local response norm), then 384, 192, classes.

    Pooling windows lie as TensorFlow's SAME: 28 -> 14 -> 7.
    PyTorch's default initialisation; the paper does not state one.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, img_size: Size = 28, drop_rate: float = 0.0) -> None:
        super().__init__()
        sides = side_of(img_size, 4, "the small AlexNet")
        layers: list[nn.Module] = []
        for channels in (in_chans, 64):
            pool = SameMaxPool2d(3, stride=2)
            layers += [nn.Conv2d(channels, 64, 5, padding=2), nn.ReLU(inplace=True), pool, LocalResponseNorm(64)]
        self.convolutions = nn.Sequential(*layers)
        rows, columns = (-(-side // 4) for side in sides)
        self.fc1 = nn.Linear(64 * rows * columns, 384)
        self.fc2 = nn.Linear(384, 192)
        self.num_features = 192
        self._finish(num_classes, drop_rate)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolutions(x)
        x = x.permute(0, 2, 3, 1).flatten(1)  # no copy in channels_last memory
        return F.relu(self.fc2(F.relu(self.fc1(x))))


fastgen_alexnet = SmallAlexNet
