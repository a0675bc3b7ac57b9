"""Cholesky's factorisation of a matrix that all but fills the memory, in place.

Only the lower half is stored, as row panels: panel i is a tensor (rows of the panel, columns 0 to the end of its
diagonal block). So 60,000 points take 7.2 GB in float32 and 14.4 GB in float64, half of the square matrix, and nothing
of that size is allocated besides. LAPACK's routine, which SciPy bundles with 32-bit indices, cannot address it, and
torch.linalg.cholesky makes a second matrix.
"""

from collections.abc import Callable

import torch

from pipelines.errors import UserError

_ROWS = 256  # of a matrix that are multiplied in another precision at a time
Panels = list[torch.Tensor]
Progress = Callable[[float], None]  # told the fraction of the work that is done, in [0, 1]


def panel_bounds(n: int, height: int) -> list[tuple[int, int]]:
    """First row and end of each panel."""
    return [(start, min(start + height, n)) for start in range(0, n, height)]


def panel_bytes(n: int, height: int, dtype: torch.dtype) -> int:
    """Memory of all panels of an n x n matrix."""
    return dtype.itemsize * sum((end - start) * end for start, end in panel_bounds(n, height))


def empty_panels(n: int, height: int, dtype: torch.dtype, device: torch.device) -> Panels:
    return [torch.empty(end - start, end, dtype=dtype, device=device) for start, end in panel_bounds(n, height)]


def factor(panels: Panels, progress: Progress = lambda done: None) -> None:
    """Replace the lower half of a symmetric positive definite matrix by its factor L, with A = L L^T.

    Row by row of panels, each from those above it. Raises UserError where the matrix is not positive definite in this
    precision.
    """
    n = panels[-1].shape[1]
    height = len(panels[0])
    for i, panel in enumerate(panels):
        for k, above in enumerate(panels[: i + 1]):
            left, right = k * height, k * height + len(above)
            block = panel[:, left:right]
            if left:
                block.addmm_(panel[:, :left], above[:, :left].mT, alpha=-1)
            if k < i:
                # Solving from the left, with a copy of the diagonal block, takes a third less time than from the right.
                diagonal = above[:, left:right].contiguous()
                block.copy_(torch.linalg.solve_triangular(diagonal, block.mT, upper=False).mT)
            else:
                root, info = torch.linalg.cholesky_ex(block)
                if info.item():
                    raise UserError(
                        f"the {n:,} x {n:,} kernel matrix is not positive definite in {str(panel.dtype)[6:]} (row "
                        f"{left + info.item():,}): use kernel.precision=float64, a larger kernel.gamma, or a "
                        "kernel.ridge such as 1e-4"
                    )
                block.copy_(root)
        progress(((i + 1) / len(panels)) ** 3)


def solve(panels: Panels, right: torch.Tensor) -> torch.Tensor:
    """A^-1 right, from the factor's panels. right: (n, k), of the panels' dtype. Returns a new tensor (n, k)."""
    height = len(panels[0])
    out = right.clone()
    for i, panel in enumerate(panels):
        left = i * height
        rows = out[left : left + len(panel)]
        rows.addmm_(panel[:, :left], out[:left], alpha=-1)
        rows.copy_(torch.linalg.solve_triangular(panel[:, left:].tril(), rows, upper=False))
    for i in reversed(range(len(panels))):
        panel, left = panels[i], i * height
        rows = out[left : left + len(panel)]
        rows.copy_(torch.linalg.solve_triangular(panel[:, left:].tril().mT, rows, upper=True))
        out[:left].addmm_(panel[:, :left].mT, rows, alpha=-1)
    return out


def product(panels: Panels, vectors: torch.Tensor) -> torch.Tensor:
    """A vectors for a symmetric matrix whose lower half the panels hold, before it is factored.

    The blocks on the diagonal must be stored whole. vectors: (n, k), in whose dtype it is computed, a few rows at a
    time. Returns a new tensor (n, k).
    """
    out = torch.zeros_like(vectors)
    for panel in panels:
        end = panel.shape[1]
        first = end - len(panel)
        for top, rows in zip(range(first, end, _ROWS), panel.split(_ROWS), strict=True):
            part, here = rows.to(vectors.dtype), slice(top, top + len(rows))
            out[here] += part @ vectors[:end]
            out[:first] += part[:, :first].mT @ vectors[here]
    return out
