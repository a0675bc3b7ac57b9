"""Theorem 1's networks against their equations solved densely, and against networks of ordinary layers."""

from fractions import Fraction
from operator import add, mul

import numpy as np
import pytest
import torch

from fastgen.theory import exact
from fastgen.theory.expressivity import DeepFiniteSampleNetwork, FiniteSampleNetwork
from fastgen.theory.points import load_points
from pipelines.corruptions import LabelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec


def sample(n, d, outputs, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)), random.normal(size=(n, outputs))


@pytest.mark.parametrize(("n", "d", "outputs"), [(1, 1, 1), (2, 3, 1), (40, 1, 2), (300, 7, 3)])
def test_it_is_the_solution_of_the_papers_equations(n, d, outputs):
    points, targets = sample(n, d, outputs)
    network = FiniteSampleNetwork.fit(points, targets)
    assert network.weights == n * outputs + n + d  # 2n + d for one output
    direction, thresholds, coefficients = (parameter.detach().numpy() for parameter in network.parameters())
    z = points @ direction
    order = np.argsort(z)
    assert (thresholds < z[order]).all() and (thresholds[1:] > z[order][:-1]).all()  # interleaved
    matrix = np.maximum(z[order][:, None] - thresholds, 0)
    assert np.allclose(np.linalg.solve(matrix, targets[order]), coefficients, rtol=1e-6, atol=1e-6)
    assert network.smallest_eigenvalue == pytest.approx(np.linalg.eigvals(matrix).real.min(), rel=1e-9)
    # At its points, and anywhere else: what the paper's formula says.
    assert np.allclose(network(torch.from_numpy(points)).detach(), targets, atol=1e-8)
    others, _ = sample(200, d, 1, seed=1)
    others *= 3
    formula = np.maximum((others @ direction)[:, None] - thresholds, 0) @ coefficients
    assert np.allclose(network(torch.from_numpy(others)).detach(), formula, rtol=1e-8, atol=1e-6)


def dense_layers(network):
    """The deep network as ordinary linear layers with a ReLU between two: (weight, bias) each, after the projection."""
    outputs, first = network.coefficients[0].shape[1], network.thresholds[0][0].item()
    eye = np.eye(outputs)
    layers, from_total = [], np.zeros((0, outputs))  # from_total: how a layer's units make the total so far
    inputs = np.ones((1, 1))  # how they make max(z - first, 0); of the projection itself: z
    for layer, (b, w) in enumerate(zip(network.thresholds, network.coefficients, strict=True)):
        b, w, last = b.detach().numpy(), w.detach().numpy(), layer == len(network.thresholds) - 1
        shift = 0.0 if layer == 0 else first
        rows = [np.repeat(inputs, len(b), 1), inputs[:, : 1 - last], from_total, -from_total]
        weight = np.concatenate([part for part in rows if part.size], 1)
        bias = np.concatenate([shift - b, [] if last else [shift - first if layer else -first]])
        bias = np.concatenate([bias, np.zeros(weight.shape[1] - len(bias))])
        layers.append((weight, bias))
        signs = [eye, -eye] if layer else []
        carried = np.zeros((1 - last, outputs))
        from_total = np.concatenate([w, carried, *signs])
        inputs = np.zeros((len(from_total), 1))
        if not last:
            inputs[len(b)] = 1
    return [*layers, (from_total, np.zeros(outputs))]


@pytest.mark.parametrize("depth", [2, 3, 4, 7, 41])
def test_the_deep_network_is_one_of_ordinary_layers_and_the_same_function(depth):
    n, d, outputs = 40, 5, 3
    points, targets = sample(n, d, outputs)
    shallow = FiniteSampleNetwork.fit(points, targets)
    deep = DeepFiniteSampleNetwork(shallow, depth)
    x = torch.from_numpy(np.concatenate([points, 3 * sample(100, d, 1, seed=2)[0]]))
    assert torch.allclose(deep(x), shallow(x), atol=1e-6)
    assert np.allclose(deep(x[:n]).detach(), targets, atol=1e-7)
    layers = dense_layers(deep)
    assert len(layers) == depth
    hidden = (x @ deep.direction).detach().numpy()[:, None]
    for weight, bias in layers[:-1]:
        hidden = np.maximum(hidden @ weight + bias, 0)
        assert hidden.shape[1] <= deep.width <= -(-n // (depth - 1)) + 1 + 2 * outputs
    assert np.allclose(hidden @ layers[-1][0], deep(x).detach(), atol=1e-6)
    counted = d + sum((weight != 0).sum() + (bias != 0).sum() for weight, bias in layers)
    assert counted == deep.connections < 2 * n * (outputs + 1) + (4 * outputs + 2) * depth + d


def test_a_depth_that_leaves_layers_without_points_is_refused():
    shallow = FiniteSampleNetwork.fit(*sample(5, 2, 1))
    assert DeepFiniteSampleNetwork(shallow, 6).width == 1 + 1 + 2
    for depth in (1, 7):
        with pytest.raises(UserError, match=f"depth {depth} must be from 2 to 6"):
            DeepFiniteSampleNetwork(shallow, depth)


def test_equal_points():
    points, targets = sample(20, 3, 2)
    points[17], targets[17] = points[4], targets[4]
    assert FiniteSampleNetwork.fit(points, targets).weights == 19 * 3 + 3  # one point fewer
    points[19] = points[4]
    with pytest.raises(UserError, match="2 pairs of equal points .*points 4 and 1[79], (4 and 19|17 and 19)"):
        FiniteSampleNetwork.fit(points, np.arange(40.0).reshape(20, 2))


@pytest.mark.parametrize(
    ("points", "targets", "message"),
    [
        (np.array([[1.0], [np.nextafter(1.0, 2)], [2.0], [0.0]]), np.array([0.0, 1.0, 0.0, 1.0]), "too near to each"),
        (np.array([[1e300], [2.0]]), np.array([0.0, 1.0]), "points reach 1.0e\\+300"),
        (np.array([[1.0], [2.0]]), np.array([1e308, -1e308]), "too near to each other"),
        (np.array([[1.0], [np.nan]]), np.array([0.0, 1.0]), "points are not all finite"),
        (np.array([[1.0], [2.0]]), np.array([0.0, np.inf]), "targets are not all finite"),
        (np.zeros((0, 3)), np.zeros(0), "at least one"),
        (np.array([[1.0]]), np.zeros((3, 1)), "1 points and 3 targets"),
    ],
)
def test_what_cannot_be_fitted_is_told(points, targets, message):
    with pytest.raises(UserError, match=message):
        FiniteSampleNetwork.fit(points, targets)


# ---------------------------------------------------------------- points of all scales


def scattered(n=60, d=5, seed=1):
    return np.random.default_rng(seed).normal(size=(n, d))


def changed(row, factor=1.0, to=None):
    points = scattered()
    points[row] = factor * (points[row] if to is None else points[to])
    return points


def lognormal(sigma, n, d):
    return np.random.default_rng(3).lognormal(sigma=sigma, size=(n, d))


FITTED = {
    "lognormal, sigma 8": lognormal(8, 300, 5),
    "lognormal, sigma 10": lognormal(10, 300, 5),
    "lognormal, sigma 10, on a line": lognormal(10, 100, 1),
    "lognormal, sigma 20, in 20 dimensions": lognormal(20, 1000, 20),
    "powers of two": 2.0 ** -np.arange(60)[:, None],
    "600 powers of two": 2.0 ** -np.arange(600)[:, None],
    "powers of two, to both sides": np.concatenate([2.0 ** -np.arange(30), -(2.0 ** np.arange(30))])[:, None],
    "two that are nearly equal": changed(1, 1 + 1e-9, to=0),
    "many that are nearly equal": np.concatenate([scattered(30), scattered(30) + 1e-6 * scattered(30, seed=2)]),
    "far from zero": scattered() + 1e8,
    "very far from zero": scattered() + 1e13,
    "one far off": changed(3, 1e18),
    "two far off, to both sides": np.concatenate([changed(3, 1e18), [[-1e18, 2e18, -3e18, 5e17, 1e17]]]),
    "coordinates of many scales": scattered() * 10.0 ** np.array([-100, -12, 0, 12, 100]),
    "three groups": np.stack([1e10 * (np.arange(60) % 3), scattered()[:, 0]], 1),
    "smallest numbers": np.arange(60)[:, None] * 5e-324,
    "large numbers": 1e250 * scattered(),
    "cauchy": np.random.default_rng(5).standard_cauchy(size=(500, 3)),
}
REFUSED = {
    "two that differ in the last bit": changed(1, 1 + 2e-16, to=0),
    "on a line, two that differ by 1e-15": np.array([[0.0], [1.0], [1 + 1e-15], [2.0], [3.0]]),
}


@pytest.mark.parametrize("name", FITTED)
def test_points_of_all_scales_are_fitted(name):
    points = FITTED[name]
    targets = np.random.default_rng(0).normal(size=(len(points), 2))
    network = FiniteSampleNetwork.fit(points, targets)
    assert network.weights == 3 * len(points) + points.shape[1]
    assert np.abs(network(torch.from_numpy(points)).detach().numpy() - targets).max() < 1e-6 * np.abs(targets).max()
    backwards = network(torch.from_numpy(points[::-1].copy())).detach()  # in another company, and to the last bit
    assert torch.equal(backwards.flip(0), network(torch.from_numpy(points)).detach())


@pytest.mark.parametrize("name", REFUSED)
def test_what_float64_cannot_fit_is_refused(name):
    points = REFUSED[name]
    with pytest.raises(UserError, match="points are too near .* the largest error is .*Leave out points"):
        FiniteSampleNetwork.fit(points, np.random.default_rng(0).normal(size=len(points)))


@pytest.mark.parametrize("depth", [3, 10])
@pytest.mark.parametrize("name", FITTED)
def test_the_deep_network_fits_or_is_refused(name, depth):
    """Layers pass float64 on, which cannot hold what terms of very different scales add up to."""
    points = FITTED[name]
    targets = np.random.default_rng(0).normal(size=(len(points), 2))
    shallow = FiniteSampleNetwork.fit(points, targets)
    try:
        deep = DeepFiniteSampleNetwork(shallow, depth)
    except UserError as error:
        assert "layers pass on numbers" in str(error)
        assert name not in ("far from zero", "very far from zero", "coordinates of many scales", "smallest numbers")
    else:
        assert np.abs(deep(torch.from_numpy(points)).detach().numpy() - targets).max() < 1e-6 * np.abs(targets).max()


@pytest.mark.parametrize("depth", [None, 4])
def test_gradients_are_those_of_the_units(depth):
    points, targets = sample(12, 3, 2)
    network = FiniteSampleNetwork.fit(points, targets)
    direction, thresholds, coefficients = (p.detach().clone().requires_grad_() for p in network.parameters())
    x = torch.from_numpy(sample(30, 3, 1, seed=4)[0])
    ((x @ direction)[:, None] - thresholds).relu().matmul(coefficients).square().sum().backward()
    ours = network if depth is None else DeepFiniteSampleNetwork(network, depth)
    ours.zero_grad()
    ours(x).square().sum().backward()
    assert torch.allclose(network.direction.grad, direction.grad, rtol=1e-8)
    found = network.coefficients.grad if depth is None else torch.cat([part.grad for part in ours.coefficients])
    assert torch.allclose(found, coefficients.grad, rtol=1e-8)
    found = network.thresholds.grad if depth is None else torch.cat([part.grad for part in ours.thresholds])
    assert torch.allclose(found, thresholds.grad, rtol=1e-8, atol=1e-8)


def test_parameters_that_change_change_the_function():
    points, targets = sample(12, 3, 2)
    network, x = FiniteSampleNetwork.fit(points, targets), torch.from_numpy(points)
    assert np.allclose(network(x).detach(), targets)
    with torch.no_grad():
        network.coefficients *= 2
    assert np.allclose(network(x).detach(), 2 * targets)
    with torch.no_grad():
        network.coefficients[0] = np.nan
    with pytest.raises(UserError, match="parameters are not all finite"):
        network(x)


# ---------------------------------------------------------------- sums without rounding


def test_sums_and_products_are_exact():
    random = np.random.default_rng(0)
    a, b = (torch.from_numpy(random.normal(size=200) * 10.0 ** random.integers(-20, 20, 200)) for _ in range(2))
    for pair, exactly in ((exact.two_sum(a, b), add), (exact.two_product(a, b), mul)):
        for x, y, high, low in zip(a.tolist(), b.tolist(), *(part.tolist() for part in pair), strict=True):
            assert Fraction(high) + Fraction(low) == exactly(Fraction(x), Fraction(y)) and high == exactly(x, y)


@pytest.mark.parametrize("d", [1, 2, 7, 100])
def test_projections_are_exact_to_a_hundred_bits(d):
    random = np.random.default_rng(d)
    points = random.normal(size=(20, d)) * 10.0 ** random.integers(-8, 8, (20, d))
    direction = random.normal(size=d)
    high, low = exact.project(torch.from_numpy(points), torch.from_numpy(direction))
    for point, one, rest in zip(points, high.tolist(), low.tolist(), strict=True):
        terms = [Fraction(x) * Fraction(a) for x, a in zip(point, direction, strict=True)]
        assert abs(Fraction(one) + Fraction(rest) - sum(terms)) <= sum(map(abs, terms)) / 2**98


def test_integers_and_floats():
    values = np.array([0.0, -1.5, 3e-310, 1e300, 5e-324, 1.0])
    (found, other), exponent = exact.integers(values, np.array([2.0**-1074]))
    assert [Fraction(number) * Fraction(2) ** exponent for number in found] == list(map(Fraction, values))
    assert other == [1 << (-1074 - exponent)]
    high, low = exact.floats(found, exponent)
    assert np.array_equal(high, values) and not low.any()
    number = (1 << 200) + (1 << 120) + 1
    assert exact.floats([number, -number], -100)[0].tolist() == [2.0**100, -(2.0**100)]
    assert exact.floats([1 << 2000], 0)[0][0] == np.inf
    for number in (0, 5, -(2**53) - 1, 2**54 - 1, 2**60 + 2**7, 3**90, -(3**90)):
        assert exact.rounded(number) == pytest.approx(number, rel=2.0**-53)
        assert float(exact.rounded(number)) == exact.rounded(number)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_images_of_any_dtype_are_projected_alike(dtype):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3)).astype(dtype)
    network = FiniteSampleNetwork.fit(images, np.arange(50))
    assert np.allclose(network(torch.from_numpy(images)).detach()[:, 0], np.arange(50), atol=1e-9)


def test_random_labels_of_real_images_are_recovered(data_folder):
    points = load_points(SourceSpec(source="cifar10", limit=5000), LabelSpec(kind="random"))
    network = FiniteSampleNetwork.fit(points.images, np.eye(10)[points.labels])
    assert network.weights == 5000 * 11 + 3072
    outputs = network(torch.from_numpy(points.images)).detach().numpy()
    assert (outputs.argmax(1) == points.labels).all() and (points.labels != np.arange(5000) % 10).any()
    assert np.abs(outputs - np.eye(10)[points.labels]).max() < 1e-6
