"""MNIST: 60,000 training and 10,000 test images of 28x28 pixels, grayscale, in ten classes."""

import numpy as np

from pipelines.sources.torchvision_set import TorchvisionSet


def _read(folder: str, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    from torchvision.datasets import MNIST

    data = MNIST(folder, train, download=download)
    stem = "train" if train else "t10k"
    files = [f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"]
    return np.repeat(data.data.numpy()[..., None], 3, axis=3), data.targets.numpy(), files


_mnist = TorchvisionSet("mnist", "MNIST/raw", [str(digit) for digit in range(10)], _read, channels=1)
open_split, where = _mnist.open_split, _mnist.where
