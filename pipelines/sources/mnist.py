"""MNIST: 60,000 training and 10,000 test images of 28x28 pixels, grayscale, in ten classes.

Found under data.root or FASTGEN_DATA in torchvision's layout (MNIST/raw) or as the Hugging Face Hub's
Parquet, else downloaded by torchvision.
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np

from pipelines.sources.base import ArraySource, Source, SourceSpec, fingerprint_files
from pipelines.sources.layouts import download_folder, downloading, find_parquet, search_folders
from pipelines.sources.parquet import ParquetSource

CLASSES = [str(digit) for digit in range(10)]


def open_split(spec: SourceSpec, split: str) -> Source:
    folders = search_folders(spec, "mnist")
    for folder in folders:
        if (folder / "MNIST" / "raw").is_dir():
            return _from_torchvision(folder, split, download=False)
        # Parquet files directly in the folder of all data sets may be any set's.
        files = find_parquet(folder, split) if folder == folders[0] else []
        if files:
            return ParquetSource(folder, files, class_names=CLASSES, channels=1)
    return _from_torchvision(download_folder(spec, "mnist"), split, download=True)


def _from_torchvision(folder: Path, split: str, download: bool) -> ArraySource:
    from torchvision.datasets import MNIST

    with downloading("mnist", folder) if download else nullcontext():
        data = MNIST(str(folder), train=split == "train", download=download)
    raw = folder / "MNIST" / "raw"
    stem = "train" if split == "train" else "t10k"
    files = [raw / f"{stem}-images-idx3-ubyte", raw / f"{stem}-labels-idx1-ubyte"]
    images = np.repeat(data.data.numpy()[..., None], 3, axis=3)
    digest = fingerprint_files(raw, files)
    return ArraySource(f"mnist/{split}", images, data.targets.numpy(), CLASSES, digest, channels=1)
