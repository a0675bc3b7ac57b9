"""Theorem 1 (section 4, appendix C) on real images: random labels, represented exactly."""

import time
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure

from fastgen.paper.settings import Settings
from fastgen.paper.studies import Case, Numbers, Row, Study, Tell
from fastgen.report.plots import along_projection
from fastgen.theory.expressivity import DeepFiniteSampleNetwork, FiniteSampleNetwork
from fastgen.theory.points import load_points
from pipelines.corruptions import LabelSpec

_SOURCES = ("mnist", "cifar10")
_DEPTHS = (3, 10, 100)  # layers
_POINTS = 24  # points in the figure
_BLOCK = 5000  # images that are evaluated at a time


def _case(source: str) -> Case:
    def row(targets: str, depth: int) -> Row:
        return Row({"points": source, "targets": targets, "depth": str(depth)})

    rows = [row("random signs", 2), row("random labels", 2), *(row("random labels", depth) for depth in _DEPTHS)]
    return Case(source, rows, {"source": source, "depths": _DEPTHS, "sums": "exact"}, partial(_run, source))


def _run(source: str, settings: Settings, tell: Tell) -> list[Numbers | None]:
    out: list[Numbers | None] = []
    for labels in (LabelSpec(kind="rademacher", seed=settings.seed), LabelSpec(kind="random", seed=settings.seed)):
        points = load_points(settings.data.source(source), labels)
        targets = 2.0 * points.labels - 1 if labels.signs else np.eye(points.classes)[points.labels]
        tell(f"fitting {labels.kind}", 0.0)
        started = time.perf_counter()
        network = FiniteSampleNetwork.fit(points.images, targets, settings.seed)
        seconds = time.perf_counter() - started
        images = torch.from_numpy(points.images)
        shallow = {
            "weights": network.weights,
            "formula": "2n + d" if labels.signs else f"{1 + points.classes}n + d",
            "connections": None,
            "width": len(network.thresholds),
            "smallest_eigenvalue": network.smallest_eigenvalue,
            "largest_weight": network.coefficients.abs().max().item(),
            "samples": len(network.thresholds),
            "dimensions": len(network.direction),
            "manifest_sha256": points.manifest_sha256,
        }
        figure = {"shown": _neighbours(network, images, targets[:, None])} if labels.signs else {}
        out.append({**shallow, **_tested(network, images, targets), "seconds": seconds, **figure})
        if labels.signs:
            continue
        for depth in _DEPTHS:
            if depth > len(network.thresholds) + 1:
                out.append(None)
                continue
            deep = DeepFiniteSampleNetwork(network, depth)
            tell(f"depth {depth}", _DEPTHS.index(depth) / len(_DEPTHS))
            found = _tested(deep, images, targets)
            out.append({**shallow, **found, "connections": deep.connections, "width": deep.width, "seconds": seconds})
    return out


@torch.no_grad()
def _tested(network: torch.nn.Module, images: torch.Tensor, targets: np.ndarray) -> Numbers:
    """The largest error, and the percentage of labels that the largest output, or the output's sign, recovers."""
    outputs = torch.cat([network(part) for part in images.split(_BLOCK)]).numpy()
    wanted = targets.reshape(outputs.shape)
    if outputs.shape[1] == 1:
        recovered = np.sign(outputs[:, 0]) == wanted[:, 0]
    else:
        recovered = outputs.argmax(1) == wanted.argmax(1)
    return {"largest_error": float(np.abs(outputs - wanted).max()), "recovered": 100 * float(recovered.mean())}


@torch.no_grad()
def _neighbours(network: FiniteSampleNetwork, images: torch.Tensor, targets: np.ndarray) -> Numbers:
    """Neighbouring points in the middle of the projection, and the network's function between them."""
    z = torch.cat([part.flatten(1).to(torch.float64) @ network.direction for part in images.split(1000)])
    order = z.argsort()
    middle = order[max(0, (len(order) - _POINTS) // 2) :][:_POINTS]
    at, first = z[middle], float(z[middle[0]])
    grid = torch.linspace(first, float(at[-1]), 2000, dtype=torch.float64)
    grid = torch.cat([grid, at, network.thresholds[(network.thresholds > first) & (network.thresholds < at[-1])]])
    grid = grid.sort().values
    return {
        "points": [(at - first).tolist(), targets[middle.numpy(), 0].tolist()],
        "curve": [(grid - first).tolist(), network.along(grid)[:, 0].tolist()],
    }


def _figures(rows: list[tuple[Row, Numbers]]) -> list[tuple[str, Figure]]:
    panels = {
        row.labels["points"]: (tuple(numbers["shown"]["curve"]), tuple(numbers["shown"]["points"]))
        for row, numbers in rows
        if "shown" in numbers
    }
    title = f"The network with random signs for targets, along {_POINTS} neighbouring images"
    return [(f"{title} of {name}", along_projection({name: panel})) for name, panel in panels.items()]


STUDY = Study(
    "Theorem 1: finite-sample expressivity",
    lambda models: [_case(source) for source in models or _SOURCES],
    {
        "samples": "n",
        "dimensions": "d",
        "weights": "weights",
        "formula": "which are",
        "connections": "connections",
        "width": "width",
        "recovered": "recovered (%)",
        "largest_error": "largest error",
        "smallest_eigenvalue": "smallest eigenvalue",
        "largest_weight": "largest weight",
        "seconds": "seconds to fit",
    },
    ("seed=", "data."),
    notes=(
        "Every image has a label or sign drawn at random, and the network is computed, not trained. n counts "
        "different images. Recovered: by the largest output, or its sign. Smallest eigenvalue: of the triangular "
        "system, min_i (z_i - b_i), in units of the projected bytes.",
        "Depth k (up to n + 1): the same function by k - 1 hidden layers of width O(n / k), evaluated layer by layer, "
        "with float64 passed from each to the next; connections count what is fixed to 1 or -1 and what passes on.",
        "Rounding: sums over units are exact, so the outputs are those of the parameters, which alone are rounded. "
        "Of 8 directions and their opposites the one is taken on which gaps between neighbouring projections grow by "
        "the smallest factor, and the largest error over all points is checked: above 1e-6 of the largest target the "
        "fit is refused. Thresholds lie a quarter of a gap behind the point before them.",
    ),
    figures=_figures,
)
