"""SGD on linear models against numpy's and SciPy's least squares."""

import numpy as np
import pytest
import scipy.linalg
import torch

from fastgen.theory.minimum_norm import LinearProblem, standardised
from pipelines.errors import UserError

N, D, K = 12, 40, 3


def problem(n=N, d=D):
    random = np.random.default_rng(0)
    points, test = (torch.from_numpy(random.normal(size=(rows, d))) for rows in (n, 50))
    labels, test_labels = (torch.from_numpy(random.integers(0, K, rows)) for rows in (n, 50))
    return LinearProblem(points, labels, test, test_labels, K)


def test_the_minimum_is_numpys():
    linear = problem()
    expected, *_ = np.linalg.lstsq(linear.points.numpy(), linear.targets.numpy(), rcond=None)
    assert np.allclose(linear.minimum, expected, atol=1e-10)
    fit = linear.measure(linear.minimum)
    assert fit.distance == 0 and fit.outside < 1e-12 and fit.residual < 1e-10
    assert fit.norm == pytest.approx(np.linalg.norm(expected))
    predicted = (linear._test.numpy() @ expected).argmax(1)
    assert fit.test_error == pytest.approx(100 * (predicted != linear._test_labels.numpy()).mean())


def test_sgd_from_zero_finds_it():
    linear = problem()
    fit = linear.sgd(torch.zeros(D, K, dtype=torch.float64), 2000, seed=0)
    assert fit.distance < 1e-9 and fit.outside < 1e-12 and fit.residual < 1e-9
    assert fit.epochs == sorted(set(fit.epochs)) and fit.epochs[-1] == 2000
    assert len(fit.epochs) == len(fit.distances) == len(fit.norms)
    assert fit.distances[0] > 10 * fit.distances[-1] and fit.distances[-1] == fit.distance


def test_sgd_from_elsewhere_keeps_what_lies_outside_the_span():
    linear = problem()
    start = linear.start(2.0, seed=1)
    assert start.norm() == pytest.approx(2.0)
    null = torch.from_numpy(scipy.linalg.null_space(linear.points.numpy()))
    fit = linear.sgd(start, 2000, seed=0)
    assert torch.allclose(fit.weights, linear.minimum + null @ (null.mT @ start), atol=1e-8)
    assert fit.outside == pytest.approx(float((null.mT @ start).norm() / linear.minimum.norm()))
    assert fit.norm > linear.minimum.norm() and fit.residual < 1e-8
    assert not torch.equal(start, linear.start(2.0, seed=2))


def test_an_epoch_is_one_step_for_each_point():
    linear = problem()
    rate = 1 / np.square(linear.points.numpy()).sum(1).max()
    found = linear.sgd(torch.zeros(D, K, dtype=torch.float64), 1, seed=3).weights.numpy()

    def after(order):
        weights = np.zeros((D, K))
        for i in order:
            x = linear.points[i].numpy()
            weights -= rate * np.outer(x, x @ weights - linear.targets[i].numpy())
        return weights

    from pipelines.randomness import permutation

    assert np.allclose(found, after(permutation(N, 3, "theory/order", 1)))
    assert not np.allclose(found, after(range(N)))


def test_the_hessian_is_the_same_everywhere():
    linear = problem()
    x = linear.points.numpy()
    direction = linear.start(1.0, seed=5)
    for weights in (torch.zeros_like(linear.minimum), linear.minimum, linear.start(100.0, seed=6)):
        assert np.allclose(linear.curvature(weights, direction), x.T @ x @ direction.numpy() / N, atol=1e-12)
        assert linear.measure(weights).hessian_change < 1e-12


def test_problems_without_two_solutions_are_refused():
    with pytest.raises(UserError, match="40 points in 40 dimensions.*data.limit below 40"):
        problem(40, 40)
    twice = torch.ones(2, 5, dtype=torch.float64)
    labels = torch.tensor([0, 1])
    with pytest.raises(UserError, match="2 points are not linearly independent"):
        LinearProblem(twice, labels, twice, labels, 2)


def test_images_are_standardised_one_by_one():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    images[2] = 7  # nothing to divide by
    rows = standardised(images)
    assert rows.shape == (5, 48) and torch.allclose(rows.mean(1), torch.zeros(5).double(), atol=1e-12)
    varied = [0, 1, 3, 4]
    assert torch.allclose(rows[varied].square().mean(1), torch.ones(4).double())
    assert (rows[2] == 0).all()
