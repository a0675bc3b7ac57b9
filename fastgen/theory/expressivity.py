"""Finite-sample expressivity (section 4 and appendix C of the paper): networks that fit any targets on any n points.

Theorem 1's network is c(x) = sum_j w_j max(<a, x> - b_j, 0). Along the projections z_i = <a, x_i>, in increasing order
and with b_1 < z_1 < b_2 < z_2 < ..., the equations for w are triangular, and c is piecewise linear: between two
thresholds its slope is w_1 + ... + w_j. So the slopes are a first-order recursion, and the matrix is never formed.
"""

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.errors import UserError
from pipelines.randomness import stream

_DIRECTIONS = 8  # random ones to project on: the best keeps neighbouring points furthest apart
_PLACE = 0.25  # fraction of the gap between two points at which their threshold lies: a smaller one damps errors more
_BLOCK_BYTES = 1 << 27  # of points as float64 that are projected at a time


class FiniteSampleNetwork(nn.Module):
    """Theorem 1's two-layer ReLU network: n + d weights, and n more for each output, 2n + d for one.

    direction: float64 (d,), a. thresholds: float64 (n,), b, increasing. coefficients: float64 (n, k), w.
    smallest_eigenvalue: of the triangular matrix max(z_i - b_j, 0), which is min_i (z_i - b_i) (lemma 1).
    """

    def __init__(self, direction: Tensor, thresholds: Tensor, coefficients: Tensor, smallest_eigenvalue: float) -> None:
        super().__init__()
        self.direction, self.thresholds = nn.Parameter(direction), nn.Parameter(thresholds)
        self.coefficients = nn.Parameter(coefficients)
        self.smallest_eigenvalue = smallest_eigenvalue

    @classmethod
    def fit(cls, points: np.ndarray, targets: np.ndarray, seed: int = 0) -> "FiniteSampleNetwork":
        """The network that has the value `targets` at `points`, in O(n log n + n d) time and O(n + d) memory.

        points: numbers (n, ...), each point flattened to d. targets: numbers (n,) or (n, k). Equal points with equal
        targets count once, so n is the number of different points.

        What keeps rounding small: the directions' entries have 32 bits, so the projections of bytes in up to 8,192
        dimensions are exact, in any order of summation; the best of several directions is taken; and a threshold
        lies nearer to the point below it, so the recursion damps errors (by a factor of 3 each step).

        Raises UserError for equal points with different targets, which no function fits, and for points whose
        projections are too near to each other for float64.
        """
        if not len(points) == len(targets) or not len(points):
            raise UserError(f"{len(points)} points and {len(targets)} targets: give as many of both, and at least one")
        targets = np.asarray(targets, np.float64).reshape(len(points), -1)
        points = points.reshape(len(points), -1)
        if not np.isfinite(targets).all():
            raise UserError("the targets are not all finite numbers")
        directions = _directions(points.shape[1], seed)
        projected = project(points, directions)
        if not np.isfinite(projected).all():
            raise UserError("the points are not all finite numbers")
        # Points that are equal have equal projections on all directions; others almost never.
        kept = _different(points, targets, projected)
        projected, targets = projected[kept], targets[kept]
        widest, chosen = max((_smallest_gap(projected[:, k]), k) for k in range(_DIRECTIONS))
        if widest <= 0:
            raise UserError(f"points are too near to each other: on {_DIRECTIONS} directions, some fall together")
        order = np.argsort(projected[:, chosen], kind="stable")
        thresholds, coefficients, smallest = _solve(projected[order, chosen], targets[order])
        direction, b, w = (torch.from_numpy(part) for part in (directions[:, chosen].copy(), thresholds, coefficients))
        return cls(direction, b, w, smallest)

    @property
    def weights(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, points: Tensor) -> Tensor:
        """points: (m, ...) of any dtype. Returns float64 (m, k), in O(m (d + log n)) and without the m x n units."""
        return self.along(points.flatten(1).to(torch.float64) @ self.direction)

    def along(self, z: Tensor) -> Tensor:
        """The function of the projection z, float64 (m,): float64 (m, k)."""
        slopes = self.coefficients.cumsum(0)
        values = torch.zeros_like(slopes)  # of the function at each threshold
        values[1:] = (slopes[:-1] * self.thresholds.diff()[:, None]).cumsum(0)
        left = torch.searchsorted(self.thresholds.detach(), z.detach(), right=True) - 1
        inside = values[left] + slopes[left] * (z - self.thresholds[left])[:, None]
        return inside.where((left >= 0)[:, None], 0.0)


class DeepFiniteSampleNetwork(nn.Module):
    """The same function by `depth` layers of width O(n / depth): depth - 1 hidden layers, each with its share of the
    thresholds (appendix C).

    Beside its share's units, a hidden layer passes on how far a point lies behind the first threshold, max(z - b_1, 0)
    (one unit), and what the layers before it add up to, as positive and negative part (two units for each output).
    """

    def __init__(self, shallow: FiniteSampleNetwork, depth: int) -> None:
        super().__init__()
        n = len(shallow.thresholds)
        if not 2 <= depth <= n + 1:
            raise UserError(f"depth {depth} must be from 2 to {n + 1}: each hidden layer has one point or more")
        self.direction = shallow.direction
        share = -(-n // (depth - 1))
        self.thresholds = nn.ParameterList(torch.tensor_split(shallow.thresholds.detach(), depth - 1))
        self.coefficients = nn.ParameterList(torch.tensor_split(shallow.coefficients.detach(), depth - 1))
        carried = 0 if depth == 2 else 1 + 2 * shallow.coefficients.shape[1]
        self.width = share + carried

    @property
    def connections(self) -> int:
        """How many weights and biases of all layers are not zero by construction; those fixed to 1 or -1 count, too.

        d for the projection; for each threshold its bias, its weight to the unit and those to the outputs (to their
        positive and to their negative parts, in all layers but the last); and those that carry sums to the next layer.
        """
        hidden, outputs = len(self.thresholds), self.coefficients[0].shape[1]
        total = len(self.direction)
        for layer, thresholds in enumerate(self.thresholds):
            last = layer == hidden - 1
            total += 2 * len(thresholds) + len(thresholds) * outputs * (1 if last else 2)
            total += 0 if last else 2 if layer == 0 else 1  # passing the point on; its bias in the first layer
            if layer:  # both parts are subtracted: for both parts again, or for the output
                total += 2 * outputs * (1 if last else 2)
        return total

    def forward(self, points: Tensor) -> Tensor:
        """Layer by layer, as the network computes it. points: (m, ...) of any dtype. Returns float64 (m, k)."""
        z = points.flatten(1).to(torch.float64) @ self.direction
        first = self.thresholds[0][0]
        behind = (z - first).relu()
        units = (z[:, None] - self.thresholds[0]).relu()
        total = units @ self.coefficients[0]
        for thresholds, coefficients in zip(self.thresholds[1:], self.coefficients[1:], strict=True):
            above, below = total.relu(), (-total).relu()
            units = (behind[:, None] - (thresholds - first)).relu()
            total = above - below + units @ coefficients
        return total


def project(points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """points (n, d) of any dtype times directions float64 (d, k), a block of points at a time: float64 (n, k)."""
    rows = max(1, _BLOCK_BYTES // (8 * points.shape[1]))
    blocks = [points[start : start + rows].astype(np.float64) @ directions for start in range(0, len(points), rows)]
    return np.concatenate(blocks)


def _directions(d: int, seed: int) -> np.ndarray:
    """Uniform in [-1, 1)^d, multiples of 2^-31: float64 (d, _DIRECTIONS)."""
    words = stream(d * _DIRECTIONS, seed, "theory/directions").reshape(d, _DIRECTIONS)
    return (words >> np.uint64(32)).astype(np.float64) * 2.0**-31 - 1


def _smallest_gap(projected: np.ndarray) -> float:
    """The smallest gap between two neighbours over the distance from first to last; infinite for one point."""
    ordered = np.sort(projected)
    if len(ordered) == 1:
        return np.inf
    return float(np.diff(ordered).min() / max(ordered[-1] - ordered[0], np.finfo(np.float64).tiny))


def _different(points: np.ndarray, targets: np.ndarray, projected: np.ndarray) -> np.ndarray:
    """One row of each set of equal points: int64, increasing. Raises UserError where their targets differ."""
    order = np.lexsort(projected.T)
    same = np.flatnonzero((np.diff(projected[order], axis=0) == 0).all(1))
    dropped, conflicts = [], []
    for row in same:
        first, second = sorted(order[row : row + 2])
        if not np.array_equal(points[first], points[second]):
            continue
        dropped.append(order[row + 1])
        if not np.array_equal(targets[first], targets[second]):
            conflicts.append(f"{first} and {second}")
    if conflicts:
        some = ", ".join(conflicts[:5]) + (", ..." if len(conflicts) > 5 else "")
        raise UserError(
            f"{len(conflicts)} pairs of equal points have different targets, which no function fits: points {some}; "
            "leave one of each pair out"
        )
    return np.setdiff1d(np.arange(len(points)), dropped)


def _solve(z: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Thresholds (n,), coefficients (n, k) and min_i (z_i - b_i) for increasing projections z (n,).

    The slope s_i = w_1 + ... + w_i behind b_i is given by y_i - y_{i-1} = (b_i - z_{i-1}) s_{i-1} + (z_i - b_i) s_i.
    """
    gaps = np.diff(z)
    first = gaps.mean() if len(gaps) else 1.0  # any length does before the first point
    gaps = np.concatenate([[first], gaps])
    thresholds = np.concatenate([[z[0] - first], z[:-1] + _PLACE * gaps[1:]])
    ahead = z - thresholds
    if not (ahead > 0).all() or not (thresholds[1:] > z[:-1]).all():
        raise UserError("points are too near to each other: no number of float64 lies between two projections")
    slopes = np.diff(targets, axis=0, prepend=0.0) / ahead[:, None]
    damping = np.concatenate([[0.0], thresholds[1:] - z[:-1]]) / ahead  # of the thresholds as they were rounded
    for i in range(1, len(z)):
        slopes[i] -= damping[i] * slopes[i - 1]
    return thresholds, np.diff(slopes, axis=0, prepend=0.0), float(ahead.min())
