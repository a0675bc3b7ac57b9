"""scikit-learn's bundled digits: 1,797 grayscale images of 8x8 pixels in ten classes; no download."""

import hashlib

import numpy as np
from sklearn.datasets import load_digits

from pipelines.randomness import permutation
from pipelines.sources.base import ArraySource, SourceSpec

_TEST_SAMPLES = 360  # a fifth, drawn once with a fixed seed: the set has no split of its own


def open_split(spec: SourceSpec, split: str) -> ArraySource:
    data = load_digits()
    gray = np.rint(data.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    order = permutation(len(gray), 0, "sources/digits/split")
    rows = np.sort(order[_TEST_SAMPLES:] if split == "train" else order[:_TEST_SAMPLES])
    images = np.repeat(gray[rows, :, :, None], 3, axis=3)
    labels = data.target[rows]
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    names = [str(name) for name in data.target_names]
    return ArraySource(f"digits/{split}", images, labels, names, digest, channels=1)
