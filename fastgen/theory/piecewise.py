"""sum_j w_j max(z - b_j, 0) as what it is, a piecewise linear function: evaluated without the units, or rounding."""

from itertools import accumulate, pairwise
from operator import mul, sub

import numpy as np
import torch
from torch import Tensor

from fastgen.theory import exact
from pipelines.errors import UserError

Sums = tuple[exact.Pair, exact.Pair]


def sums(thresholds: Tensor, coefficients: Tensor) -> Sums:
    """Value at each threshold, and slope behind it: pairs of float64 (n, k), exact to 106 bits.

    thresholds: float64 (n,), increasing. coefficients: float64 (n, k). Slopes are sums of coefficients that may be
    larger by many orders of magnitude, so they are summed as integers.

    Raises UserError for parameters that are not finite.
    """
    if not bool(thresholds.isfinite().all() & coefficients.isfinite().all()):
        raise UserError("the network's parameters are not all finite numbers, and its outputs are not, either")
    (b,), unit = exact.integers(thresholds.detach().cpu().numpy())
    steps = [after - before for before, after in pairwise(b)]
    values, slopes = [], []
    for column in coefficients.detach().cpu().numpy().T:
        (w,), own = exact.integers(column)
        slope = list(accumulate(w))
        values.append(exact.floats(list(accumulate(map(mul, slope, steps), initial=0)), unit + own))
        slopes.append(exact.floats(slope, own))
    return _stacked(values, thresholds), _stacked(slopes, thresholds)


def _stacked(columns: list[tuple[np.ndarray, np.ndarray]], like: Tensor) -> exact.Pair:
    high, low = (torch.from_numpy(np.stack(part, 1)).to(like.device) for part in zip(*columns, strict=True))
    return high, low


def evaluate(z: exact.Pair, thresholds: Tensor, coefficients: Tensor, found: Sums) -> Tensor:
    """The function at z, a pair of float64 (m,): float64 (m, k), rounded once. found: its `sums`.

    Gradients are those of the function.
    """
    high, low = z
    b = thresholds.detach()
    left = torch.searchsorted(b, high.detach(), right=True) - 1
    left -= ((high == b[left.clamp_min(0)]) & (low < 0)).long()
    before, left = left < 0, left.clamp_min(0)
    (value, value_low), (slope, slope_low) = ((part[left] for part in pair) for pair in found)
    ahead, ahead_low = exact.two_sum(high.detach(), -b[left])
    ahead, ahead_low = ahead[:, None], (ahead_low + low.detach())[:, None]
    rise, rise_low = exact.two_product(slope, ahead)
    total, rest = exact.two_sum(value, rise)
    out = total + (rest + (rise_low + slope * ahead_low + slope_low * ahead + value_low))
    out = out.masked_fill(before[:, None], 0.0)
    if torch.is_grad_enabled() and (high.requires_grad or thresholds.requires_grad or coefficients.requires_grad):
        plain = _plain(high, thresholds, coefficients, left).masked_fill(before[:, None], 0.0)
        out = out + (plain - plain.detach()).nan_to_num(0.0, 0.0, 0.0)  # adds zero, and the gradient
    return out


def _plain(z: Tensor, thresholds: Tensor, coefficients: Tensor, left: Tensor) -> Tensor:
    slopes = coefficients.cumsum(0)
    steps = (slopes[:-1] * thresholds.diff()[:, None]).cumsum(0)
    values = torch.cat([torch.zeros_like(slopes[:1]), steps])
    return values[left] + slopes[left] * (z - thresholds[left])[:, None]


def interpolate(z: np.ndarray, z_low: np.ndarray, thresholds: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Coefficients, float64 (n, k), with which the function has the value `targets`, float64 (n, k), at z + z_low.

    b_1 < z_1 < b_2 < z_2 < ...: the equations are triangular. Each coefficient is rounded to float64, and the next one
    makes up for it, since it is found from the exact value of the function so far. So the error at z_i is 2^-53 times
    the coefficient times z_i - b_i, which is about (z_i - z_(i-1)) / (z_(i-1) - z_(i-2)) in units of the targets.
    """
    (high, low, b), unit = exact.integers(z, z_low, thresholds)
    at = [x + y for x, y in zip(high, low, strict=True)]
    ahead = list(map(sub, at, b))
    steps = [0, *(after - before for before, after in pairwise(b))]
    largest = float(np.abs(targets).max())
    if not largest:
        return np.zeros_like(targets)
    # Coefficients are multiples of 2^-digits, of which one over the whole range makes 2^-70 of the largest target.
    digits = min(1074, 70 + (at[-1] - b[0]).bit_length() + unit - int(np.frexp(largest)[1]))
    out = np.empty_like(targets)
    for k, column in enumerate(targets.T):
        (wanted,), own = exact.integers(column)
        shift = own + digits - unit
        slope = value = 0
        found = []
        for y, step, distance in zip(wanted, steps, ahead, strict=True):
            value += slope * step
            y = y << shift if shift >= 0 else y >> -shift
            w = exact.rounded((y - value) // distance - slope)
            slope += w
            found.append(w)
        out[:, k] = exact.floats(found, -digits)[0]
    return out
