"""Gaussian kernel machines, solved exactly (section 5 and table 3 of the paper).

f(x) = sum_i alpha_i k(x, x_i) with k(x, x') = exp(-gamma |x - x'|^2), where (K + ridge I) alpha = Y and Y is one-hot.
Without ridge it interpolates, and is what SGD from zero on this kernel converges to: the solution of minimum norm.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from fastgen.theory import cholesky
from fastgen.theory.conjugate_gradient import conjugate_gradient, nystrom
from fastgen.theory.memory import available_bytes, peak_bytes
from pipelines.errors import UserError
from pipelines.randomness import permutation

_CHECKED_ROWS = 1024  # equations, drawn at random, on which the residual is measured
_BLOCK = 1000  # test points whose kernel with all points is in memory together
Progress = Callable[[str, float], None]  # told the name of a stage and the fraction of it that is done


@dataclass(frozen=True)
class KernelSpec:
    """gamma: per squared distance. ridge: added to the diagonal. precision: float32 or float64.

    panel: rows of the matrix worked on together. solver: exact, iterative, or auto (exact where the matrix fits).
    memory_gb: what may be used (None: what is free). tolerance: relative residual at which the iterative one stops.
    """

    gamma: float
    ridge: float = 0.0
    precision: str = "float32"
    panel: int = 3000
    solver: str = "auto"
    memory_gb: float | None = None
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "float64"):
            raise UserError(f"kernel.precision={self.precision} must be float32 or float64")
        if self.solver not in ("auto", "exact", "iterative"):
            raise UserError(f"kernel.solver={self.solver} must be auto, exact or iterative")
        if not self.gamma > 0 or not self.ridge >= 0 or self.panel < 1:
            raise UserError("kernel.gamma must be above 0, kernel.ridge at least 0, kernel.panel at least 1")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise UserError(f"kernel.memory_gb={self.memory_gb} must be above 0")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision == "float64" else torch.float32


@dataclass(frozen=True)
class KernelResult:
    """What a kernel machine did.

    test_error, train_error: percent, by the largest output; the latter over `checked_rows` points. norm: sqrt(sum over
    classes of |f|_H^2). residual: the largest |(K + ridge I) alpha - Y| over `checked_rows` equations drawn at random.
    solver: what solved it, in words. peak_gb: the largest memory of the process (on a GPU: allocated there) in units of
    1e9 bytes.
    """

    samples: int
    features: int
    test_error: float
    train_error: float
    norm: float
    residual: float
    checked_rows: int
    solver: str
    precision: str
    seconds: float
    peak_gb: float


def kernel_machine(
    train: torch.Tensor,
    labels: torch.Tensor,
    test: torch.Tensor,
    test_labels: torch.Tensor,
    classes: int,
    spec: KernelSpec,
    progress: Progress = lambda doing, done: None,
) -> KernelResult:
    """Solve and test. train: (n, d), test: (m, d), float, on the device to compute on. labels: int64 in [0, classes).

    Raises UserError where the matrix is not positive definite, or does not fit (solver=exact).
    """
    started = time.perf_counter()
    exact = _fits(len(train), train.device, spec)
    if not exact:  # conjugate gradients need the digits, and keep no matrix, so there is memory for them
        spec = replace(spec, precision="float64")
    train, test = train.to(spec.dtype), test.to(spec.dtype)
    gaussian = Gaussian(train, spec.gamma)
    targets = one_hot(labels, classes, spec.dtype)
    if exact:
        panels = cholesky.empty_panels(len(train), min(spec.panel, len(train)), spec.dtype, train.device)
        for i, panel in enumerate(panels):
            gaussian.lower(panel)
            progress("kernel matrix", ((i + 1) / len(panels)) ** 2)
        solution = solve_panels(panels, targets, spec.ridge, progress)
    else:
        solution = _solve_iteratively(gaussian, targets, spec, progress)
    wrong = sum(
        int((gaussian.against(part) @ solution.alpha).argmax(1).ne(truth).sum())
        for part, truth in zip(test.split(_BLOCK), test_labels.split(_BLOCK), strict=True)
    )
    return finished(solution, labels, targets, spec, 100 * wrong / len(test), train.shape[1], started)


@dataclass(frozen=True)
class Solution:
    """alpha: (n, classes). residual: as in KernelResult, over the equations `rows`, int64. outputs: K alpha there."""

    alpha: torch.Tensor
    residual: float
    rows: torch.Tensor
    outputs: torch.Tensor
    solver: str


def solve_panels(
    panels: cholesky.Panels, targets: torch.Tensor, ridge: float, progress: Progress = lambda doing, done: None
) -> Solution:
    """Solve with the kernel matrix in panels, which become its factor."""
    n = len(targets)
    for i, panel in enumerate(panels):
        panel[:, i * len(panels[0]) :].diagonal().add_(ridge)
    drawn = np.sort(permutation(n, 0, "kernels/residual")[:_CHECKED_ROWS])
    equations = cholesky.matrix_rows(panels, drawn.tolist())
    cholesky.factor(panels, lambda done: progress("factorisation", done))
    alpha = cholesky.solve(panels, targets)
    rows = torch.from_numpy(drawn).to(targets.device)
    sides = equations @ alpha
    residual = float((sides - targets[rows]).abs().max())
    return Solution(alpha, residual, rows, sides - ridge * alpha[rows], "Cholesky, in place")


def finished(
    solution: Solution,
    labels: torch.Tensor,
    targets: torch.Tensor,
    spec: KernelSpec,
    test_error: float,
    features: int,
    started: float,
) -> KernelResult:
    """The result. Since K alpha = Y - ridge alpha, the solution alone gives its norm, the root of alpha^T K alpha."""
    alpha = solution.alpha.double()
    squared_norm = float((alpha * (targets.double() - spec.ridge * alpha)).sum())
    return KernelResult(
        samples=len(labels),
        features=features,
        test_error=test_error,
        train_error=100 * float(solution.outputs.argmax(1).ne(labels[solution.rows]).double().mean()),
        norm=max(squared_norm, 0.0) ** 0.5,
        residual=solution.residual,
        checked_rows=len(solution.rows),
        solver=solution.solver,
        precision=spec.precision,
        seconds=time.perf_counter() - started,
        peak_gb=peak_bytes(targets.device) / 1e9,
    )


class Gaussian:
    """The kernel between some points and given ones, in blocks. points: (n, d)."""

    def __init__(self, points: torch.Tensor, gamma: float) -> None:
        self.points, self.gamma = points, gamma
        self._squares = points.square().sum(1)

    def lower(self, panel: torch.Tensor) -> None:
        """Fill a row panel (rows, end) of the lower half: rows end - len(panel) to end against 0 to end."""
        end = panel.shape[1]
        start = end - len(panel)
        torch.mm(self.points[start:end], self.points[:end].mT, out=panel)
        distances_to_kernel(panel, self._squares[start:end], self._squares[:end], self.gamma)

    def against(self, others: torch.Tensor) -> torch.Tensor:
        """The kernel between `others` (m, d) and the points: (m, n)."""
        return distances_to_kernel(others @ self.points.mT, others.square().sum(1), self._squares, self.gamma)

    def product(self, vectors: torch.Tensor) -> torch.Tensor:
        """K vectors, (n, k), without the matrix in memory."""
        return torch.cat([self.against(block) @ vectors for block in self.points.split(_BLOCK)])


def distances_to_kernel(products: torch.Tensor, left: torch.Tensor, right: torch.Tensor, gamma: float) -> torch.Tensor:
    """In place: inner products (m, n) become exp(-gamma |x - y|^2). left, right: squared norms (m,), (n,)."""
    return products.mul_(-2).add_(left[:, None]).add_(right[None]).clamp_min_(0).mul_(-gamma).exp_()


def one_hot(labels: torch.Tensor, classes: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, classes).to(dtype)


def needed_bytes(n: int, spec: KernelSpec) -> int:
    """Memory of the exact solution beside the points: the panels, and the equations that are checked."""
    height = min(spec.panel, n)
    work = 3 * height * height + min(_CHECKED_ROWS, n) * n
    return cholesky.panel_bytes(n, height, spec.dtype) + work * spec.dtype.itemsize


def _fits(n: int, device: torch.device, spec: KernelSpec) -> bool:
    """Whether to solve exactly. Raises UserError where that is asked for and cannot be."""
    if spec.solver == "iterative":
        return False
    need, free = needed_bytes(n, spec), budget_bytes(device, spec)
    if need > free and spec.solver == "exact":
        raise UserError(
            f"the kernel matrix of {n:,} points needs {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: use fewer "
            "(data.limit), kernel.precision=float32, or kernel.solver=iterative"
        )
    return need <= free


def budget_bytes(device: torch.device, spec: KernelSpec) -> int:
    return available_bytes(device) if spec.memory_gb is None else int(spec.memory_gb * 1e9)


def _solve_iteratively(gaussian: Gaussian, targets: torch.Tensor, spec: KernelSpec, progress: Progress) -> Solution:
    n = len(targets)
    free = budget_bytes(targets.device, spec)
    # The preconditioner takes a third of the memory at most; more landmarks mean fewer iterations.
    landmarks = max(1, min(n // 2, 5000, int(free / 3 / (2 * n * 8))))
    progress("preconditioner", 0.0)
    chosen = torch.as_tensor(permutation(n, 0, "kernels/landmarks")[:landmarks], device=targets.device)
    precondition = nystrom(gaussian.against(gaussian.points[chosen]).mT.double(), chosen, max(spec.ridge, 1e-6))

    def product(vectors: torch.Tensor) -> torch.Tensor:
        return gaussian.product(vectors).add_(vectors, alpha=spec.ridge)

    alpha, iterations = conjugate_gradient(
        product, targets, precondition, spec.tolerance, lambda done: progress("conjugate gradient", done)
    )
    sides = product(alpha)
    residual = float((sides - targets).abs().max())
    everything = torch.arange(n, device=targets.device)
    solver = f"conjugate gradient, {iterations} iterations, Nyström preconditioner of {landmarks} points"
    return Solution(alpha, residual, everything, sides - spec.ridge * alpha, solver)
