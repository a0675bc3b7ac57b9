"""What a source is: an indexable set of (image, label) in which index i means the same sample for ever."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.errors import UserError
from pipelines.sources.decoding import decode

SPLITS = ("train", "val")
_HASH_WHOLE_BYTES = 1 << 30  # of a set's files: a larger set is told apart by names and sizes alone


@dataclass
class SyntheticSpec:
    """Size of the synthetic source (data.synthetic.*)."""

    samples: int = 1000  # of the training set
    test_samples: int = 200  # of the test set
    size: int = 32  # pixels, the side of the square images
    classes: int = 10  # how many labels there are
    channels: int = 3  # 3, or 1 for grey images
    jpeg: bool = False  # yield JPEG files instead of pixels


@dataclass
class SourceSpec:
    """Which samples: data.source, .root, .split_*, .*_column, .limit*, .holdout*, .synthetic.*."""

    source: str = "digits"  # the data set
    root: str | None = None  # the data set's folder or file (None: its place below FASTGEN_DATA)
    limit: int | None = None  # the first n training samples
    limit_test: int | None = None  # the first n test samples
    synthetic: SyntheticSpec = field(default_factory=SyntheticSpec)
    split_train: str | None = None  # the training split's name (None: train or training, or all that there is)
    split_test: str | None = None  # the test split's name, or none (None: validation, else test)
    image_column: str | None = None  # of Parquet files (None: image, else img)
    label_column: str | None = None  # of Parquet files (None: label, else the only one known by its name)
    holdout: float = 0.0  # fraction of each class's training samples that are the test split instead (0: none)
    holdout_seed: int = 0  # says which samples data.holdout takes


class Source(ABC):
    """One split of a data set.

    labels: int64 (n,) in [0, num_classes). channels: 3, or 1 where red, green and blue are equal throughout.
    fingerprint: hex digest that changes when the samples do. notes: what a reader should know of how they were read.
    """

    labels: np.ndarray
    class_names: list[str]
    fingerprint: str
    channels: int = 3
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def total(self) -> int:
        """Samples of the split as it lies, those beyond data.limit and those of data.holdout included."""
        return len(self)

    @property
    def positions(self) -> np.ndarray:
        """The number of each sample among the `total`: int64 (n,)."""
        return np.arange(len(self))

    @abstractmethod
    def read(self, index: int) -> bytes | np.ndarray:
        """The stored sample: an encoded image file's bytes, or uint8 (H, W, 3) pixels."""

    @abstractmethod
    def sample_name(self, index: int) -> str:
        """What to call the sample in an error: its file, or set and index."""

    def image(self, index: int) -> np.ndarray:
        """The pixels: uint8 (H, W, 3). Raises UserError naming a sample that cannot be decoded."""
        stored = self.read(index)
        return stored if isinstance(stored, np.ndarray) else np.asarray(decode(stored, self.sample_name(index)))


class ArraySource(Source):
    """A split held in memory. images: uint8 (n, H, W, 3)."""

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: list[str],
        fingerprint: str,
        channels: int = 3,
    ) -> None:
        assert images.dtype == np.uint8 and images.ndim == 4 and len(images) == len(labels)
        self.name, self.images, self.labels = name, images, labels.astype(np.int64)
        self.class_names, self.fingerprint, self.channels = class_names, fingerprint, channels

    def read(self, index: int) -> np.ndarray:
        image: np.ndarray = self.images[index]
        return image

    def sample_name(self, index: int) -> str:
        return f"{self.name}[{index}]"


class Part(Source):
    """Some samples of another source. rows: their numbers there, int64 (n,)."""

    def __init__(self, whole: Source, rows: np.ndarray) -> None:
        self.whole, self._rows = whole, rows
        self.labels = whole.labels[rows]
        self.class_names, self.channels = whole.class_names, whole.channels
        self.fingerprint, self.notes = whole.fingerprint, whole.notes

    @property
    def positions(self) -> np.ndarray:
        found: np.ndarray = self.whole.positions[self._rows]
        return found

    @property
    def total(self) -> int:
        return self.whole.total

    def read(self, index: int) -> bytes | np.ndarray:
        return self.whole.read(int(self._rows[index]))

    def sample_name(self, index: int) -> str:
        return self.whole.sample_name(int(self._rows[index]))


def fingerprint_files(root: Path, paths: Iterable[Path]) -> str:
    """The `fingerprint_samples` of files, named relative to `root`."""
    try:
        listed = sorted((path.relative_to(root).as_posix(), path.stat().st_size, path) for path in paths)
        return fingerprint_samples(((name, size) for name, size, _ in listed), (_hash_file(p) for _, _, p in listed))
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); make it readable, or remove it"
        ) from error


def identity(source: Source) -> str:
    """The fingerprint of a split with its classes and labels: under other names, or in another order, it is another."""
    digest = hashlib.sha256(json.dumps([source.fingerprint, source.class_names]).encode())
    digest.update(source.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def fingerprint_samples(listed: Iterable[tuple[str, int]], hashes: Iterable[bytes]) -> str:
    """A digest of (name, size) pairs in name order and, where the sizes total at most 1 GiB, of the contents' hashes.

    To read 150 GB at every start is no option, and the baked file carries hashes of its own. `hashes` is consumed only
    for sets of at most 1 GiB.
    """
    digest, total = hashlib.sha256(b"["), 0
    for number, entry in enumerate(listed):  # the text of the list's repr, without a million tuples at once
        digest.update((", " if number else "").encode() + repr(entry).encode())
        total += entry[1]
    digest.update(b"]")
    if total <= _HASH_WHOLE_BYTES:
        for content in hashes:
            digest.update(content)
    return digest.hexdigest()


def _hash_file(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
