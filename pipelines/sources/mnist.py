"""MNIST: 60,000 training and 10,000 test images of 28x28 pixels, grayscale, in ten classes.

Found under data.root or FASTGEN_DATA in torchvision's layout (MNIST/raw) or as the Hugging Face Hub's
Parquet, else downloaded by torchvision.
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.sources.base import ArraySource, Source, SourceSpec, fingerprint_files
from pipelines.sources.layouts import download_folder, downloading, find_set, where_set
from pipelines.sources.parquet import ParquetSource

CLASSES = [str(digit) for digit in range(10)]
_LAYOUT = "MNIST/raw"


def open_split(spec: SourceSpec, split: str) -> Source:
    found = find_set(spec, "mnist", _LAYOUT, split)
    if found and found[1]:
        return ParquetSource(*found, class_names=CLASSES, channels=1)
    folder = found[0] if found else download_folder(spec, "mnist")
    return _from_torchvision(folder, split, download=not found)


where = partial(where_set, "mnist", _LAYOUT)


def _from_torchvision(folder: Path, split: str, download: bool) -> ArraySource:
    from torchvision.datasets import MNIST

    with downloading("mnist", folder) if download else nullcontext():
        data = MNIST(str(folder), train=split == "train", download=download)
    raw = folder / _LAYOUT
    stem = "train" if split == "train" else "t10k"
    files = [raw / f"{stem}-images-idx3-ubyte", raw / f"{stem}-labels-idx1-ubyte"]
    images = np.repeat(data.data.numpy()[..., None], 3, axis=3)
    digest = fingerprint_files(raw, files)
    return ArraySource(f"mnist/{split}", images, data.targets.numpy(), CLASSES, digest, channels=1)
