"""Directions on which points lie apart, for theorem 1's network: what decides its conditioning."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fastgen.theory import exact
from pipelines.errors import UserError
from pipelines.randomness import stream

_DIRECTIONS = 8  # random ones of each kind
_TRIED = 2  # the best of a kind
_LARGEST = 2.0**900  # of a coordinate, so that no product overflows
_BLOCK_BYTES = 1 << 27  # of points as float64 that are worked on at a time


@dataclass(frozen=True)
class Candidate:
    """direction: float64 (d,). high, low: the points' projections, float64 (n,), as pairs. order: int64 (n,), which
    sorts them. ratio: the largest of a gap between two neighbours to the gap before it; infinite where one is zero."""

    direction: np.ndarray
    high: np.ndarray
    low: np.ndarray
    order: np.ndarray
    ratio: float


def candidates(points: np.ndarray, seed: int) -> Iterator[Candidate]:
    """Directions for points (n, d), those first that cost little and serve nearly always.

    First random ones of 32 bits, whose projections of bytes are exact. Then random ones on points that are centred and
    whose coordinates are brought to one scale, for points with a large common part, or of mixed scales. Of each kind
    the best of all and their opposites, which differ: a gap behind a smaller one costs digits, one before it does not.

    Raises UserError for coordinates above 2^900.
    """
    floating = np.issubdtype(points.dtype, np.floating)  # no integer is that large
    largest = max(float(np.abs(part).max(initial=0.0)) for part in _blocks(points)) if floating else 0.0
    if largest > _LARGEST:
        raise UserError(f"points reach {largest:.1e}, whose products are beyond float64: divide them by that")
    drawn = _random(points.shape[1], seed)
    projected = np.concatenate([part @ drawn for part in _blocks(points)])
    # These are approximate for other numbers than bytes, which is enough to choose by.
    rough = sorted((_spaced(sign * projected[:, k]), k, sign) for k in range(_DIRECTIONS) for sign in (1.0, -1.0))
    for _, k, sign in rough[:_TRIED]:
        yield _candidate(points, sign * drawn[:, k])
    found = []
    for direction in _standardised(points, drawn).T:
        candidate = _candidate(points, direction)
        found += [candidate, _opposite(candidate)]
    yield from sorted(found, key=lambda candidate: candidate.ratio)[:_TRIED]


def _blocks(points: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, _BLOCK_BYTES // (8 * max(1, points.shape[1])))
    return (points[start : start + rows].astype(np.float64) for start in range(0, len(points), rows))


def _random(d: int, seed: int) -> np.ndarray:
    """Uniform in [-1, 1)^d, multiples of 2^-31: float64 (d, _DIRECTIONS)."""
    words = stream(d * _DIRECTIONS, seed, "theory/directions").reshape(d, _DIRECTIONS)
    return (words >> np.uint64(32)).astype(np.float64) * 2.0**-31 - 1


def _standardised(points: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Directions (d, k) that do on the points what the drawn ones do on the points with mean 0 and scale 1."""
    n = len(points)
    mean = sum(((part / n).sum(0) for part in _blocks(points)), np.zeros(points.shape[1]))
    spread = sum((np.abs(part - mean).sum(0) / n for part in _blocks(points)), np.zeros(points.shape[1]))
    # Powers of two, so that scaling rounds nothing. What does not vary tells no two points apart.
    scale = np.where(spread > 0, np.ldexp(1.0, np.clip(-np.frexp(spread)[1], -900, 900)), 0.0)
    common = mean * scale
    common /= max(np.abs(common).max(), np.finfo(np.float64).tiny)
    length = max(float(common @ common), np.finfo(np.float64).tiny)
    across = drawn - np.outer(common, common @ drawn) / length
    # In one dimension nothing is left across the common part.
    kept = np.linalg.norm(across, axis=0) > 1e-3 * np.linalg.norm(drawn, axis=0)
    return np.where(kept, across, drawn) * scale[:, None]


def _candidate(points: np.ndarray, direction: np.ndarray) -> Candidate:
    parts = [exact.project(torch.from_numpy(part), torch.from_numpy(direction)) for part in _blocks(points)]
    high, low = (np.concatenate([part[side].numpy() for part in parts]) for side in range(2))
    order = np.lexsort([low, high])
    return Candidate(direction, high, low, order, _worst(np.diff(high[order]) + np.diff(low[order])))


def _opposite(candidate: Candidate) -> Candidate:
    high, low, order = -candidate.high, -candidate.low, candidate.order[::-1]
    return Candidate(-candidate.direction, high, low, order, _worst(np.diff(high[order]) + np.diff(low[order])))


def _spaced(projected: np.ndarray) -> float:
    return _worst(np.diff(np.sort(projected)))


def _worst(gaps: np.ndarray) -> float:
    if not (gaps > 0).all():
        return np.inf
    with np.errstate(over="ignore"):
        return float((gaps[1:] / gaps[:-1]).max(initial=0.0))
