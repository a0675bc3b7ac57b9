"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in ten classes.

The Hub's order is not torchvision's: the two have different fingerprints, and tables of noisy labels (CIFAR-10N) are in
torchvision's order.
"""

import numpy as np

from pipelines.sources.torchvision_set import TorchvisionSet

_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def _read(folder: str, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    from torchvision.datasets import CIFAR10

    data = CIFAR10(folder, train, download=download)
    return data.data, np.asarray(data.targets), [name for name, _ in (data.train_list if train else data.test_list)]


_cifar10 = TorchvisionSet("cifar10", "cifar-10-batches-py", _CLASSES, _read)
open_split, where = _cifar10.open_split, _cifar10.where
