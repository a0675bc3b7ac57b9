"""The multi-layer perceptrons 1x512 and 3x512 (paper, appendix A): ReLU, 1,209,866 and 1,735,178 parameters."""

import itertools
from functools import partial

import torch
from torch import nn

from fastgen.models.base import PaperNetwork, Size, side_of

_WIDTH = 512  # units of a hidden layer


class MLP(PaperNetwork):
    """`depth` hidden layers on all pixels of an image of one fixed size.

    PyTorch's default initialisation; the paper does not state one.
    """

    def __init__(
        self, depth: int, num_classes: int = 10, in_chans: int = 3, img_size: Size = 28, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        rows, columns = side_of(img_size, 1, "an MLP")
        sizes = [in_chans * rows * columns] + [_WIDTH] * depth
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        self.hidden = nn.Sequential(*layers)
        self.num_features = _WIDTH
        self._finish(num_classes, drop_rate)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        # Batches lie in channels_last memory: in this order flattening them copies nothing.
        return self.hidden(x.permute(0, 2, 3, 1).flatten(1))


fastgen_mlp_1x512 = partial(MLP, 1)
fastgen_mlp_3x512 = partial(MLP, 3)
