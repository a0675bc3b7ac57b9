"""Theorem 1's networks against their equations solved densely, and against networks of ordinary layers."""

import numpy as np
import pytest
import torch

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
        (np.array([[1.0], [np.nextafter(1.0, 2)]]), np.array([0.0, 1.0]), "too near to each other"),
        (np.array([[1.0], [np.nan]]), np.array([0.0, 1.0]), "points are not all finite"),
        (np.array([[1.0], [2.0]]), np.array([0.0, np.inf]), "targets are not all finite"),
        (np.zeros((0, 3)), np.zeros(0), "at least one"),
        (np.array([[1.0]]), np.zeros((3, 1)), "1 points and 3 targets"),
    ],
)
def test_what_cannot_be_fitted_is_told(points, targets, message):
    with pytest.raises(UserError, match=message):
        FiniteSampleNetwork.fit(points, targets)


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
