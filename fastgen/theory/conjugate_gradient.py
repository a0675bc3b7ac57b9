"""Conjugate gradients: they refine what a factorisation in single precision gives, and, preconditioned by Nyström's
approximation, solve with kernel matrices that do not fit the memory."""

import math
from collections.abc import Callable

import torch

from pipelines.errors import UserError

_MOST_ITERATIONS = 2000  # beyond, the preconditioner is too weak, and an error says how to do without so many
Linear = Callable[[torch.Tensor], torch.Tensor]


def conjugate_gradient(
    product: Linear,
    targets: torch.Tensor,
    precondition: Linear,
    tolerance: float,
    progress: Callable[[float], None] = lambda done: None,
) -> tuple[torch.Tensor, int]:
    """Solve A x = targets for all columns at once. product, precondition: (n, k) -> (n, k), both symmetric and positive
    definite.

    Stops when each column's residual is below `tolerance` times its target's norm; returns x (n, k) and the number of
    iterations. Raises UserError when 2,000 iterations are not enough. (Hestenes and Stiefel 1952; the preconditioned
    form is algorithm 9.1 of Saad, "Iterative methods for sparse linear systems", 2nd edition.)
    """
    x = torch.zeros_like(targets)
    residual = targets.clone()
    z = precondition(residual)
    direction = z.clone()
    rho = (residual * z).sum(0)
    scale = targets.norm(dim=0).clamp_min(torch.finfo(targets.dtype).tiny)
    first = 1.0
    for iteration in range(1, _MOST_ITERATIONS + 1):
        image = product(direction)
        step = rho / (direction * image).sum(0).clamp_min(torch.finfo(targets.dtype).tiny)
        x += step * direction
        if iteration % 50:
            residual -= step * image
        else:
            residual = targets - product(x)  # what rounding has added up is thrown away
        worst = float((residual.norm(dim=0) / scale).max())
        if not math.isfinite(worst):
            break
        if iteration == 1:
            first = max(worst, tolerance)
        if worst <= tolerance:
            return x, iteration
        if first > tolerance:
            progress(min(1.0, max(0.0, math.log(first / worst) / math.log(first / tolerance))))
        z = precondition(residual)
        rho, before = (residual * z).sum(0), rho
        direction = z + (rho / before.clamp_min(torch.finfo(targets.dtype).tiny)) * direction
    raise UserError(
        f"conjugate gradients did not reach a relative residual of {tolerance:g} in {iteration:,} iterations (it is "
        f"{worst:.2g}): use a kernel.ridge such as 1e-4, which points need that are there twice with different labels, "
        "a larger kernel.gamma, kernel.precision=float64, or more kernel.memory_gb for landmarks"
    )


def nystrom(columns: torch.Tensor, landmarks: torch.Tensor, ridge: float) -> Linear:
    """v -> P^-1 v with P = C W^-1 C^T + ridge I, where C are some of a kernel matrix's columns, W their own rows.

    columns: C, float64 (n, m). landmarks: int64 (m,). (Rudi, Carratino and Rosasco, "FALKON", NeurIPS 2017, section 3,
    precondition with the same landmarks; here the matrix is whole, so Woodbury's identity inverts P.)
    """
    own = columns[landmarks]
    own.diagonal().add_(1e-9 * float(own.diagonal().mean()) * len(own))
    root = torch.linalg.cholesky(own)
    low_rank = torch.linalg.solve_triangular(root, columns.mT, upper=False)  # (m, n): P = low_rank^T low_rank + ridge I
    inner = low_rank @ low_rank.mT
    inner.diagonal().add_(ridge)
    inner_root = torch.linalg.cholesky(inner)

    def precondition(vectors: torch.Tensor) -> torch.Tensor:
        v = vectors.double()
        inside = torch.cholesky_solve(low_rank @ v, inner_root)
        return ((v - low_rank.mT @ inside) / ridge).to(vectors.dtype)

    return precondition
