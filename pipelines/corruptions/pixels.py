"""Pixel corruptions (section 2.1 of the paper): the images change, the labels do not.

A corruption maps (image uint8 (H, W, 3), sample index) to an image of the same shape.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import UserError
from pipelines.randomness import permutation, stream
from pipelines.registry import Registry


@dataclass
class PixelSpec:
    """The pixel corruption of a set (data.pixels.*).

    kind: none; shuffled (one permutation of positions for all images); random (one for each image); gaussian
    (noise with the set's mean and variance per channel); patches (square patches change places, for each image).

    before_crop: whole images as baked (CIFAR-10's 32 x 32 pixels) are permuted, and the network is shown their central
    data.image_size (28 x 28), so pixels come in from the border, and each image shows others of its pixels. false: only
    the central part is permuted, as if it had been cropped before, and what is shown is the shown pixels rearranged.
    The paper does not say which it did. window: what follows from it, not to be set: the side in pixels of the central
    square that is permuted; None: whole images.
    """

    kind: str = "none"
    seed: int = 0  # of permutations and noise
    patch: int = 4  # pixels, the side of a patch
    before_crop: bool = True
    window: int | None = None

    def resolved(self, image_size: int | None = None) -> "PixelSpec":
        """Without the settings that this kind does not use. image_size: side of the shown part in pixels; None keeps
        the window as it is. Raises UserError on settings that cannot work."""
        kind = PIXELS[self.kind]
        if self.patch < 1:
            raise UserError(f"data.pixels.patch={self.patch} must be at least 1 pixel")
        if self.before_crop and self.window is not None:
            raise UserError(
                f"data.pixels.window={self.window} follows from data.image_size; set data.pixels.before_crop=false"
            )
        before_crop = self.before_crop or not kind.permutes
        window = None if before_crop else image_size or self.window
        if not before_crop and window is None:
            raise UserError(
                "data.pixels.before_crop=false needs data.image_size, the side of what is cropped and shown"
            )
        return PixelSpec(
            self.kind,
            seed=self.seed if kind.seeded else 0,
            patch=self.patch if kind.in_patches else PixelSpec.patch,
            before_crop=before_crop,
            window=window,
        )

    def described(self) -> dict[str, Any]:
        """What the images depend on, as plain data. A set without a window is named as before there were windows."""
        spec = self.resolved()
        described = {"kind": spec.kind, "seed": spec.seed, "patch": spec.patch}
        return described if spec.window is None else {**described, "window": spec.window}


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of a training set per channel, on the 0..255 scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3


Apply = Callable[[np.ndarray, int], np.ndarray]
Make = Callable[[PixelSpec, str, Statistics | None], Apply]


@dataclass(frozen=True)
class PixelKind:
    """A corruption of pixels, and what it needs.

    make: (resolved spec, split, statistics) -> the corruption. seeded, in_patches: whether data.pixels.seed and .patch
    matter to it. permutes: whether it moves pixels, so that data.pixels.before_crop matters to it. needs_statistics:
    whether the training set's are measured before the bake. one_size: the reason why all images must have one size,
    where they must.
    """

    make: Make
    seeded: bool = True
    in_patches: bool = False
    permutes: bool = False
    needs_statistics: bool = False
    one_size: str | None = None


PIXELS: Registry[PixelKind] = Registry("data.pixels.kind")


def pixel_corruption(spec: PixelSpec, split: str, statistics: Statistics | None = None) -> Apply:
    """The corruption of one split ("train" or "val"): image uint8 (H, W, 3), index -> uint8 (H, W, 3).

    statistics: of the training set, for both splits, where the kind needs them.
    """
    spec = spec.resolved()
    apply = PIXELS[spec.kind].make(spec, split, statistics)
    return apply if spec.window is None else _within(spec.window, apply)


def _within(side: int, apply: Apply) -> Apply:
    """`apply` on the central square of each image, where `pipelines.view.augment.center_crop` crops it."""

    def centrally(image: np.ndarray, index: int) -> np.ndarray:
        height, width = image.shape[:2]
        if side > min(height, width):
            raise UserError(
                f"data.pixels.before_crop=false with data.image_size={side}: the images have {width}x{height} pixels; "
                "set data.image_size lower"
            )
        top, left = round((height - side) / 2.0), round((width - side) / 2.0)
        square = slice(top, top + side), slice(left, left + side)
        changed = image.copy()
        changed[square] = apply(image[square], index)
        return changed

    return centrally


def _none(spec: PixelSpec, split: str, statistics: Statistics | None) -> Apply:
    return lambda image, index: image


def _permuted(image: np.ndarray, order: np.ndarray) -> np.ndarray:
    permuted: np.ndarray = image.reshape(-1, image.shape[2])[order].reshape(image.shape)
    return permuted


def _shuffled(spec: PixelSpec, split: str, statistics: Statistics | None) -> Apply:
    """The same permutation for training and test: the split is no part of its key."""

    @functools.lru_cache(maxsize=8)
    def order(pixels: int) -> np.ndarray:
        return permutation(pixels, spec.seed, "pixels/shuffled", pixels)

    return lambda image, index: _permuted(image, order(image.shape[0] * image.shape[1]))


def _random(spec: PixelSpec, split: str, statistics: Statistics | None) -> Apply:
    def apply(image: np.ndarray, index: int) -> np.ndarray:
        pixels = image.shape[0] * image.shape[1]
        return _permuted(image, permutation(pixels, spec.seed, "pixels/random", split, index=index))

    return apply


def _patches(spec: PixelSpec, split: str, statistics: Statistics | None) -> Apply:
    side = spec.patch

    def apply(image: np.ndarray, index: int) -> np.ndarray:
        height, width, channels = image.shape
        rows, columns = height // side, width // side
        if (rows * side, columns * side) != (height, width):
            raise UserError(
                f"data.pixels.patch={side} does not divide images of {width}x{height}; choose a divisor of both sides"
            )
        tiles = image.reshape(rows, side, columns, side, channels).swapaxes(1, 2)
        tiles = tiles.reshape(rows * columns, side, side, channels)
        tiles = tiles[permutation(rows * columns, spec.seed, "pixels/patches", split, index=index)]
        tiles = tiles.reshape(rows, columns, side, side, channels).swapaxes(1, 2)
        return np.ascontiguousarray(tiles.reshape(image.shape))

    return apply


def _gaussian(spec: PixelSpec, split: str, statistics: Statistics | None) -> Apply:
    """Independent normal pixels, clipped to 0..255 and rounded.

    Clipping moves mean and variance (CIFAR-10 would lose 4 % of its variance), so the normal's own
    parameters are solved for, such that the clipped pixels have the set's mean and variance.
    """
    assert statistics is not None, "gaussian needs the training set's statistics"
    solved = [clipped_normal(m, s) for m, s in zip(statistics.mean, statistics.std, strict=True)]
    mean = np.array([m for m, _ in solved])
    std = np.array([s for _, s in solved])
    gray = statistics.channels == 1

    def apply(image: np.ndarray, index: int) -> np.ndarray:
        height, width, _ = image.shape
        channels = 1 if gray else 3
        count = height * width * channels
        pairs = -(-count // 2)
        words = stream(2 * pairs, spec.seed, "pixels/gaussian", split, index=index)
        uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        radius = np.sqrt(-2 * np.log(uniform[:pairs]))  # Box-Muller
        angle = (2 * np.pi) * uniform[pairs:]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
        noise = normal.reshape(height, width, channels) * std[:channels] + mean[:channels]
        pixels = np.clip(np.rint(noise), 0, 255).astype(np.uint8)
        return np.repeat(pixels, 3, axis=2) if gray else pixels

    return apply


def clipped_normal(mean: float, std: float) -> tuple[float, float]:
    """Parameters (m, s) of the normal that has this mean and std after clipping to 0..255 and rounding.

    Newton's method on the exact moments of the 256 outcomes. A constant channel stays constant. Raises
    UserError when no clipped normal has these moments (a channel of almost only 0 and 255).
    """
    if std < 0.3:  # below the rounding step no normal has these moments: constant
        return mean, 0.0
    edges = np.arange(255) + 0.5
    values = np.arange(256.0)
    cdf = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))

    def moments(m: float, s: float) -> np.ndarray:
        mass = np.diff(np.concatenate([[0.0], cdf((edges - m) / s), [1.0]]))
        first = (values * mass).sum()
        return np.array([first, math.sqrt(max(((values - first) ** 2 * mass).sum(), 0.0))])

    goal = np.array([mean, std])
    guess = np.array([mean, std])
    for _ in range(100):
        miss = moments(*guess) - goal
        if np.abs(miss).max() < 1e-6:
            return float(guess[0]), float(guess[1])
        step = 1e-3
        either = step * np.eye(2)  # in the mean, and in the standard deviation
        jacobian = np.stack([(moments(*(guess + by)) - moments(*(guess - by))) / (2 * step) for by in either], axis=1)
        move = np.linalg.lstsq(jacobian, miss, rcond=None)[0]
        length = np.abs(move).max()
        guess = guess - move * min(1.0, 0.5 * guess[1] / length if length else 1.0)
        guess[1] = max(guess[1], 0.05)
    raise UserError(
        f"no normal distribution clipped to 0..255 has mean {mean:.1f} and standard deviation {std:.1f}; "
        "data.pixels.kind=gaussian cannot match this set"
    )


PIXELS.add("none", PixelKind(_none, seeded=False))
PIXELS.add("shuffled", PixelKind(_shuffled, permutes=True, one_size="is one permutation for all images"))
PIXELS.add("random", PixelKind(_random, permutes=True))
PIXELS.add("gaussian", PixelKind(_gaussian, needs_statistics=True))
PIXELS.add("patches", PixelKind(_patches, permutes=True, in_patches=True))
