"""SVHN: 73,257 training and 26,032 test images of 32x32 pixels of house numbers, in ten classes: the central digit.

The set's further 531,131 images ("extra") belong to neither split. Class 0 is the digit 0, as torchvision and the Hub
have it (the files themselves write 10).
"""

import numpy as np

from pipelines.sources.torchvision_set import TorchvisionSet


def _read(folder: str, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    from torchvision.datasets import SVHN

    if download:  # which is of one split at a time: a folder with the other alone would be no whole copy
        SVHN(folder, "test" if train else "train", download=True)
    data = SVHN(folder, "train" if train else "test", download=download)
    return np.ascontiguousarray(data.data.transpose(0, 2, 3, 1)), data.labels, [data.filename]


_svhn = TorchvisionSet(
    "svhn", ".", [str(digit) for digit in range(10)], _read, shown_by="*_32x32.mat", further=("extra",)
)
open_split, where = _svhn.open_split, _svhn.where
