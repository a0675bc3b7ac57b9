"""A sample's image as a baked set stores it: decoded, fitted, corrupted and encoded, by threads."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.baked.beton import JPEG, PAGE_BYTES, RAW, bytes_of
from pipelines.corruptions import PIXELS, LabelSpec, PixelSpec, Statistics
from pipelines.durable import refusals
from pipelines.errors import UserError, did_you_mean
from pipelines.prefetch import Prefetcher
from pipelines.progress import tracked
from pipelines.sources import Source
from pipelines.sources.decoding import Decoded, decode, read_image

ENCODINGS = ("raw", "jpeg")
_SIDE, _JPEG_SIDE = 65535, 65500  # pixels: what a .beton says of an image's sides, and what libjpeg encodes
CHUNK = 32  # samples encoded by a task: enough to hide the task's cost, few enough to keep all cores busy


@dataclass
class BakeSpec:
    """How images are stored (bake.*).

    encoding: raw pixels or JPEG. resolution: the longest side in pixels at most (larger images are reduced by area
    averaging); with square, the central square, resized to exactly resolution x resolution. quality: of JPEG,
    1..100. An original JPEG that fits, and is upright as it is stored, is kept byte for byte. columns: labellings to
    bake beside the recipe's own. workers: threads (None: the cores at hand); it never changes a byte.
    """

    encoding: str = "raw"
    resolution: int | None = None
    square: bool = False  # the central square, resized to exactly bake.resolution
    quality: int = 90
    columns: list[LabelSpec] = field(default_factory=list)
    workers: int | None = None

    @property
    def threads(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))

    def validate(self, pixels: PixelSpec) -> None:
        """Raises UserError on settings that contradict each other."""
        if self.encoding not in ENCODINGS:
            raise UserError(f"unknown bake.encoding '{self.encoding}': {did_you_mean(self.encoding, ENCODINGS)}")
        if self.resolution is not None and not 1 <= self.resolution <= 65535:
            raise UserError(f"bake.resolution={self.resolution} must be 1 to 65535 pixels")
        if self.square and self.resolution is None:
            raise UserError("bake.square=true needs bake.resolution, the side of the square")
        if not 1 <= self.quality <= 100:
            raise UserError(f"bake.quality={self.quality} must be 1 to 100")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"bake.workers={self.workers} must be at least 1")
        if pixels.kind != "none" and self.encoding == "jpeg":
            raise UserError(
                f"data.pixels.kind={pixels.kind} is noise to JPEG, which would change its mean and variance; "
                "set bake.encoding=raw"
            )


Encoded = tuple[bytes | np.ndarray, int, int, int]  # data, mode, width, height


def encoded(
    source: Source, order: np.ndarray, spec: BakeSpec, corrupt: Callable[[np.ndarray, int], np.ndarray]
) -> Iterator[Encoded]:
    """Encode in `order` with threads (decoding, resizing and encoding release the interpreter lock)."""

    def work(chunk: np.ndarray) -> list[Encoded]:
        return [encode(int(index)) for index in chunk]

    def encode(index: int) -> Encoded:
        with _reading(source, index):
            return _encode(source, index, spec, corrupt)

    chunks = np.split(order, range(CHUNK, len(order), CHUNK))
    for done in Prefetcher(spec.threads).map(work, chunks):
        yield from done


def baked_again(
    source: Source, indices: list[int], spec: BakeSpec, corrupt: Callable[[np.ndarray, int], np.ndarray]
) -> Iterator[np.ndarray]:
    """The images of some samples as a bake would store them, decoded: uint8 (H, W, 3) each."""
    for index, (data, mode, *_) in zip(indices, encoded(source, np.array(indices), spec, corrupt), strict=True):
        yield np.asarray(decode(bytes(data), source.sample_name(index)) if mode == JPEG else data)


def _reading(source: Source, index: int) -> AbstractContextManager[None]:
    return refusals(Path(source.sample_name(index)), "the bake goes on from here when it can be read")


def _encode(source: Source, index: int, spec: BakeSpec, corrupt: Callable[[np.ndarray, int], np.ndarray]) -> Encoded:
    if spec.encoding == "jpeg":
        stored = source.read(index)
        decoded = _decoded(stored, source.sample_name(index))
        fitted = _fit(decoded.image, spec)
        width, height = fitted.size
        if isinstance(stored, bytes) and decoded.plain_jpeg and fitted is decoded.image:
            data: bytes | np.ndarray = stored
        else:
            _check_sides(width, height, _JPEG_SIDE, source.sample_name(index))
            data = _as_jpeg(fitted, spec.quality)
        mode, remedy = JPEG, "set bake.resolution or bake.quality lower"
    else:
        pixels = _pixels(source, index, spec)
        height, width = pixels.shape[:2]
        _check_sides(width, height, _SIDE, source.sample_name(index))
        data, mode = np.ascontiguousarray(corrupt(pixels, index)), RAW
        remedy = "set bake.resolution lower or bake.encoding=jpeg"
    if (size := len(bytes_of(data))) > PAGE_BYTES:
        raise UserError(
            f"{source.sample_name(index)}: {width:,} x {height:,} pixels take {size:,} bytes, more than a page "
            f"({PAGE_BYTES:,}), and nothing was baked: {remedy}"
        )
    return data, mode, width, height


def _check_sides(width: int, height: int, longest: int, name: str) -> None:
    if max(width, height) > longest:
        raise UserError(
            f"{name}: {width:,} x {height:,} pixels, and a side has {longest:,} at most; nothing was baked. "
            "Set bake.resolution, or crop or remove the file"
        )


def _decoded(stored: bytes | np.ndarray, name: str) -> Decoded:
    return Decoded(Image.fromarray(stored)) if isinstance(stored, np.ndarray) else read_image(stored, name)


def _pixels(source: Source, index: int, spec: BakeSpec) -> np.ndarray:
    """The fitted image: uint8 (H, W, 3)."""
    stored = source.read(index)
    if isinstance(stored, np.ndarray) and spec.resolution is None:
        return stored
    return np.asarray(_fit(_decoded(stored, source.sample_name(index)).image, spec))


def first_size(source: Source, spec: BakeSpec) -> tuple[int, int]:
    """Width and height, in pixels, of the first sample when it is baked."""
    return _fit(_decoded(source.read(0), source.sample_name(0)).image, spec).size


def _fit(image: Image.Image, spec: BakeSpec) -> Image.Image:
    """`image` itself when it already fits, else cropped and resized."""
    width, height = image.size
    if spec.resolution is None:
        return image
    if spec.square:
        side = min(height, width)
        if height != width:
            top, left = (height - side) // 2, (width - side) // 2
            image = image.crop((left, top, left + side, top + side))
        goal = (spec.resolution, spec.resolution)
    else:
        ratio = min(1.0, spec.resolution / max(height, width))
        goal = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    if goal == image.size:
        return image
    larger = goal[0] > image.width
    return image.resize(goal, Image.Resampling.BICUBIC if larger else Image.Resampling.BOX)


def _as_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encoded into a file in memory: for a file of the system's, Pillow releases the interpreter lock; for a BytesIO it
    holds the lock, and one thread encodes at a time."""
    image.info = {}  # else the original's comment would be written, too
    with open(os.memfd_create("jpeg"), "r+b") as file:
        image.save(file, "JPEG", quality=quality)
        file.seek(0)
        return file.read()


def statistics_for(source: Source, pixels: PixelSpec, spec: BakeSpec) -> Statistics | None:
    """Those of the training set, where the pixel corruption needs them."""
    return _statistics(source, spec) if PIXELS[pixels.kind].needs_statistics else None


def _statistics(source: Source, spec: BakeSpec) -> Statistics:
    """Exact mean and standard deviation per channel of the fitted images, in integers."""

    def sums(chunk: np.ndarray) -> np.ndarray:
        total = np.zeros((3, 3), np.int64)
        for index in chunk:
            with _reading(source, int(index)):
                flat = _pixels(source, int(index), spec).reshape(-1, 3).astype(np.int64)
            total += np.stack([np.full(3, len(flat)), flat.sum(0), (flat * flat).sum(0)])
        return total

    chunks = np.split(np.arange(len(source)), range(CHUNK, len(source), CHUNK))
    measured = tracked(Prefetcher(spec.threads).map(sums, chunks), len(chunks), "measuring mean and variance")
    count, first, second = sum(measured, np.zeros((3, 3), np.int64)).astype(np.float64)
    mean = first / count
    std = np.sqrt(second / count - mean**2)
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), source.channels)
