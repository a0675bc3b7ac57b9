"""The regions of images that engines decode and resize to the network's input.

A region is (top, left, height, width) in pixels. Random ones are a pure function of (seed, epoch, sample index, image
size): a resumed run, or one on another number of processes, sees the same crops, whichever backend decodes them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from pipelines.errors import UserError, did_you_mean
from pipelines.randomness import words_of
from pipelines.registry import Registry

_BATCHES_AT_ONCE = 16  # batches whose regions are drawn together: one of 64 alone takes 15 times as long an image


@dataclass
class ViewSpec:
    """How images of any size become inputs of one size (data.view.*).

    fraction: the central part that evaluation shows, as a fraction of the sides, resized to the input's size; None
    shows images as they were baked, cropped to the input's size without resizing. square: a square of that fraction of
    the shorter side, which keeps the aspect ratio, instead of both sides squeezed, as TensorFlow's Inception does.
    random: how training draws its regions; none (as evaluation), area (torchvision's RandomResizedCrop) or tensorflow
    (sample_distorted_bounding_box with the whole image as the box). area: fraction of the image's area; aspect: width
    over height; both ranges of the random regions.
    """

    fraction: float | None = None
    square: bool = True
    random: str = "none"
    area: list[float] = field(default_factory=lambda: [0.08, 1.0])
    aspect: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])

    def validate(self) -> None:
        """Raises UserError on settings that cannot work or have no effect."""
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UserError(f"data.view.fraction={self.fraction} must be above 0 and at most 1")
        if self.random != "none":
            if self.random not in _RANDOM:
                raise UserError(f"unknown data.view.random '{self.random}': {did_you_mean(self.random, RANDOM)}")
            if self.fraction is None:
                raise UserError(
                    f"data.view.random={self.random} needs data.view.fraction, the part that evaluation shows (0.875)"
                )
        for name, low, high in (("area", 0.0, 1.0), ("aspect", 0.0, float("inf"))):
            values = getattr(self, name)
            if len(values) != 2 or not low < values[0] <= values[1] <= high:
                raise UserError(f"data.view.{name}={values} must be two numbers, [smallest, largest], above {low:g}")


@dataclass(frozen=True)
class View:
    """What a stream of batches shows: regions, resized to size x size pixels.

    epoch: None shows the central region (evaluation), a number draws that epoch's random ones where the
    specification has any.
    """

    spec: ViewSpec
    size: int
    seed: int = 0
    epoch: int | None = None

    def regions(self, index: np.ndarray, height: np.ndarray, width: np.ndarray) -> np.ndarray:
        """Regions of images. index (sample indices), height, width: integers (n,). Returns int32 (n, 4)."""
        height, width = height.astype(np.int64), width.astype(np.int64)
        if self.epoch is None or self.spec.random == "none":
            return central(height, width, self.spec.fraction or 1.0, self.spec.square)
        attempt, attempts = _RANDOM[self.spec.random]
        out = np.zeros((len(index), 4), np.int32)
        undecided = np.arange(len(index))
        for number in range(attempts):
            draws = _uniforms(index[undecided], self.seed, self.epoch, number)
            regions, fine = attempt(draws, height[undecided], width[undecided], self.spec)
            out[undecided[fine]] = regions[fine]
            undecided = undecided[~fine]
            if not len(undecided):
                return out
        out[undecided] = _fallback(height[undecided], width[undecided], self.spec)
        return out

    def regions_of(
        self, rows_of_batches: list[np.ndarray], index: np.ndarray, height: np.ndarray, width: np.ndarray
    ) -> Iterator[np.ndarray]:
        """Regions of each batch: int32 (B, 4). index, height, width: of all images, integers (N,)."""
        for start in range(0, len(rows_of_batches), _BATCHES_AT_ONCE):
            some = rows_of_batches[start : start + _BATCHES_AT_ONCE]
            rows = np.concatenate(some)
            yield from np.split(
                self.regions(index[rows], height[rows], width[rows]), np.cumsum([len(batch) for batch in some])[:-1]
            )


def _uniforms(index: np.ndarray, seed: int, epoch: int, attempt: int) -> np.ndarray:
    """Four uniforms in [0, 1) for a sample's attempt: float64 (n, 4)."""
    return words_of(index, seed, "region", counter=(attempt, epoch)) * 2.0**-32


def central(height: np.ndarray, width: np.ndarray, fraction: float, square: bool) -> np.ndarray:
    """The central part of each image: int32 (n, 4)."""
    sides = (np.minimum(height, width),) * 2 if square else (height, width)
    rows, columns = (np.maximum(1, np.rint(fraction * side)).astype(np.int64) for side in sides)
    return _stack((height - rows) // 2, (width - columns) // 2, rows, columns)


def _stack(*parts: np.ndarray) -> np.ndarray:
    return np.stack(parts, axis=-1).astype(np.int32)


def _place(
    draws: np.ndarray, height: np.ndarray, width: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Regions of rows x columns somewhere in the images, and which of them fit."""
    fine = (rows > 0) & (columns > 0) & (rows <= height) & (columns <= width)
    top = (draws[:, 2] * (height - rows + 1)).astype(np.int64)
    left = (draws[:, 3] * (width - columns + 1)).astype(np.int64)
    return _stack(top, left, rows, columns), fine


def _by_area(draws: np.ndarray, height: np.ndarray, width: np.ndarray, spec: ViewSpec) -> tuple[np.ndarray, np.ndarray]:
    """torchvision.transforms.RandomResizedCrop.get_params: area uniform, aspect ratio uniform in its logarithm."""
    area = height * width * _between(draws[:, 0], *spec.area)
    aspect = np.exp(_between(draws[:, 1], *np.log(spec.aspect)))
    rows = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    columns = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    return _place(draws, height, width, rows, columns)


def _by_height(
    draws: np.ndarray, height: np.ndarray, width: np.ndarray, spec: ViewSpec
) -> tuple[np.ndarray, np.ndarray]:
    """GenerateRandomCrop of TensorFlow's sample_distorted_bounding_box_op.cc: aspect ratio uniform, then the height
    uniform among those whose area is in range. With the whole image as the box, min_object_covered=0.1 asks for a
    tenth of the image's area."""
    aspect = _between(draws[:, 0], *spec.aspect)
    least, most = (height * width * fraction for fraction in spec.area)
    low = np.rint(np.sqrt(least / aspect)).astype(np.int64)
    high = np.rint(np.sqrt(most / aspect)).astype(np.int64)
    too_wide = np.rint(high * aspect) > width
    high = np.where(too_wide, ((width + 0.5 - 1e-7) / aspect).astype(np.int64), high)
    high -= np.rint(high * aspect) > width
    high = np.minimum(high, height)
    low = np.minimum(low, high)
    rows = low + (draws[:, 1] * (high - low + 1)).astype(np.int64)
    columns = np.rint(rows * aspect).astype(np.int64)
    # Rounding may leave the range of areas by a row.
    small = rows * columns < least
    rows, columns = rows + small, np.where(small, np.rint((rows + 1) * aspect).astype(np.int64), columns)
    large = rows * columns > most
    rows, columns = rows - large, np.where(large, np.rint((rows - 1) * aspect).astype(np.int64), columns)
    area = rows * columns
    regions, fine = _place(draws, height, width, rows, columns)
    return regions, fine & (area >= np.maximum(least, 0.1 * height * width)) & (area <= most)


def _between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + uniform * (high - low)


def _fallback(height: np.ndarray, width: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """Where no attempt fitted: the largest central part whose aspect ratio is in range, as torchvision takes."""
    if spec.random == "tensorflow":
        return _stack(np.zeros_like(height), np.zeros_like(width), height, width)
    low, high = spec.aspect
    rows = np.minimum(height, np.rint(width / low)).astype(np.int64)
    columns = np.minimum(width, np.rint(height * high)).astype(np.int64)
    return _stack((height - rows) // 2, (width - columns) // 2, rows, columns)


_Attempt = Callable[[np.ndarray, np.ndarray, np.ndarray, ViewSpec], tuple[np.ndarray, np.ndarray]]
_RANDOM: Registry[tuple[_Attempt, int]] = Registry("data.view.random")  # with the attempts after which it gives up
_RANDOM.add("area", (_by_area, 10))
_RANDOM.add("tensorflow", (_by_height, 100))

RANDOM = ("none", *_RANDOM)
