"""Memorization, influence and consistency against brute force."""

import math

import numpy as np
import pytest

from fastgen.memorization.estimates import consistency, convergence, margin_outside, memorization, standard_error
from fastgen.memorization.influence import influence_blocks, top_pairs
from pipelines.sampler import SubsetSpec

N, TESTS = 60, 40


def points(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two clouds in the plane, a fifth of the training labels flipped: (x, y of the training set, x, y of the test)."""
    rng = np.random.default_rng(seed)
    y, test_y = rng.integers(0, 2, N), rng.integers(0, 2, TESTS)
    x, test_x = (rng.normal(size=(len(of), 2)) + 1.5 * of[:, None] for of in (y, test_y))
    return x, np.where(rng.random(N) < 0.2, 1 - y, y), test_x, test_y


def subsets(networks: int, fraction: float) -> np.ndarray:
    return np.stack([SubsetSpec(fraction=fraction, seed=seed).members(np.zeros(N, int)) for seed in range(networks)])


def leaving_one_out() -> np.ndarray:
    return ~np.eye(N, dtype=bool)


def nearest(x, y, at, members) -> np.ndarray:
    """The label of the nearest member: (networks, points)."""
    distance = np.linalg.norm(at[:, None] - x, axis=2)
    return np.stack([y[np.where(member, distance, np.inf).argmin(1)] for member in members])


def ridge(x, y, at, members) -> np.ndarray:
    """The sign of a ridge regression on +-1."""
    features, out = np.c_[x, x**2, np.ones(len(x))], np.c_[at, at**2, np.ones(len(at))]
    weighted = members[:, :, None] * features
    gram = features.T @ weighted + np.eye(features.shape[1])
    return (out @ np.linalg.solve(gram, (weighted * (2.0 * y - 1)[:, None]).sum(1)[..., None]))[..., 0] > 0


def right(learner, data, members) -> tuple[np.ndarray, np.ndarray]:
    """Whether each network is right on each training sample (its given label) and on each test sample."""
    x, y, test_x, test_y = data
    return learner(x, y, x, members) == y, learner(x, y, test_x, members) == test_y


@pytest.mark.parametrize("learner", [nearest, ridge])
def test_with_one_sample_out_the_estimates_are_the_leave_one_out_values(learner):
    data, members = points(0), leaving_one_out()
    x, y, test_x, test_y = data
    train, test = right(learner, data, members)
    found = memorization(members, train)
    pairs = np.concatenate([values for _, values in influence_blocks(members, test, 7)], 1)
    for i in range(N):
        without, others = members[i : i + 1], np.delete(members, i, 0)
        out = learner(x, y, x[i : i + 1], without)[0, 0] == y[i]
        inside = learner(x, y, x[i : i + 1], others)[:, 0] == y[i]
        assert found.value[i] == inside.mean() - out and (found.inside[i], found.outside[i]) == (N - 1, 1)
        moved = (learner(x, y, test_x, others) == test_y).mean(0) - (learner(x, y, test_x, without) == test_y)[0]
        assert np.allclose(pairs[i], moved, atol=1e-6)
    if (
        learner is nearest
    ):  # in closed form: a sample is its own nearest neighbour, and else its label is the next one's
        distance = np.linalg.norm(x[:, None] - x, axis=2) + np.diag(np.full(N, np.inf))
        assert np.array_equal(found.value, y[distance.argmin(1)] != y)


def test_the_estimate_agrees_with_the_exact_value_within_its_error():
    """Of the nearest neighbour the exact value is known: the probability that in a random subset of the others the
    nearest member has the sample's label."""
    data, fraction = points(1), 0.7
    x, y, *_ = data
    members = subsets(400, fraction)
    found = memorization(members, right(nearest, data, members)[0])
    size = round(fraction * N)
    for i in range(N):
        others = np.delete(np.arange(N), i)
        ranked = others[np.linalg.norm(x[others] - x[i], axis=1).argsort()]
        first = [math.comb(N - 2 - rank, size - 1) / math.comb(N - 1, size) for rank in range(N - size)]
        exact = 1 - sum(chance for chance, j in zip(first, ranked, strict=False) if y[j] == y[i])
        assert abs(found.value[i] - exact) < 4 * found.error[i]
    assert np.isclose(sum(first), 1)


@pytest.mark.parametrize("learner", [nearest, ridge])
def test_errors_are_neither_too_small_nor_too_large(learner):
    """Against many networks: two of three estimates lie within one standard error, as do influences."""
    data = points(2)
    few, many = ((m, right(learner, data, m)) for m in (subsets(150, 0.7), subsets(6000, 0.7)[150:]))
    small, large = (memorization(members, train) for members, (train, _) in (few, many))
    assert 0.6 < (abs(small.value - large.value) < small.error).mean() <= 1
    assert (abs(small.value - large.value) < 4 * small.error).all()
    pairs = top_pairs(few[0], few[1][1], N)
    (_, exact), *none = influence_blocks(many[0], many[1][1])
    moved = np.take_along_axis(exact.T, pairs.train, 1)
    assert (abs(pairs.influence - moved) < pairs.error).mean() > 0.6 and not none


@pytest.mark.parametrize("tests", [1, 7, 40, None])
def test_blocks_equal_the_dense_formula(tests, tmp_path):
    rng = np.random.default_rng(3)
    members, correct = subsets(31, 0.5), rng.random((31, TESTS)) < 0.6
    members[:, 4], members[:, 5] = True, False  # of which one side is unknown
    inside, outside = (side.sum(0, dtype=np.float32)[:, None] for side in (members, ~members))
    with np.errstate(all="ignore"):
        hits = (members[:, :, None] & correct[:, None]).sum(0, dtype=np.float32)
        dense = hits / inside - (correct.sum(0, dtype=np.float32) - hits) / outside
    dense[4:6] = np.nan
    found = np.concatenate([values for _, values in influence_blocks(members, correct, tests)], 1)
    assert found.dtype == np.float32 and np.array_equal(found, dense, equal_nan=True)
    pairs = top_pairs(members, correct, 5, tmp_path / "matrix.npy", tests)
    order = np.argsort(-np.nan_to_num(dense, nan=-9), axis=0, kind="stable")[:5].T
    assert np.array_equal(pairs.train, order)
    assert np.array_equal(pairs.influence, np.take_along_axis(dense.T, order, 1))
    matrix = np.load(tmp_path / "matrix.npy", mmap_mode="r")
    assert np.array_equal(matrix, dense.astype(np.float16), equal_nan=True)
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.npy"]


def test_what_no_network_knows_is_not_a_number():
    members = np.array([[1, 1, 0], [1, 0, 0]], bool)
    found = memorization(members, np.array([[1, 1, 0], [1, 0, 1]], bool))
    assert np.array_equal(found.value, [np.nan, 1, np.nan], equal_nan=True)
    assert np.array_equal(np.isnan(found.error), [True, False, True])
    assert found.inside.tolist() == [2, 1, 0] and found.outside.tolist() == [0, 1, 2]
    assert np.array_equal(consistency({0.7: found}), [np.nan, 0, 0.5], equal_nan=True)
    # Agresti and Caffo: 1 of 1 and 0 of 1 are taken for 2 of 3 and 1 of 3.
    assert found.error[1] == pytest.approx(math.sqrt(2 * (2 / 9) / 3))
    assert standard_error(np.array(700), np.array(1000), np.array(90), np.array(300)) == pytest.approx(
        math.sqrt(0.7 * 0.3 / 1000 + 0.3 * 0.7 / 300), rel=0.01
    )


def test_the_margin_is_that_of_networks_without_the_sample():
    members, margin = np.array([[1, 0, 1], [0, 0, 1]], bool), np.array([[9, 1, 9], [-3, 2, 9]], np.float16)
    assert np.array_equal(margin_outside(members, margin), [-3, 1.5, np.nan], equal_nan=True)


def test_consistency_is_the_mean_over_fractions():
    data = points(4)
    found = {}
    for fraction in (0.2, 0.8):
        members = subsets(300, fraction)
        found[fraction] = memorization(members, right(nearest, data, members)[0])
    scores = consistency(found)
    assert np.allclose(scores, (found[0.2].accuracy_outside + found[0.8].accuracy_outside) / 2)
    assert scores.min() >= 0 and scores.max() <= 1 and np.ptp(scores) > 0.5


def test_halves_agree_better_the_more_networks_there_are():
    data, members = points(5), subsets(400, 0.7)
    train, _ = right(nearest, data, members)
    found = convergence(members, train, [2, 20, 400])
    assert [count for count, _ in found][-2:] == [20, 400]
    assert found[-2][1] < found[-1][1] and found[-1][1] > 0.9
