"""Gaussian kernel machines, solved exactly (section 5 and table 3 of the paper).

f(x) = sum_i alpha_i k(x, x_i) with k(x, x') = exp(-gamma |x - x'|^2), where (K + ridge I) alpha = Y and Y is one-hot.
Without ridge it interpolates, and is what SGD from zero on this kernel converges to: the solution of minimum norm.

The factor of the matrix fills the memory, so it is kept in float32; rounded so, it leaves residuals of 1e-2. They are
taken out by a few steps of conjugate gradients, preconditioned by that factor, on the matrix in float64, whose entries
are computed again in each step.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fastgen.theory import cholesky
from fastgen.theory.conjugate_gradient import Linear, conjugate_gradient, nystrom
from fastgen.theory.memory import available_bytes, peak_bytes
from pipelines.errors import UserError
from pipelines.randomness import permutation

_BLOCK = 1000  # test points whose kernel with all points is in memory together
_TILE = {"cpu": 1024, "cuda": 8192}  # side of what is computed at a time of a matrix that is not kept: fits the cache
Progress = Callable[[str, float], None]  # told the name of a stage and the fraction of it that is done


@dataclass(frozen=True)
class KernelSpec:
    """gamma: per squared distance. ridge: added to the diagonal. precision: float32 or float64.

    precision is that of the factor: residuals are in float64. panel: rows of the matrix worked on together. solver:
    exact, iterative, or auto (exact where the matrix fits). memory_gb: what may be used (None: what is free).
    tolerance: norm of a class's residual over that of its targets, at which either solver stops; for one-hot targets
    the largest residual is then at most tolerance * sqrt(samples of the largest class).
    """

    gamma: float
    ridge: float = 0.0
    precision: str = "float32"
    panel: int = 3000
    solver: str = "auto"
    memory_gb: float | None = None
    tolerance: float = 1e-7

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

    test_error, train_error: percent, by the largest output. mistakes: the test points that are wrong, increasing.
    norm: sqrt(sum over classes of |f|_H^2). residual: the largest |(K + ridge I) alpha - Y| over all equations, in
    float64. solver: what solved it, in words. precision: of the factor, or of everything where there is none. peak_gb:
    the largest memory of the process (on a GPU: allocated there) in units of 1e9 bytes.
    """

    samples: int
    features: int
    test_error: float
    train_error: float
    norm: float
    residual: float
    solver: str
    mistakes: tuple[int, ...]
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
    if not exact:  # there is no factor, and conjugate gradients need the digits
        spec = replace(spec, precision="float64")
    gaussian, targets = Gaussian(train.double(), spec.gamma), one_hot(labels, classes, torch.float64)
    if exact:
        panels = cholesky.empty_panels(len(train), min(spec.panel, len(train)), spec.dtype, train.device)
        rounded = Gaussian(train.to(spec.dtype), spec.gamma)
        for i, panel in enumerate(panels):
            rounded.lower(panel)
            progress("kernel matrix", ((i + 1) / len(panels)) ** 2)
        solution = solve_panels(panels, gaussian.product, targets, spec, progress)
    else:
        solution = _solve_iteratively(gaussian, targets, spec, progress)
    blocks = zip(test.split(_BLOCK), test_labels.split(_BLOCK), strict=True)
    wrong = [(gaussian.against(part.double()) @ solution.alpha).argmax(1).ne(truth) for part, truth in blocks]
    return finished(solution, labels, targets, spec, torch.cat(wrong), train.shape[1], started)


@dataclass(frozen=True)
class Solution:
    """alpha: float64 (n, classes). residual: as in KernelResult. outputs: K alpha, float64 (n, classes)."""

    alpha: torch.Tensor
    residual: float
    outputs: torch.Tensor
    solver: str


def solve_panels(
    panels: cholesky.Panels,
    product: Linear,
    targets: torch.Tensor,
    spec: KernelSpec,
    progress: Progress = lambda doing, done: None,
) -> Solution:
    """Solve with the kernel matrix in panels of spec.dtype, which become its factor. product: v -> K v in float64.

    targets: float64 (n, k). What is factored is K + (ridge + shift) I: the shift, of the size of what rounding does to
    the eigenvalues, keeps the rounded matrix positive definite, and changes how many steps are taken, not the solution.
    """
    shift = 4 * torch.finfo(spec.dtype).eps * len(targets) ** 0.5
    for i, panel in enumerate(panels):
        panel[:, i * len(panels[0]) :].diagonal().add_(spec.ridge + shift)
    cholesky.factor(panels, lambda done: progress("factorisation", done))

    def precondition(vectors: torch.Tensor) -> torch.Tensor:
        return cholesky.solve(panels, vectors.to(spec.dtype)).double()

    return _refined(product, targets, precondition, spec, "Cholesky in {precision}, {steps} steps in float64", progress)


def _refined(
    product: Linear, targets: torch.Tensor, precondition: Linear, spec: KernelSpec, solver: str, progress: Progress
) -> Solution:
    """Conjugate gradients on (K + ridge I) alpha = targets, and what is left of these equations in the end."""
    alpha, steps = conjugate_gradient(
        lambda vectors: product(vectors).add_(vectors, alpha=spec.ridge),
        targets,
        precondition,
        spec.tolerance,
        lambda done: progress("conjugate gradient", done),
    )
    outputs = product(alpha)
    residual = float((outputs + spec.ridge * alpha - targets).abs().max())
    return Solution(alpha, residual, outputs, solver.format(precision=spec.precision, steps=steps))


def finished(
    solution: Solution,
    labels: torch.Tensor,
    targets: torch.Tensor,
    spec: KernelSpec,
    wrong: torch.Tensor,
    features: int,
    started: float,
) -> KernelResult:
    """The result. Its norm is the root of alpha^T K alpha. wrong: bool, of each test point."""
    squared_norm = float((solution.alpha * solution.outputs).sum())
    return KernelResult(
        samples=len(labels),
        features=features,
        test_error=100 * float(wrong.double().mean()),
        train_error=100 * float(solution.outputs.argmax(1).ne(labels).double().mean()),
        norm=max(squared_norm, 0.0) ** 0.5,
        residual=solution.residual,
        solver=solution.solver,
        mistakes=tuple(wrong.nonzero()[:, 0].tolist()),
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
        """K vectors, (n, k), without the matrix in memory: each tile of its lower half serves for both halves."""
        out, n = torch.zeros_like(vectors), len(self.points)
        tile = _TILE.get(self.points.device.type, 1024)
        for top in range(0, n, tile):
            rows = slice(top, min(top + tile, n))
            for left in range(0, top + 1, tile):
                columns = slice(left, min(left + tile, n))
                part = self.points[rows] @ self.points[columns].mT
                distances_to_kernel(part, self._squares[rows], self._squares[columns], self.gamma)
                out[rows] += part @ vectors[columns]
                if left < top:
                    out[columns] += part.mT @ vectors[rows]
        return out


def distances_to_kernel(products: torch.Tensor, left: torch.Tensor, right: torch.Tensor, gamma: float) -> torch.Tensor:
    """In place: inner products (m, n) become exp(-gamma |x - y|^2). left, right: squared norms (m,), (n,)."""
    return products.mul_(-2).add_(left[:, None]).add_(right[None]).clamp_min_(0).mul_(-gamma).exp_()


def one_hot(labels: torch.Tensor, classes: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, classes).to(dtype)


def needed_bytes(n: int, spec: KernelSpec) -> int:
    """Memory of the exact solution beside the points: the panels, and what is worked on."""
    height = min(spec.panel, n)
    return cholesky.panel_bytes(n, height, spec.dtype) + 3 * height * height * spec.dtype.itemsize


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
    precondition = nystrom(gaussian.against(gaussian.points[chosen]).mT, chosen, max(spec.ridge, 1e-6))
    solver = f"conjugate gradient, {{steps}} steps, Nyström preconditioner of {landmarks} points"
    return _refined(gaussian.product, targets, precondition, spec, solver, progress)
