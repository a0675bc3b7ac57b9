"""What table 3 does to the images before the kernel: Gabor wavelets, and a random convolutional layer.

Images are uint8 (n, height, width, channels), features float32.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.randomness import uniforms_of

_IMAGES_AT_ONCE = 500  # whose responses are in memory together


def pixels(images: np.ndarray) -> torch.Tensor:
    """Pixels in [0, 1], one row for each image: float32 (n, height * width * channels)."""
    return torch.from_numpy(np.ascontiguousarray(images)).reshape(len(images), -1).float().div_(255)


@dataclass(frozen=True)
class GaborSpec:
    """A bank of complex Gabor wavelets. scales: wavelengths in pixels. pool: side in pixels of what is averaged.

    spread: standard deviation of the Gaussian window in wavelengths. slant: its extent along the wave's crests over
    that across them.
    """

    wavelengths: tuple[float, ...] = (3.0, 5.0, 8.0)
    orientations: int = 8
    spread: float = 0.5
    slant: float = 1.5
    pool: int = 4


def gabor_bank(spec: GaborSpec) -> torch.Tensor:
    """Complex filters as real and imaginary parts: float32 (2 * wavelengths * orientations, 1, size, size).

    g(x, y) = exp(-(u^2 + (v / slant)^2) / (2 sigma^2)) (exp(2 pi i u / wavelength) - c), u across and v along the
    crests, with c such that the filter's mean is zero, and scaled to unit norm. (The Morlet form of Gabor's wavelet.)
    """
    radius = math.ceil(2.5 * spec.spread * spec.slant * max(spec.wavelengths))
    y, x = torch.meshgrid(*(2 * [torch.arange(-radius, radius + 1.0, dtype=torch.float64)]), indexing="ij")
    filters = []
    for wavelength in spec.wavelengths:
        sigma = spec.spread * wavelength
        for k in range(spec.orientations):
            angle = math.pi * k / spec.orientations
            u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
            window = torch.exp(-(u**2 + (v / spec.slant) ** 2) / (2 * sigma**2))
            wave = torch.exp(2j * math.pi * u / wavelength)
            wave = window * (wave - (window * wave).sum() / window.sum())
            wave = wave / wave.abs().square().sum().sqrt()
            filters += [wave.real, wave.imag]
    return torch.stack(filters)[:, None].float()


def gabor(images: np.ndarray, spec: GaborSpec, device: torch.device) -> torch.Tensor:
    """|image * g| for each wavelet, averaged over squares, beside the averaged image: (n, d) on the device.

    Of coloured images the mean over the channels is taken. Each image's features are scaled to unit norm within each
    wavelength, so that none of them outweighs the others.
    """
    bank = gabor_bank(spec).to(device)
    radius = bank.shape[-1] // 2
    out = []
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        x = torch.from_numpy(np.ascontiguousarray(images[start : start + _IMAGES_AT_ONCE])).to(device)
        x = x.permute(0, 3, 1, 2).float().mean(1, keepdim=True).div(255)
        real, imaginary = _convolved(x, bank, padding=radius).unflatten(1, (-1, 2)).unbind(2)
        moduli = F.avg_pool2d((real.square() + imaginary.square()).sqrt(), spec.pool)
        parts = [*moduli.unflatten(1, (len(spec.wavelengths), -1)).unbind(1), F.avg_pool2d(x, spec.pool)]
        out.append(torch.cat([F.normalize(part.flatten(1)) for part in parts], 1))
    return torch.cat(out)


@dataclass(frozen=True)
class ConvolutionSpec:
    """A random convolutional layer (Coates and Ng, "Learning feature representations with k-means", 2012, with patches
    of the training images drawn at random for filters).

    patch: side of the filters in pixels. threshold: of the two-sided rectification. regions: the rectified responses
    are averaged over regions x regions parts of the image. whitening: added to the patches' variances (of a scale on
    which a patch has variance 1).
    """

    filters: int = 4000
    patch: int = 6
    threshold: float = 0.5
    regions: int = 2
    whitening: float = 0.03
    seed: int = 0

    @property
    def features(self) -> int:
        return 2 * self.filters * self.regions**2


class RandomConvolution:
    """The layer, drawn from training images: uint8 (n, height, width, channels).

    Each patch is centred and divided by its standard deviation, whitened (ZCA over the training patches), and compared
    with `filters` whitened patches of unit norm: z = filter . patch; features are max(z - threshold, 0) and
    max(-z - threshold, 0), averaged over each region.
    """

    def __init__(self, images: np.ndarray, spec: ConvolutionSpec, device: torch.device) -> None:
        self.spec, self._device = spec, device
        patches = self._draw(images, max(2 * spec.filters, 20000)).double()
        self._mean = patches.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov(patches.mT))
        self._whiten = axes @ torch.diag((variances.clamp_min(0) + spec.whitening).rsqrt()) @ axes.mT
        chosen = F.normalize((patches[: spec.filters] - self._mean) @ self._whiten)
        channels = images.shape[3]
        folded = chosen @ self._whiten  # on patches that are not whitened
        self._offset = -(folded @ self._mean).float().to(device)
        # A centred patch: what a filter's own mean sees of a patch is taken out of the filter instead.
        folded = folded - folded.mean(1, keepdim=True)
        self._filters = folded.float().to(device).unflatten(1, (channels, spec.patch, spec.patch))

    def _draw(self, images: np.ndarray, count: int) -> torch.Tensor:
        """Normalised patches at random places of random images: float32 (count, channels * patch * patch)."""
        side, (n, height, width, _) = self.spec.patch, images.shape
        places = (height - side + 1) * (width - side + 1)
        drawn = (uniforms_of(np.arange(count), self.spec.seed, "theory/patches") * (n, places)).astype(np.int64)
        out = np.empty((count, images.shape[3], side, side), np.uint8)
        for row, (image, place) in enumerate(drawn):
            y, x = divmod(int(place), width - side + 1)
            out[row] = images[image, y : y + side, x : x + side].transpose(2, 0, 1)
        flat = torch.from_numpy(out).flatten(1).float()
        flat -= flat.mean(1, keepdim=True)
        return flat / _spread(flat.square().mean(1, keepdim=True))

    def blocks(self, images: np.ndarray, filters: int) -> Iterator[torch.Tensor]:
        """Features of all images, `filters` filters at a time: float32 (n, 2 * filters * regions^2) on the device."""
        for start in range(0, self.spec.filters, filters):
            chosen = slice(start, min(start + filters, self.spec.filters))
            width = 2 * (chosen.stop - chosen.start) * self.spec.regions**2
            out = torch.empty(len(images), width, device=self._device)
            # The responses of few images stay in a CPU's cache: 4 at a time are twice as fast as 32.
            count = _IMAGES_AT_ONCE if self._device.type == "cuda" else 4
            for first in range(0, len(images), count):
                part = images[first : first + count]
                out[first : first + len(part)] = self._features(part, chosen)
            yield out

    def _features(self, images: np.ndarray, chosen: slice) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2).float()
        x = x.contiguous(memory_format=torch.channels_last)
        side = self.spec.patch
        mean = F.avg_pool2d(x.mean(1, keepdim=True), side, 1)
        square = F.avg_pool2d(x.square().mean(1, keepdim=True), side, 1)
        spread = _spread((square - mean.square()).clamp_min_(0))
        filters = self._filters[chosen].contiguous(memory_format=torch.channels_last)
        z = _convolved(x, filters).div_(spread).add_(self._offset[chosen, None, None])
        over = F.softshrink(z, self.spec.threshold)  # what exceeds the threshold, on either side
        both = F.adaptive_avg_pool2d(over, self.spec.regions).flatten(1)
        above = F.adaptive_avg_pool2d(over.relu_(), self.spec.regions).flatten(1)
        return torch.cat([above, above - both], 1)


def _convolved(images: torch.Tensor, filters: torch.Tensor, padding: int = 0) -> torch.Tensor:
    """In float32 throughout: cuDNN otherwise rounds both to TF32, which has 10 bits of mantissa."""
    cudnn = torch.backends.cudnn
    kept = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    with cudnn.flags(**kept, allow_tf32=False):
        return F.conv2d(images, filters, padding=padding)


def _spread(variance: torch.Tensor) -> torch.Tensor:
    """Standard deviation of a patch on the scale of bytes, kept from zero as Coates and Ng do (variance + 10)."""
    return (variance + 10).sqrt()
