"""A Gaussian kernel machine on the features of a random convolutional layer, which are never in memory all at once."""

import time
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from fastgen.theory import cholesky
from fastgen.theory.features import ConvolutionSpec, RandomConvolution
from fastgen.theory.kernels import (
    KernelResult,
    KernelSpec,
    Progress,
    budget_bytes,
    distances_to_kernel,
    finished,
    needed_bytes,
    one_hot,
    solve_panels,
)
from fastgen.theory.points import Points
from pipelines.errors import UserError

_FILTERS = 250  # whose features of all images are in memory together
_BLOCK = 1000  # test points whose kernel with all points is in memory together
_SPREAD = 0.01  # fraction of the mean standard deviation that is added to each feature's before dividing by it


def convolution_machine(
    points: Points,
    layer: ConvolutionSpec,
    spec: KernelSpec,
    machines: list[tuple[float, float]],
    device: torch.device,
    progress: Progress = lambda doing, done: None,
) -> list[KernelResult]:
    """A result for each of `machines`, gamma and ridge, which take the place of spec's, from one matrix of products.

    gamma is in units of the reciprocal mean squared distance between two training points: exp(-gamma |x - x'|^2 /
    mean |x - x'|^2). Raises UserError as `FeatureProducts` and `kernel_machine`.
    """
    products = FeatureProducts(points, layer, spec, len({gamma for gamma, _ in machines}), device, progress)
    results = []
    for gamma in dict.fromkeys(gamma for gamma, _ in machines):
        results += products.solve(gamma, [ridge for other, ridge in machines if other == gamma], progress)
    return results


class FeatureProducts:
    """Inner products of all images' features, from which the kernel machines of several bandwidths are made.

    Features are standardised with the training set's means and deviations. They are float32, and products and kernel
    are kept in spec's precision. The equations that are solved are those of the kernel as it is kept: in float32 its
    entries are rounded by about 1e-7, and the solution of these equations is exact to the residual that is told.
    """

    def __init__(
        self,
        points: Points,
        layer: ConvolutionSpec,
        spec: KernelSpec,
        bandwidths: int,
        device: torch.device,
        progress: Progress = lambda doing, done: None,
    ) -> None:
        """bandwidths: how often `solve` will be called; the last time the kernel takes the products' place.

        Raises UserError where matrix and features do not fit the memory.
        """
        self._started = time.perf_counter()
        self._left, self._spec, self._points, self._features = bandwidths, spec, points, layer.features
        n, m = len(points.images), len(points.test_images)
        height = min(spec.panel, n)
        need = self._needed_bytes(n, m, layer, bandwidths)
        if need > (free := budget_bytes(device, spec)):
            raise UserError(
                f"{n:,} points with random convolutional features need {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are "
                "free: use fewer points (data.limit)"
            )
        self._panels = cholesky.empty_panels(n, height, spec.dtype, device)
        for panel in self._panels:
            panel.zero_()
        self._cross = torch.zeros(m, n, device=device)
        self._squares = torch.zeros(n + m, dtype=torch.float64, device=device)
        images = np.concatenate([points.images, points.test_images])
        done = 0
        for part in RandomConvolution(points.images, layer, device).blocks(images, _FILTERS):
            self._add(part)
            done += _FILTERS
            progress("kernel matrix", min(1.0, done / layer.filters))
        # Standardised features have mean zero, so the mean squared distance of two points is twice the mean square.
        self._unit = 1 / (2 * float(self._squares[:n].mean()))

    def _needed_bytes(self, n: int, m: int, layer: ConvolutionSpec, bandwidths: int) -> int:
        height = min(self._spec.panel, n)
        products = cholesky.panel_bytes(n, height, self._spec.dtype)
        block = 4 * (n + m) * 2 * min(_FILTERS, layer.filters) * layer.regions**2
        # While products are summed: a block's features, in float32 and in spec's precision. While a system is solved:
        # the factor, and a copy of the products where they are needed again.
        summing = block + block * self._spec.dtype.itemsize // 4
        again = products if bandwidths > 1 else 0
        return products + 4 * m * n + max(summing, needed_bytes(n, self._spec) + again)

    def _add(self, part: torch.Tensor) -> None:
        """Some filters' features, float32 (n + m, features), are standardised in place and their products added."""
        n = len(self._points.images)
        deviation, mean = torch.std_mean(part[:n], 0)
        part.sub_(mean).div_(deviation + _SPREAD * deviation.mean())
        self._squares += torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).square()
        self._cross.addmm_(part[n:], part[:n].mT)
        part = part[:n].to(self._spec.dtype)
        for panel in self._panels:
            end = panel.shape[1]
            panel.addmm_(part[end - len(panel) : end], part[:end].mT)

    def solve(
        self, gamma: float, ridges: list[float], progress: Progress = lambda doing, done: None
    ) -> list[KernelResult]:
        """A result for each ridge at one bandwidth; seconds are counted from when the features were begun."""
        n = len(self._points.images)
        device, rate = self._squares.device, gamma * self._unit
        squares = self._squares.to(self._spec.dtype)
        self._left -= 1
        kernel = [panel.clone() for panel in self._panels] if self._left else self._panels
        for panel in kernel:
            end = panel.shape[1]
            distances_to_kernel(panel, squares[end - len(panel) : end], squares[:end], rate)
            panel[:, end - len(panel) :].diagonal().fill_(1)  # squares and products are not rounded alike
        labels, truth = (
            torch.from_numpy(found).to(device) for found in (self._points.labels, self._points.test_labels)
        )
        targets, results = one_hot(labels, self._points.classes, torch.float64), []
        for ridge in ridges:
            own = replace(self._spec, gamma=gamma, ridge=ridge)
            panels = [panel.clone() for panel in kernel]
            solution = solve_panels(panels, partial(cholesky.product, kernel), targets, own, progress)
            del panels
            outputs = [
                distances_to_kernel(part.double(), square, self._squares[:n], rate) @ solution.alpha
                for part, square in zip(self._cross.split(_BLOCK), self._squares[n:].split(_BLOCK), strict=True)
            ]
            wrong = torch.cat(outputs).argmax(1).ne(truth)
            results.append(finished(solution, labels, targets, own, wrong, self._features, self._started))
        return results
