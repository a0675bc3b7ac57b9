"""What lies in a folder or in Parquet files of one's own, image by image."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.errors import UserError
from pipelines.prefetch import Prefetcher
from pipelines.progress import tracked
from pipelines.sources import Source, SourceSpec, open_source
from pipelines.sources.decoding import read_image
from pipelines.sources.layouts import is_image
from pipelines.sources.walk import is_hidden

_CHUNK = 32  # images that a thread reads at a time


@dataclass
class Seen:
    """The images of one split. width, height: pixels, upright, int64 (n,), 0 where an image cannot be decoded. digests:
    of their files. broken: what is wrong with those, a line each. turned: how many an EXIF orientation turns."""

    width: np.ndarray
    height: np.ndarray
    digests: list[bytes]
    broken: list[str] = field(default_factory=list)
    turned: int = 0


@dataclass
class Look:
    """source: the kind of its layout, as data.source. splits: the open source of each, "train" and maybe "val".
    no_test: why there is no test split, where the layout has one that cannot be read. seen: as splits."""

    root: Path
    source: str
    splits: dict[str, Source]
    no_test: str | None
    seen: dict[str, Seen]

    @property
    def counts(self) -> np.ndarray:
        """Training samples of each class."""
        train = self.splits["train"]
        return np.bincount(train.labels, minlength=train.num_classes)

    @property
    def broken(self) -> list[str]:
        return [line for seen in self.seen.values() for line in seen.broken]

    def copies(self) -> dict[str, list[str]]:
        """Exact copies, by what is wrong with them: the names of each group's images in a line."""
        places: dict[bytes, list[tuple[str, int]]] = {}
        for split, seen in self.seen.items():
            for index, digest in enumerate(seen.digests):
                places.setdefault(digest, []).append((split, index))
        found: dict[str, list[str]] = {"with different labels": [], "in both splits": [], "of one label": []}
        for group in places.values():
            if len(group) > 1:
                labels = {int(self.splits[split].labels[index]) for split, index in group}
                both = len({split for split, _ in group}) > 1
                kind = "with different labels" if len(labels) > 1 else "in both splits" if both else "of one label"
                found[kind].append(" = ".join(self.splits[split].sample_name(index) for split, index in group))
        return {kind: groups for kind, groups in found.items() if groups}


def look(root: Path) -> Look:
    """Open what lies at `root` and read every image. Raises UserError where it is no data set that can be read."""
    source = _kind(root)
    spec = SourceSpec(source, str(root))
    train, problem, test = open_source(spec, "train"), None, None
    assert train is not None
    try:
        test = open_source(spec, "val")
    except UserError as error:  # of a test split without labels, say
        problem = str(error)
    splits = {"train": train} | ({"val": test} if test is not None else {})
    return Look(root, source, splits, problem, {name: _see(name, split) for name, split in splits.items()})


def _kind(root: Path) -> str:
    if not root.exists():
        raise UserError(f"{root} does not exist; name a folder of class folders, or of Parquet files")
    if root.is_file():
        if root.suffix.lower() != ".parquet":
            raise UserError(f"{root} is a file; name the folder of the class folders, or a .parquet file")
        return "parquet"
    kinds = _kinds_below(root)
    if len(kinds) != 1:
        told = "images as well as Parquet files" if kinds else "neither images nor Parquet files"
        raise UserError(f"{root} holds {told}; name a folder of class folders of images, or of Parquet files")
    return kinds.pop()


def _kinds_below(root: Path) -> set[str]:
    """The layouts that the names of files speak of."""
    found = set()
    for _, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found |= {"imagefolder"} if any(map(is_image, files)) else set()
        found |= {"parquet"} if any(name.lower().endswith(".parquet") for name in files) else set()
        if len(found) == 2:
            break
    return found


def _see(name: str, source: Source) -> Seen:
    def work(chunk: np.ndarray) -> list[tuple[int, int, bytes, bool, str]]:
        return [_read(source, int(index)) for index in chunk]

    chunks = np.split(np.arange(len(source)), range(_CHUNK, len(source), _CHUNK))
    threads = Prefetcher(len(os.sched_getaffinity(0)))
    every = [each for done in tracked(threads.map(work, chunks), len(chunks), f"looking at {name}") for each in done]
    width, height, digests, turned, wrong = zip(*every, strict=True)
    return Seen(np.array(width), np.array(height), list(digests), [line for line in wrong if line], sum(turned))


def _read(source: Source, index: int) -> tuple[int, int, bytes, bool, str]:
    """Width, height, digest, whether EXIF turns it, and what is wrong."""
    digest = b""
    try:
        stored = source.read(index)
        assert isinstance(stored, bytes)
        digest = hashlib.sha256(stored).digest()
        decoded = read_image(stored, source.sample_name(index))
    except UserError as error:
        return 0, 0, digest or str(error).encode(), False, str(error)
    return *decoded.image.size, digest, decoded.turned, ""


def by_suffix(source: Source) -> str:
    """How many files there are of each suffix, in words; empty where samples are no files of their own."""
    suffixes = (os.path.splitext(source.sample_name(index))[1].lower() for index in range(len(source)))
    counts = Counter(suffix for suffix in suffixes if is_image(f"x{suffix}"))
    return ", ".join(f"{suffix} {count:,}" for suffix, count in sorted(counts.items()))
