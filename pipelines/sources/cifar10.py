"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in ten classes.

Found under data.root or FASTGEN_DATA in torchvision's layout (cifar-10-batches-py) or as the Hugging Face
Hub's Parquet, else downloaded by torchvision. The Hub's order is not torchvision's: the two have different
fingerprints, and tables of noisy labels (CIFAR-10N) are in torchvision's order.
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.sources.base import ArraySource, Source, SourceSpec, fingerprint_files
from pipelines.sources.layouts import download_folder, downloading, find_set, where_set
from pipelines.sources.parquet import ParquetSource

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_LAYOUT = "cifar-10-batches-py"


def open_split(spec: SourceSpec, split: str) -> Source:
    found = find_set(spec, "cifar10", _LAYOUT, split)
    if found and found[1]:
        return ParquetSource(*found, class_names=CLASSES)
    folder = found[0] if found else download_folder(spec, "cifar10")
    return _from_torchvision(folder, split, download=not found)


where = partial(where_set, "cifar10", _LAYOUT)


def _from_torchvision(folder: Path, split: str, download: bool) -> ArraySource:
    from torchvision.datasets import CIFAR10

    with downloading("cifar10", folder) if download else nullcontext():
        data = CIFAR10(str(folder), train=split == "train", download=download)
    names = data.train_list if split == "train" else data.test_list
    batches = folder / _LAYOUT
    digest = fingerprint_files(batches, [batches / name for name, _ in names])
    return ArraySource(f"cifar10/{split}", data.data, np.asarray(data.targets), CLASSES, digest)
