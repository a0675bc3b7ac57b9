"""The counter-based generator against its published answers, and what is built on it."""

import numpy as np
import pytest
import torch

from pipelines.randomness import derive_key, permutation, philox, stream, uniforms_of, words_of

ALL_ONES = 0xFFFFFFFF
# Known answers of philox4x32-10 in Random123's kat_vectors.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL_ONES,) * 4, (ALL_ONES, ALL_ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, answer", KNOWN)
@pytest.mark.parametrize("array", [lambda v: np.array([v], np.int64), lambda v: torch.tensor([v])])
def test_philox_known_answers(counter, key, answer, array):
    with np.errstate(over="ignore"):
        words = philox([array(c) for c in counter], key)
    assert [int(w[0]) for w in words] == list(answer)


def test_draws_do_not_depend_on_their_neighbours():
    whole = uniforms_of(np.arange(1000), 3, "operation")
    some = np.array([999, 0, 17])
    assert np.array_equal(uniforms_of(some, 3, "operation"), whole[some])
    assert whole.min() >= 0 and whole.max() < 1
    assert abs(whole.mean() - 0.5) < 0.03


def test_large_indices_have_their_own_draws():
    far = np.array([5, 5 + 2**32])
    assert not np.array_equal(*words_of(far, 0, "x"))


def test_seeds_and_operations_are_independent():
    keys = {derive_key(seed, "order", epoch) for seed in range(50) for epoch in range(50)}
    assert len(keys) == 2500  # in particular seed 0 in epoch 1 is not seed 1 in epoch 0
    assert derive_key(0, "a", "b") != derive_key(0, "ab")


def test_stream_of_a_sample():
    assert np.array_equal(stream(10, 1, "a", index=4), stream(20, 1, "a", index=4)[:10])
    assert not np.array_equal(stream(10, 1, "a", index=4), stream(10, 1, "a", index=5))


def test_draws_are_frozen():
    """A change here would change every corrupted set that was ever published."""
    assert stream(2, 0, "frozen").tolist() == [6281041101834446978, 7727383121263936648]
    assert words_of(np.arange(2), 0, "frozen").tolist() == [
        [581281211, 3296347657, 3225527516, 2918784626],
        [3318283520, 1878920790, 60319553, 289363226],
    ]
    assert permutation(8, 0, "frozen").tolist() == [0, 7, 1, 5, 6, 3, 4, 2]
    assert derive_key(7, "a", 1) == (2830247804, 3542787110)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_permutation_is_one(n):
    order = permutation(n, 0, "x")
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, permutation(n, 0, "x"))
    if n > 3:
        assert not np.array_equal(order, permutation(n, 1, "x"))


def test_permutation_is_uniform():
    counts = np.zeros((6, 6))
    for seed in range(3000):
        counts[np.arange(6), permutation(6, seed, "uniform")] += 1
    # 36 cells of mean 500 and standard deviation 20.4
    assert np.abs(counts - 500).max() < 5 * 20.4
