"""Finite-sample expressivity (section 4 and appendix C of the paper): networks that fit any targets on any n points.

Theorem 1's network is c(x) = sum_j w_j max(<a, x> - b_j, 0). Along the projections z_i = <a, x_i>, in increasing order
and with b_1 < z_1 < b_2 < z_2 < ..., the equations for w are triangular, and c is piecewise linear: between two
thresholds its slope is w_1 + ... + w_j. So the slopes are a first-order recursion, and the matrix is never formed.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from fastgen.theory import exact, piecewise
from fastgen.theory.directions import Candidate, candidates
from pipelines.errors import UserError

_PLACE = 0.25  # fraction of the gap between two points at which their threshold lies: a smaller one damps errors more
_GOOD = 1e-9  # largest error over the largest target, at which no further direction is tried
_TOLERANCE = 1e-6  # the same, at which a network is refused


class FiniteSampleNetwork(nn.Module):
    """Theorem 1's two-layer ReLU network: n + d weights, and n more for each output, 2n + d for one.

    direction: float64 (d,), a. thresholds: float64 (n,), b, increasing. coefficients: float64 (n, k), w.
    smallest_eigenvalue: of the triangular matrix max(z_i - b_j, 0), which is min_i (z_i - b_i) (lemma 1). Outputs are
    those of the parameters, rounded once: terms of 1e12 and more that cancel leave nothing behind.
    """

    def __init__(self, direction: Tensor, thresholds: Tensor, coefficients: Tensor, smallest_eigenvalue: float) -> None:
        super().__init__()
        self.direction, self.thresholds = nn.Parameter(direction), nn.Parameter(thresholds)
        self.coefficients = nn.Parameter(coefficients)
        self.smallest_eigenvalue = smallest_eigenvalue
        self.fitted: tuple[exact.Pair, Tensor] | None = None  # projections and targets of `fit`, in their order
        self._sums = _Sums()

    @classmethod
    def fit(cls, points: np.ndarray, targets: np.ndarray, seed: int = 0) -> "FiniteSampleNetwork":
        """The network that has the value `targets` at `points`, in O(n log n + n d) time and O(n + d) memory.

        points: numbers (n, ...), each point flattened to d. targets: numbers (n,) or (n, k). Equal points with equal
        targets count once, so n is the number of different points.

        Nothing is rounded but the parameters: projections are pairs of float64, sums integers of any length, and each
        coefficient makes up for how those before it were rounded. What that leaves is an error of 2^-53 times the
        largest ratio of a gap between two projections to the gap before it; the best of several directions is taken.

        Raises UserError for equal points with different targets, which no function fits, and where the largest error
        over all points, which is measured, would be above 1e-6 of the largest target.
        """
        if not len(points) == len(targets) or not len(points):
            raise UserError(f"{len(points)} points and {len(targets)} targets: give as many of both, and at least one")
        targets = np.asarray(targets, np.float64).reshape(len(points), -1)
        points = points.reshape(len(points), -1)
        if not np.isfinite(targets).all():
            raise UserError("the targets are not all finite numbers")
        if np.issubdtype(points.dtype, np.inexact) and not np.isfinite(points).all():
            raise UserError("the points are not all finite numbers")
        kept = _different(points, targets)
        if len(kept) < len(points):
            points, targets = points[kept], targets[kept]
        least, best = np.inf, None
        for candidate in candidates(points, seed):
            network = cls._along(candidate, targets)
            if network is None:
                continue
            error = network._error()
            if error < least:
                least, best = error, network
            if least <= _GOOD:
                break
        if best is None or least > _TOLERANCE:
            found = (
                "some fall together, or slopes leave its range"
                if best is None
                else f"the largest error is {least:.1e} of the largest target"
            )
            raise UserError(
                f"the {len(points):,} points are too near to each other, beside their distances, for float64: on the "
                f"best of several directions, {found} ({_TOLERANCE:g} at most). Leave out points that are nearly equal "
                "or far from all others, bring the points to one scale (such as their logarithms), or try another seed"
            )
        return best

    @classmethod
    def _along(cls, candidate: Candidate, targets: np.ndarray) -> "FiniteSampleNetwork | None":
        """The network on one direction; None where no number of float64 lies between two projections."""
        order = candidate.order
        high, low, wanted = candidate.high[order], candidate.low[order], targets[order]
        gaps = np.diff(high) + np.diff(low)
        between = high[:-1] + (low[:-1] + _PLACE * gaps)
        # Where that was rounded onto the point before, the next number may still lie before the point behind.
        between = np.where(_less(high[:-1], low[:-1], between), between, np.nextafter(high[:-1], np.inf))
        if not (_less(high[:-1], low[:-1], between) & _less(-high[1:], -low[1:], -between)).all():
            return None
        first = max(float(gaps.mean()) if len(gaps) else 1.0, 4 * float(np.spacing(abs(high[0]))))
        thresholds = np.concatenate([[high[0] - first], between])  # any length does before the first point
        coefficients = piecewise.interpolate(high, low, thresholds, wanted)
        if not np.isfinite(coefficients).all():
            return None
        parts = [torch.from_numpy(part) for part in (candidate.direction, thresholds, coefficients)]
        network = cls(parts[0], parts[1], parts[2], float(((high - thresholds) + low).min()))
        network.fitted = (torch.from_numpy(high), torch.from_numpy(low)), torch.from_numpy(wanted)
        return network

    @torch.no_grad()
    def _error(self) -> float:
        """The largest error at the points that were fitted, over the largest target."""
        assert self.fitted is not None
        z, targets = self.fitted
        return _relative_error(self._at(z), targets)

    @property
    def weights(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, points: Tensor) -> Tensor:
        """points: (m, ...) of any dtype. Returns float64 (m, k), in O(m (d + log n)) and without the m x n units."""
        return self._at(_projection(points, self.direction))

    def along(self, z: Tensor) -> Tensor:
        """The function of the projection z, float64 (m,): float64 (m, k)."""
        return self._at((z, torch.zeros_like(z)))

    def _at(self, z: exact.Pair) -> Tensor:
        sums = self._sums(self.thresholds, self.coefficients)
        return piecewise.evaluate(z, self.thresholds, self.coefficients, sums)


class DeepFiniteSampleNetwork(nn.Module):
    """The same function by `depth` layers of width O(n / depth): depth - 1 hidden layers, each with its share of the
    thresholds (appendix C).

    Beside its share's units, a hidden layer passes on how far a point lies behind the first threshold, max(z - b_1, 0)
    (one unit), and what the layers before it add up to, as positive and negative part (two units for each output).
    These are float64, as every number that one layer passes to the next.

    Raises UserError for a depth that leaves layers without points, and where that rounding makes an error above 1e-6 of
    the largest target at one of the points that `shallow` was fitted to.
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
        self._sums = [_Sums() for _ in self.thresholds]
        if shallow.fitted is not None:
            z, targets = shallow.fitted
            with torch.no_grad():
                error = _relative_error(self._at(z), targets)
            if not error <= _TOLERANCE:
                raise UserError(
                    f"{depth} layers pass on numbers that float64 rounds too coarsely for these points: the largest "
                    f"error is {error:.1e} of the largest target ({_TOLERANCE:g} at most). Take fewer layers, or bring "
                    "the points to one scale (such as their logarithms)"
                )

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
        """Layer by layer, as the network computes it, but for its units, of which only sums are formed.

        points: (m, ...) of any dtype. Returns float64 (m, k).
        """
        return self._at(_projection(points, self.direction))

    def _at(self, z: exact.Pair) -> Tensor:
        first = self.thresholds[0][0]
        high, low = exact.two_sum(z[0], -first)
        behind = (high + (low + z[1])).relu()
        inputs, total = z, torch.zeros((), dtype=torch.float64, device=behind.device)
        for layer, (b, w) in enumerate(zip(self.thresholds, self.coefficients, strict=True)):
            moved = b - first if layer else b
            units = piecewise.evaluate(inputs, moved, w, self._sums[layer](b, w, moved))
            total = total.relu() - (-total).relu() + units
            inputs = behind, torch.zeros_like(behind)
        return total


class _Sums:
    """`piecewise.sums`, kept until the parameters change."""

    def __init__(self) -> None:
        self._of: tuple[int, ...] = ()
        self._kept: piecewise.Sums | None = None

    def __call__(self, thresholds: Tensor, coefficients: Tensor, moved: Tensor | None = None) -> piecewise.Sums:
        """moved: the thresholds as they are used, where that is not as they are kept."""
        of = tuple(number for part in (thresholds, coefficients) for number in (part.data_ptr(), part._version))
        if self._kept is None or of != self._of:
            self._of, self._kept = of, piecewise.sums(thresholds if moved is None else moved, coefficients)
        return self._kept


def _projection(points: Tensor, direction: Tensor) -> exact.Pair:
    """Exact, with the gradient of the plain product where one is asked for."""
    high, low = exact.project(points, direction)
    if torch.is_grad_enabled() and (direction.requires_grad or points.requires_grad):
        plain = points.flatten(1).to(torch.float64) @ direction
        high = high + (plain - plain.detach()).nan_to_num(0.0, 0.0, 0.0)
    return high, low


def _relative_error(outputs: Tensor, targets: Tensor) -> float:
    """The largest error over the largest target; infinite where an output is not a number."""
    errors = (outputs - targets).abs().nan_to_num(torch.inf, torch.inf)
    return float(errors.max() / targets.abs().max().clamp_min(torch.finfo(torch.float64).tiny))


def _less(high: np.ndarray, low: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether high + low < other."""
    less: np.ndarray = (high < other) | ((high == other) & (low < 0))
    return less


def _different(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """One row of each set of equal points: int64, increasing. Raises UserError where their targets differ."""
    first: dict[bytes, int] = {}
    kept, conflicts = [], []
    for row, point in enumerate(points):
        # Zero has two signs; adding zero leaves one.
        digest = hashlib.blake2b((point + point.dtype.type(0)).tobytes(), digest_size=16).digest()
        before = first.setdefault(digest, row)
        if before == row:
            kept.append(row)
        elif not np.array_equal(targets[before], targets[row]):
            conflicts.append(f"{before} and {row}")
    if conflicts:
        some = ", ".join(conflicts[:5]) + (", ..." if len(conflicts) > 5 else "")
        raise UserError(
            f"{len(conflicts)} pairs of equal points have different targets, which no function fits: points {some}; "
            "leave one of each pair out"
        )
    return np.array(kept)
