"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in ten classes.

Found under data.root or FASTGEN_DATA in torchvision's layout (cifar-10-batches-py) or as the Hugging Face
Hub's Parquet, else downloaded by torchvision. The Hub's order is not torchvision's: the two have different
fingerprints, and tables of noisy labels (CIFAR-10N) are in torchvision's order.
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np

from pipelines.sources.base import ArraySource, Source, SourceSpec, fingerprint_files
from pipelines.sources.layouts import download_folder, downloading, find_parquet, search_folders
from pipelines.sources.parquet import ParquetSource

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def open_split(spec: SourceSpec, split: str) -> Source:
    folders = search_folders(spec, "cifar10")
    for folder in folders:
        if (folder / "cifar-10-batches-py").is_dir():
            return _from_torchvision(folder, split, download=False)
        # Parquet files directly in the folder of all data sets may be any set's.
        files = find_parquet(folder, split) if folder == folders[0] else []
        if files:
            return ParquetSource(folder, files, class_names=CLASSES)
    return _from_torchvision(download_folder(spec, "cifar10"), split, download=True)


def _from_torchvision(folder: Path, split: str, download: bool) -> ArraySource:
    from torchvision.datasets import CIFAR10

    with downloading("cifar10", folder) if download else nullcontext():
        data = CIFAR10(str(folder), train=split == "train", download=download)
    names = data.train_list if split == "train" else data.test_list
    batches = folder / "cifar-10-batches-py"
    digest = fingerprint_files(batches, [batches / name for name, _ in names])
    return ArraySource(f"cifar10/{split}", data.data, np.asarray(data.targets), CLASSES, digest)
