"""scikit-learn's bundled digits: 1,797 grayscale images of 8x8 pixels in ten classes; no download."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from pipelines.errors import UserError
from pipelines.randomness import permutation
from pipelines.sources.base import ArraySource, SourceSpec

_TEST_SAMPLES = 360  # a fifth, drawn once with a fixed seed: the set has no split of its own


def open_split(spec: SourceSpec, split: str) -> ArraySource:
    table = _table()
    gray = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # stored as 0..16
    order = permutation(len(gray), 0, "sources/digits/split")
    rows = np.sort(order[_TEST_SAMPLES:] if split == "train" else order[:_TEST_SAMPLES])
    images = np.repeat(gray[rows, :, :, None], 3, axis=3)
    labels = table[rows, -1]
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    names = [str(name) for name in range(10)]
    return ArraySource(f"digits/{split}", images, labels, names, digest, channels=1)


def _table() -> np.ndarray:
    """64 pixels and the label of each image: int64 (1797, 65).

    What sklearn.datasets.load_digits reads, without the seconds that importing it takes every process.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError(
            "data.source=digits is bundled with scikit-learn, which is not installed: pip install scikit-learn"
        )
    return np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", np.int64, delimiter=",")
