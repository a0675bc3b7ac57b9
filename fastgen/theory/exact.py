"""Sums and products whose rounding is kept: pairs of float64 in PyTorch, and Python's integers.

A pair (high, low) stands for the number high + low, with |low| at most half a unit in high's last place, and so has 106
bits. Algorithms: Dekker, "A floating-point technique for extending the available precision", Numerische Mathematik 18,
1971; Knuth, "The art of computer programming", volume 2, section 4.2.2. They need operations as IEEE 754 rounds them,
which PyTorch's are, one by one, on CPU and GPU.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_SPLITTER = 2.0**27 + 1  # splits 53 bits into two times 26
_BLOCK_NUMBERS = 1 << 20  # of points' coordinates that are worked on at a time, as float64
_DIGITS = 53  # of float64
Pair = tuple[Tensor, Tensor]


def two_sum(a: Tensor, b: Tensor) -> Pair:
    """a + b, exactly."""
    high = a + b
    shadow = high - a
    return high, (a - (high - shadow)) + (b - shadow)


def two_product(a: Tensor, b: Tensor) -> Pair:
    """a b, exactly, for |a|, |b| and |a b| below 2^990 and where no part of it is below 2^-1074."""
    high = a * b
    (a1, a2), (b1, b2) = _split(a), _split(b)
    return high, a2 * b2 - (((high - a1 * b1) - a2 * b1) - a1 * b2)


def _split(a: Tensor) -> Pair:
    scaled = _SPLITTER * a
    upper = scaled - (scaled - a)
    return upper, a - upper


def project(points: Tensor, direction: Tensor) -> Pair:
    """<point, direction> for points (m, ...) of any dtype and a direction float64 (d,): a pair of float64 (m,).

    The same for a point in whatever company it comes: BLAS sums in an order that depends on the block's size, and so is
    used only where no order rounds, as for bytes and directions of 32 bits.
    """
    flat = points.detach().flatten(1)
    rows = max(1, _BLOCK_NUMBERS // max(1, flat.shape[1]))
    parts = [_project(part.to(torch.float64), direction.detach()) for part in flat.split(rows)]
    return torch.cat([high for high, _ in parts]), torch.cat([low for _, low in parts])


def _project(points: Tensor, direction: Tensor) -> Pair:
    largest = float(points.abs().max()) if points.numel() else 0.0
    bits = direction * 2.0**31
    # Integers up to 2^(53 - 31) over all dimensions, times multiples of 2^-31 up to 1.
    small = largest * len(direction) <= 2.0**22 and float(bits.abs().max()) <= 2.0**31
    if small and bool((bits == bits.round()).all() & (points == points.round()).all()):
        high = points @ direction
        return high, torch.zeros_like(high)
    high, low = two_product(points, direction)
    while high.shape[1] > 1:  # in halves, so that rounding adds up over log2(d) sums
        half = high.shape[1] // 2
        odd = slice(2 * half, None)
        total, rest = two_sum(high[:, :half], high[:, half : 2 * half])
        rest = rest + (low[:, :half] + low[:, half : 2 * half])
        total, rest = two_sum(total, rest)
        high, low = torch.cat([total, high[:, odd]], 1), torch.cat([rest, low[:, odd]], 1)
    return high[:, 0], low[:, 0]


def integers(*values: np.ndarray) -> tuple[list[list[int]], int]:
    """Arrays of float64 (n,) as integers times 2^exponent, the same for all: (the lists, exponent)."""
    taken = [np.frexp(part) for part in values]
    exponents = np.concatenate([power[mantissa != 0] for mantissa, power in taken]) - _DIGITS
    least = int(exponents.min()) if len(exponents) else 0
    out = []
    for mantissa, power in taken:
        shifts = np.where(mantissa == 0, 0, power - _DIGITS - least).tolist()
        whole = np.ldexp(mantissa, _DIGITS).astype(np.int64).tolist()
        out.append([number << shift for number, shift in zip(whole, shifts, strict=True)])
    return out, least


def floats(numbers: Sequence[int], exponent: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers times 2^exponent as pairs of float64 (n,), which keep their first 106 bits; infinite beyond float64."""
    high, rest = _first_bits(numbers, exponent)
    low, _ = _first_bits(rest, exponent)
    return high, low


def _first_bits(numbers: Sequence[int], exponent: int) -> tuple[np.ndarray, list[int]]:
    """Each number rounded to its first 53 bits, as float64, and what that leaves of it."""
    lengths = np.fromiter(map(int.bit_length, numbers), np.int64, len(numbers))
    shifted = np.maximum(lengths - _DIGITS, 0)
    shifts = shifted.tolist()
    pairs = zip(numbers, shifts, strict=True)
    tops = [((number >> (shift - 1)) + 1) >> 1 if shift else number for number, shift in pairs]
    rest = [number - (top << shift) for number, top, shift in zip(numbers, tops, shifts, strict=True)]
    with np.errstate(over="ignore"):
        high: np.ndarray = np.ldexp(np.array(tops, np.float64), shifted + exponent)
    return high, rest


def rounded(number: int) -> int:
    """The integer of at most 53 bits, but for zeros at its end, that is nearest."""
    shift = number.bit_length() - _DIGITS
    return number if shift <= 0 else (((number >> (shift - 1)) + 1) >> 1) << shift
