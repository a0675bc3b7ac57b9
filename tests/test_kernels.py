"""Kernel machines against dense solutions by numpy and scikit-learn, and their features against plain loops."""

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.gaussian_process.kernels import RBF

from fastgen.theory import cholesky, features
from fastgen.theory.conjugate_gradient import conjugate_gradient, nystrom
from fastgen.theory.features import ConvolutionSpec, GaborSpec, RandomConvolution, gabor, gabor_bank, pixels
from fastgen.theory.kernels import Gaussian, KernelSpec, kernel_machine, needed_bytes
from fastgen.theory.points import Points
from fastgen.theory.random_features import convolution_machine
from pipelines.errors import UserError

CPU = torch.device("cpu")


def points(n, d=5, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def dense_kernel(x, y, gamma):
    """By scikit-learn, whose length scale l is exp(-d^2 / (2 l^2))."""
    return RBF(length_scale=(1 / (2 * gamma)) ** 0.5)(x.numpy(), y.numpy())


# ---------------------------------------------------------------- the factorisation


@pytest.mark.parametrize(("n", "height"), [(1, 1), (7, 3), (12, 4), (50, 50), (101, 10)])
def test_factor_and_solve(n, height):
    x = points(n)
    gaussian = Gaussian(x, 0.3)
    panels = cholesky.empty_panels(n, height, torch.float64, CPU)
    for panel in panels:
        gaussian.lower(panel)
    dense = dense_kernel(x, x, 0.3)
    right = points(n, 3, seed=1)
    assert np.allclose(cholesky.product(panels, right).numpy(), dense @ right.numpy(), atol=1e-11)
    seen = []
    cholesky.factor(panels, seen.append)
    assert seen == sorted(seen) and seen[-1] == 1
    lower = np.linalg.cholesky(dense)
    for (start, end), panel in zip(cholesky.panel_bounds(n, height), panels, strict=True):
        assert np.allclose(np.tril(panel.numpy(), start), lower[start:end, :end], atol=1e-8)
    assert np.allclose(dense @ cholesky.solve(panels, right).numpy(), right, atol=1e-6)
    assert cholesky.panel_bytes(n, height, torch.float64) == sum(p.numel() * 8 for p in panels)


def test_points_that_are_there_twice():
    """Alike labels are fitted; where they differ there is no solution, and the error says what there is instead."""
    x, labels = torch.cat([points(20), points(20)]), torch.arange(40) % 2
    found = kernel_machine(x, labels, x, labels, 2, KernelSpec(0.3))
    assert found.residual < 1e-6 and found.test_error == 0
    with pytest.raises(UserError, match="kernel.ridge such as 1e-4, which points need that are there twice"):
        kernel_machine(x, torch.arange(40) // 20, x, labels, 2, KernelSpec(0.3))


def test_a_matrix_that_is_not_positive_definite_is_refused():
    panels = [torch.ones(3, 3), torch.ones(1, 4)]
    with pytest.raises(UserError, match="4 x 4 kernel matrix is not positive definite in float32 .*kernel.ridge"):
        cholesky.factor(panels)


@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_single_precision_is_refined(ridge):
    """A matrix of condition 1e7 and more: a factor alone leaves a residual of 1e-4 or more."""
    x, labels = points(1500, 6), torch.from_numpy(np.random.default_rng(4).integers(0, 3, 1500))
    found = kernel_machine(x, labels, points(9, 6), labels[:9], 3, KernelSpec(0.4, ridge, panel=256))
    kernel, targets = dense_kernel(x, x, 0.4) + ridge * np.eye(1500), np.eye(3)[labels]
    single = scipy.linalg.cho_solve(scipy.linalg.cho_factor((kernel + 1e-5 * np.eye(1500)).astype(np.float32)), targets)
    assert np.abs(kernel @ single - targets).max() > 1e-4
    assert found.precision == "float32" and found.residual < 1e-6 and (ridge or found.train_error == 0)
    alpha = np.linalg.solve(kernel, targets)
    assert found.norm == pytest.approx(np.sqrt((alpha * (kernel @ alpha - ridge * alpha)).sum()), rel=1e-6)


# ---------------------------------------------------------------- the machine


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("solver", ["exact", "iterative"])
def test_the_machine_is_the_dense_solution(ridge, solver):
    train, test = points(300), points(90, seed=1)
    labels = torch.from_numpy(np.random.default_rng(2).integers(0, 4, 300))
    truth = torch.from_numpy(np.random.default_rng(3).integers(0, 4, 90))
    spec = KernelSpec(0.5, ridge, "float64", panel=64, solver=solver, tolerance=1e-10)
    found = kernel_machine(train, labels, test, truth, 4, spec)
    kernel, targets = dense_kernel(train, train, 0.5), np.eye(4)[labels]
    alpha = np.linalg.solve(kernel + ridge * np.eye(300), targets)
    outputs = dense_kernel(test, train, 0.5) @ alpha
    assert found.test_error == pytest.approx(100 * np.mean(outputs.argmax(1) != truth.numpy()))
    assert found.train_error == pytest.approx(100 * np.mean((kernel @ alpha).argmax(1) != labels.numpy()))
    assert found.norm == pytest.approx(np.sqrt(np.trace(alpha.T @ kernel @ alpha)), rel=1e-6)
    assert found.residual < 1e-8
    assert found.solver.startswith("Cholesky" if solver == "exact" else "conjugate gradient, ")
    if not ridge:
        assert found.train_error == 0


@pytest.mark.parametrize("memory_gb", [None, 1e-4, 1e-6])
def test_the_iterative_solution_in_single_precision_needs_no_ridge(memory_gb):
    """However few landmarks the preconditioner has room for (the default precision of a CPU is float32)."""
    x, test = points(400, 10).float(), points(50, 10, seed=1).float()
    labels, test_labels = (torch.from_numpy(np.random.default_rng(n).integers(0, 3, n)) for n in (400, 50))
    found, exact = (
        kernel_machine(x, labels, test, test_labels, 3, KernelSpec(0.1, solver=solver, memory_gb=memory))
        for solver, memory in (("iterative", memory_gb), ("exact", None))
    )
    assert found.precision == "float64" and found.residual < 1e-5 and found.train_error == 0
    assert found.norm == pytest.approx(exact.norm, rel=1e-3) and abs(found.test_error - exact.test_error) <= 2


def test_what_does_not_fit_is_solved_iteratively_or_refused():
    train, labels = points(400), torch.arange(400) % 3
    need = needed_bytes(400, KernelSpec(2.0))
    little = {"gamma": 2.0, "panel": 100, "memory_gb": 0.2 * need / 1e9}
    found = kernel_machine(train, labels, train, labels, 3, KernelSpec(**little))
    assert found.solver.startswith("conjugate gradient") and found.test_error == 0
    with pytest.raises(UserError, match=r"kernel matrix of 400 points needs 0\.0 GB and .*data.limit.*iterative"):
        kernel_machine(train, labels, train, labels, 3, KernelSpec(**little, solver="exact"))
    for mistake in ({"precision": "half"}, {"solver": "magic"}, {"gamma": 0.0}):
        with pytest.raises(UserError, match="kernel"):
            KernelSpec(**{"gamma": 1.0, **mistake})


def test_memory_beside_the_panels_is_small():
    panels = cholesky.panel_bytes(60000, KernelSpec(0.02).panel, torch.float32)
    assert panels < needed_bytes(60000, KernelSpec(0.02)) < 1.05 * panels < 8e9  # the square matrix takes 14.4 GB


def test_conjugate_gradients_say_when_they_do_not_converge(monkeypatch):
    monkeypatch.setattr("fastgen.theory.conjugate_gradient._MOST_ITERATIONS", 3)
    matrix = torch.from_numpy(dense_kernel(points(200), points(200), 0.01)) + 1e-9 * torch.eye(200)
    with pytest.raises(UserError, match="did not reach a relative residual of 1e-12 in 3 iterations"):
        conjugate_gradient(lambda v: matrix @ v, torch.ones(200, 1).double(), lambda v: v, 1e-12)


def test_the_preconditioner_is_the_inverse_of_its_matrix():
    kernel = torch.from_numpy(dense_kernel(points(60), points(60), 0.4))
    landmarks = torch.arange(0, 60, 4)
    columns = kernel[:, landmarks]
    dense = columns @ torch.linalg.inv(kernel[landmarks][:, landmarks]) @ columns.mT + 0.01 * torch.eye(60)
    vectors = points(60, 2, seed=5)
    assert torch.allclose(dense @ nystrom(columns, landmarks, 0.01)(vectors), vectors, atol=1e-4)


# ---------------------------------------------------------------- the features


def test_gabor_features_are_moduli_of_convolutions():
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1), dtype=np.uint8)
    spec = GaborSpec(wavelengths=(3.0, 4.0), orientations=2, pool=4)
    bank = gabor_bank(spec).numpy()[:, 0]
    assert np.allclose((bank[0::2] ** 2 + bank[1::2] ** 2).sum((1, 2)), 1, atol=1e-6)
    assert np.allclose(bank.sum((1, 2)), 0, atol=1e-5)
    found = gabor(images, spec, CPU).numpy()
    radius = bank.shape[-1] // 2
    padded = np.pad(images[1, :, :, 0] / 255.0, radius)
    expected = []
    for scale in range(2):
        part = []
        for k in range(2):
            wave = bank[2 * (2 * scale + k)] + 1j * bank[2 * (2 * scale + k) + 1]
            windows = np.lib.stride_tricks.sliding_window_view(padded, wave.shape)
            response = np.abs((windows * wave).sum((-1, -2)))
            part.append(response.reshape(3, 4, 3, 4).mean((1, 3)).ravel())
        part = np.concatenate(part)
        expected.append(part / np.linalg.norm(part))
    lowpass = (images[1, :, :, 0] / 255.0).reshape(3, 4, 3, 4).mean((1, 3)).ravel()
    expected.append(lowpass / np.linalg.norm(lowpass))
    assert np.allclose(found[1], np.concatenate(expected), atol=1e-5)


def test_no_feature_is_computed_in_tf32(monkeypatch):
    allowed, convolved, cudnn = [], features.F.conv2d, torch.backends.cudnn

    def conv2d(*arguments, **more):
        allowed.append((cudnn.allow_tf32, cudnn.enabled))
        return convolved(*arguments, **more)

    monkeypatch.setattr(features.F, "conv2d", conv2d)
    images = np.random.default_rng(1).integers(0, 256, (30, 12, 12, 1), dtype=np.uint8)
    gabor(images, GaborSpec(wavelengths=(3.0,), orientations=2), CPU)
    list(RandomConvolution(images, ConvolutionSpec(filters=2, patch=3), CPU).blocks(images, 2))
    assert set(allowed) == {(False, True)} and (cudnn.allow_tf32, cudnn.enabled) == (True, True)


def test_random_convolution_is_whitened_patches_against_filters():
    images = np.random.default_rng(1).integers(0, 256, (30, 9, 9, 3), dtype=np.uint8)
    spec = ConvolutionSpec(filters=7, patch=3, regions=2, whitening=0.1, threshold=0.25, seed=4)
    layer = RandomConvolution(images, spec, CPU)
    blocks = list(layer.blocks(images, 3))
    assert [block.shape for block in blocks] == [(30, 24), (30, 24), (30, 8)]
    whiten, mean = layer._whiten.numpy(), layer._mean.numpy()
    patches = layer._draw(images, 20000).double().numpy()
    whitened = (patches - mean) @ whiten
    assert np.allclose(
        np.cov(whitened.T), np.cov(patches.T) @ np.linalg.inv(np.cov(patches.T) + 0.1 * np.eye(27)), atol=1e-2
    )
    filters = whitened[:7] / np.linalg.norm(whitened[:7], axis=1, keepdims=True)
    responses = np.empty((7, 7, 7))
    for y in range(7):
        for x in range(7):
            patch = images[2, y : y + 3, x : x + 3].transpose(2, 0, 1).ravel().astype(float)
            patch = (patch - patch.mean()) / np.sqrt(patch.var() + 10)
            responses[:, y, x] = filters @ ((patch - mean) @ whiten)
    # Of 7 places, adaptive pooling gives 4 to each region.
    halves = (slice(0, 4), slice(3, 7))
    sides = [np.maximum(responses - 0.25, 0), np.maximum(-responses - 0.25, 0)]
    expected = [[[s[f, a, b].mean() for a in halves for b in halves] for f in range(7)] for s in sides]
    first = np.concatenate([np.ravel(side[:3]) for side in expected])
    assert np.allclose(blocks[0][2].numpy(), first, atol=1e-4)


def test_pixels():
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    assert np.allclose(pixels(images).numpy(), images.reshape(2, 12) / 255)


# ---------------------------------------------------------------- on random convolutional features


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_machine_on_random_features_is_the_dense_one(precision):
    random = np.random.default_rng(0)
    images, test = (random.integers(0, 256, (n, 12, 12, 3), dtype=np.uint8) for n in (60, 25))
    labels, test_labels = (random.integers(0, 3, n) for n in (60, 25))
    layer = ConvolutionSpec(filters=300, patch=5)  # more than are worked on at once
    machines = [(0.5, 0.0), (2.0, 0.1)]
    spec = KernelSpec(gamma=9.0, precision=precision, panel=16)
    found = convolution_machine(Points(images, labels, test, test_labels, 3, ""), layer, spec, machines, CPU)
    standard = []
    for part in RandomConvolution(images, layer, CPU).blocks(np.concatenate([images, test]), 250):
        part = part.double().numpy()
        deviation = part[:60].std(0, ddof=1)
        standard.append((part - part[:60].mean(0)) / (deviation + 0.01 * deviation.mean()))
    z = np.concatenate(standard, 1)
    assert z.shape == (85, layer.features)
    squares = ((z[:, None] - z[None, :60]) ** 2).sum(2)
    unit = 1 / (2 * (z[:60] ** 2).sum(1).mean())
    for (gamma, ridge), result in zip(machines, found, strict=True):
        kernel = np.exp(-gamma * unit * squares)
        alpha = np.linalg.solve(kernel[:60] + ridge * np.eye(60), np.eye(3)[labels])
        assert result.test_error == pytest.approx(100 * ((kernel[60:] @ alpha).argmax(1) != test_labels).mean())
        norm = np.sqrt((alpha * (kernel[:60] @ alpha)).sum())
        assert result.norm == pytest.approx(norm, rel=1e-5)
        assert result.features == layer.features and result.residual < 1e-6


def test_random_features_that_do_not_fit_are_told():
    images = np.zeros((40, 12, 12, 3), np.uint8)
    labels = np.zeros(40, np.int64)
    with pytest.raises(UserError, match="40 points with random convolutional features need .* are free"):
        convolution_machine(
            Points(images, labels, images, labels, 1, ""),
            ConvolutionSpec(filters=10, patch=5),
            KernelSpec(gamma=1.0, memory_gb=1e-5),
            [(1.0, 0.0)],
            CPU,
        )
