"""A Gaussian kernel machine on the features of a random convolutional layer, which are never in memory all at once."""

import time
from dataclasses import replace

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

    Features are standardised with the training set's means and deviations. gamma is in units of the reciprocal mean
    squared distance between two training points: exp(-gamma |x - x'|^2 / mean |x - x'|^2).

    Raises UserError where matrix and features do not fit the memory, and as `kernel_machine`.
    """
    started = time.perf_counter()
    n, m = len(points.images), len(points.test_images)
    height = min(spec.panel, n)
    size = spec.dtype.itemsize
    copies = len(machines)  # the factor takes the matrix's place
    block = 4 * (n + m) * 2 * _FILTERS * layer.regions**2
    need = copies * needed_bytes(n, spec) + m * n * size + 2 * block
    if need > (free := budget_bytes(device, spec)):
        raise UserError(
            f"{n:,} points with random convolutional features need {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are "
            "free: use fewer points (data.limit), or rows without and with l2 one by one (--models)"
        )
    panels = cholesky.empty_panels(n, height, spec.dtype, device)
    cross = torch.zeros(m, n, dtype=spec.dtype, device=device)
    for panel in panels:
        panel.zero_()
    squares = torch.zeros(n + m, dtype=torch.float64, device=device)
    images = np.concatenate([points.images, points.test_images])
    done = 0
    for part in RandomConvolution(points.images, layer, device).blocks(images, _FILTERS):
        deviation, mean = torch.std_mean(part[:n], 0)
        part = part.sub_(mean).div_(deviation + _SPREAD * deviation.mean()).to(spec.dtype)
        squares += part.square().sum(1)
        for panel in panels:
            end = panel.shape[1]
            panel.addmm_(part[end - len(panel) : end], part[:end].mT)
        cross.addmm_(part[n:], part[:n].mT)
        done += _FILTERS
        progress("kernel matrix", min(1.0, done / layer.filters))
    # Standardised features have mean zero, so the mean squared distance of two points is twice the mean square.
    unit = 1 / (2 * float(squares[:n].mean()))
    squares = squares.to(spec.dtype)
    labels, test_labels = (torch.from_numpy(found).to(device) for found in (points.labels, points.test_labels))
    targets, results = one_hot(labels, points.classes, spec.dtype), []
    for number, (gamma, ridge) in enumerate(machines):
        last = number == len(machines) - 1
        kernel = panels if last else [panel.clone() for panel in panels]
        for panel in kernel:
            end = panel.shape[1]
            distances_to_kernel(panel, squares[end - len(panel) : end], squares[:end], gamma * unit)
        solution = solve_panels(kernel, targets, ridge, progress)
        del kernel
        outputs = [
            distances_to_kernel(part.clone(), square, squares[:n], gamma * unit) @ solution.alpha
            for part, square in zip(cross.split(_BLOCK), squares[n:].split(_BLOCK), strict=True)
        ]
        wrong = torch.cat(outputs).argmax(1).ne(test_labels).double().mean()
        own = replace(spec, gamma=gamma, ridge=ridge)
        results.append(finished(solution, labels, targets, own, 100 * float(wrong), layer.features, started))
    return results
