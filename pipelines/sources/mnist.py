"""MNIST: 60,000 training and 10,000 test images of 28x28 pixels, grayscale, in ten classes."""

from functools import partial

import numpy as np

from pipelines.sources.torchvision_set import TorchvisionSet


def read_idx(name: str, folder: str, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A split of the set in MNIST's format that torchvision calls `name`, as `TorchvisionSet.read`."""
    import torchvision.datasets

    data = getattr(torchvision.datasets, name)(folder, train, download=download)
    stem = "train" if train else "t10k"
    files = [f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"]
    return np.repeat(data.data.numpy()[..., None], 3, axis=3), data.targets.numpy(), files


_CLASSES = [str(digit) for digit in range(10)]
_mnist = TorchvisionSet("mnist", "MNIST/raw", _CLASSES, partial(read_idx, "MNIST"), channels=1)
open_split, where = _mnist.open_split, _mnist.where
