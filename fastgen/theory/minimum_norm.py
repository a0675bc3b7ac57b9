"""Implicit regularisation of linear models (section 5 of the paper): which solution SGD finds, of the many there are.

With fewer points than dimensions a linear model fits any targets, in many ways. Each step of SGD adds a multiple of a
point, so from zero it stays in the points' span, w = X^T alpha, and the one solution there is that of minimum norm.
From elsewhere it keeps what its start has outside the span. The loss is (1 / 2n) sum_i |<w, x_i> - y_i|^2, whose
Hessian is X^T X / n at every w: curvature does not tell the solutions apart.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipelines.errors import UserError
from pipelines.randomness import permutation, stream

_DIRECTIONS = 3  # random ones, in which the Hessians at two solutions are compared


@dataclass
class Fit:
    """A linear solution.

    weights: float64 (d, k). norm: of the weights. distance: from the solution of minimum norm, and outside: norm of the
    part outside the points' span, both over the norm of the solution of minimum norm. residual: the largest
    |<w, x_i> - y_i|. test_error: percent, by the largest output. hessian_change: the largest |H(w) v - H(0) v| over
    |H(0) v|, over random directions v. epochs: those at which SGD's distances and norms were taken.
    """

    weights: Tensor
    norm: float
    distance: float
    outside: float
    residual: float
    test_error: float
    hessian_change: float
    epochs: list[int] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


class LinearProblem:
    """Fit one-hot targets by <w, x>. points: float64 (n, d) with n < d, linearly independent. labels: int64 (n,).

    Raises UserError where the points are not fewer than the dimensions, or not independent.
    """

    def __init__(self, points: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, classes: int) -> None:
        n, d = points.shape
        if n >= d:
            raise UserError(f"{n:,} points in {d:,} dimensions have no two solutions: set data.limit below {d:,}")
        self.points, self.targets = points, torch.nn.functional.one_hot(labels, classes).double()
        self._test, self._test_labels = test, test_labels
        if int(torch.linalg.matrix_rank(points)) < n:
            raise UserError(f"the {n:,} points are not linearly independent: choose another data.limit")
        self._inverse = torch.linalg.pinv(points)  # (d, n)
        self.minimum = self._inverse @ self.targets

    def start(self, norm: float, seed: int) -> Tensor:
        """Random weights (d, k) of a given norm, as a network is initialised."""
        shape = self.minimum.shape
        words = stream(shape.numel(), seed, "theory/start").reshape(shape) >> np.uint64(11)
        weights = torch.from_numpy(words.astype(np.float64) * 2.0**-52 - 1)
        return weights * (norm / weights.norm())

    def outside(self, weights: Tensor) -> Tensor:
        """The part of weights (d, k) that is orthogonal to all points."""
        return weights - self._inverse @ (self.points @ weights)

    def sgd(
        self, weights: Tensor, epochs: int, seed: int, progress: Callable[[float], None] = lambda done: None
    ) -> Fit:
        """SGD from weights (d, k) with one point a step, each once an epoch in random order. With step size
        1 / max |x|^2 every step comes nearer to every solution."""
        weights = weights.clone()
        rate = 1 / float(self.points.square().sum(1).max())
        rows, targets = self.points.unbind(), self.targets.unbind()
        watched_epochs, distances, norms = [], [], []
        watched = {round(1.2**i) for i in range(100)} | {epochs}
        for epoch in range(1, epochs + 1):
            for i in permutation(len(rows), seed, "theory/order", epoch).tolist():
                x = rows[i]
                weights.addr_(x, torch.mv(weights.mT, x).sub_(targets[i]), alpha=-rate)
            if epoch in watched:
                watched_epochs.append(epoch)
                distances.append(self._distance(weights))
                norms.append(float(weights.norm()))
            progress(epoch / epochs)
        found = self.measure(weights, seed)
        found.epochs, found.distances, found.norms = watched_epochs, distances, norms
        return found

    def measure(self, weights: Tensor, seed: int = 0) -> Fit:
        wrong = (self._test @ weights).argmax(1).ne(self._test_labels).double().mean()
        changes = []
        for k in range(_DIRECTIONS):
            direction = self.start(1.0, seed + k + 1)
            reference = self.curvature(torch.zeros_like(weights), direction)
            changes.append(float((self.curvature(weights, direction) - reference).norm() / reference.norm()))
        return Fit(
            weights=weights,
            norm=float(weights.norm()),
            distance=self._distance(weights),
            outside=float(self.outside(weights).norm() / self.minimum.norm()),
            residual=float((self.points @ weights - self.targets).abs().max()),
            test_error=100 * float(wrong),
            hessian_change=max(changes),
        )

    def curvature(self, weights: Tensor, direction: Tensor) -> Tensor:
        """The loss's Hessian at weights (d, k) times a direction (d, k), by differentiating twice."""

        def loss(at: Tensor) -> Tensor:
            return (self.points @ at - self.targets).square().sum() / (2 * len(self.points))

        product: Tensor = torch.autograd.functional.hvp(loss, weights, direction)[1]
        return product

    def _distance(self, weights: Tensor) -> float:
        return float((weights - self.minimum).norm() / self.minimum.norm())


def standardised(images: np.ndarray) -> Tensor:
    """Each image flattened, centred and divided by its standard deviation, as networks get them: float64 (n, d)."""
    flat = torch.from_numpy(images.reshape(len(images), -1).astype(np.float64))
    flat -= flat.mean(1, keepdim=True)
    return flat / flat.std(1, keepdim=True, correction=0).clamp_min(1)
