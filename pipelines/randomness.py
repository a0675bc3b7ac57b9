"""Counter-based random numbers: every draw is a pure function of (seed, operation, sample index).

Nothing here holds a state, so a draw is the same for any order, worker count, shard or restart.
The generator is Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011);
it is written for arrays of counters because a batch asks for the draws of arbitrary sample indices.
For long streams that belong to one sample, `stream` uses numpy's Philox.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_MASK = 0xFFFFFFFF


def derive_key(seed: int, *operation: str | int) -> tuple[int, int]:
    """The 64-bit key of one operation under one seed, as two integers in [0, 2**32).

    Different operations (and epochs, where they are part of it) have unrelated keys, so that seed 0
    in epoch 1 shares nothing with seed 1 in epoch 0.
    """
    digest = hashlib.blake2b(repr((int(seed), *operation)).encode(), digest_size=8).digest()
    word = int.from_bytes(digest, "little")
    return word & _MASK, word >> 32


def philox(counter: Sequence[Any], key: tuple[Any, Any]) -> list[Any]:
    """Philox-4x32-10 over arrays: four words for each counter.

    counter: four int64 numpy arrays or torch tensors (or ints; broadcast together) in [0, 2**32).
    key: two ints (or int64 arrays) in [0, 2**32). Returns four int64 arrays in [0, 2**32).

    The 64-bit products wrap around as signed integers; masking gives the unsigned halves back, so the same
    lines serve numpy and torch, on any device.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0 = c0 * 0xD2511F53
        p1 = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK)
        k0 = (k0 + 0x9E3779B9) & _MASK
        k1 = (k1 + 0xBB67AE85) & _MASK
    return [c0, c1, c2, c3]


def words_of(index: np.ndarray, seed: int, *operation: str | int, counter: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Four 32-bit words for each sample index: int64 (n, 4) in [0, 2**32). counter: tells several draws apart."""
    index = np.asarray(index, dtype=np.int64)
    low, high = (np.full_like(index, number) for number in counter)
    with np.errstate(over="ignore"):
        four = philox((index & _MASK, index >> 32, low, high), derive_key(seed, *operation))
    return np.stack(four, axis=-1)


def uniforms_of(index: np.ndarray, seed: int, *operation: str | int) -> np.ndarray:
    """Two uniforms in [0, 1) with 53 bits for each sample index: float64 (n, 2)."""
    words = words_of(index, seed, *operation)
    return ((words[..., 0::2] << 21) | (words[..., 1::2] >> 11)) * 2.0**-53


def stream(count: int, seed: int, *operation: str | int, index: int = 0) -> np.ndarray:
    """`count` random 64-bit words that belong to one sample: uint64 (count,).

    Raw words of numpy's Philox: its bit stream is frozen (NEP 19), the methods of its Generator are not.
    """
    low, high = derive_key(seed, *operation)
    generator = np.random.Philox(key=low | high << 32, counter=[0, 0, index, 0])
    return generator.random_raw(count)


def permutation(n: int, seed: int, *operation: str | int, index: int = 0) -> np.ndarray:
    """A uniformly random permutation of range(n): int64 (n,).

    Sorts random high bits that carry their position in the low bits: one sort of plain values, faster
    than an argsort, and without ties.
    """
    bits = max(1, int(n - 1).bit_length())
    low_bits = np.uint64((1 << bits) - 1)
    keys = stream(n, seed, *operation, index=index) & ~low_bits
    keys |= np.arange(n, dtype=np.uint64)
    keys.sort()
    return (keys & low_bits).astype(np.int64)
