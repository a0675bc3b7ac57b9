"""Section 5 of the paper: SGD from zero finds the solution of minimum norm of a linear model."""

from dataclasses import asdict, replace
from functools import partial

import torch
from matplotlib.figure import Figure

from fastgen.paper.settings import Settings
from fastgen.paper.studies import Case, Numbers, Row, Study, Tell
from fastgen.report.plots import against_epochs
from fastgen.theory.minimum_norm import LinearProblem, standardised
from fastgen.theory.points import load_points
from pipelines.corruptions import LabelSpec

_SAMPLES = {"mnist": 200, "cifar10": 500}  # images: well below the dimensions, so that plain SGD converges
_OTHERS = 100  # images of other sources
_SOLUTIONS = ("pseudo-inverse", "SGD from zero", "SGD from random weights")


def _case(source: str) -> Case:
    rows = [Row({"points": source, "solution": solution}) for solution in _SOLUTIONS]
    samples = _SAMPLES.get(source, _OTHERS)
    return Case(source, rows, {"source": source, "samples": samples}, partial(_run, source, samples))


def _run(source: str, samples: int, settings: Settings, tell: Tell) -> list[Numbers]:
    data = settings.data if settings.data.limit is not None else replace(settings.data, limit=samples)
    points = load_points(data.source(source), LabelSpec())
    labels, test_labels = torch.from_numpy(points.labels), torch.from_numpy(points.test_labels)
    problem = LinearProblem(
        standardised(points.images), labels, standardised(points.test_images), test_labels, points.classes
    )
    zero = torch.zeros_like(problem.minimum)
    fits = [problem.measure(problem.minimum, settings.seed)]
    for weights, solution in ((zero, _SOLUTIONS[1]), (problem.start(fits[0].norm, settings.seed), _SOLUTIONS[2])):
        fits.append(problem.sgd(weights, settings.sgd.epochs, settings.seed, partial(tell, solution)))
    n, d = problem.points.shape
    more = {"samples": n, "dimensions": d, "manifest_sha256": points.manifest_sha256}
    return [{key: value for key, value in asdict(fit).items() if key != "weights"} | more for fit in fits]


def _figures(rows: list[tuple[Row, Numbers]]) -> list[tuple[str, Figure]]:
    named = {f"{row.labels['points']}, {row.labels['solution']}": numbers for row, numbers in rows}
    runs = {name: numbers for name, numbers in named.items() if numbers["epochs"]}
    minima = {name: numbers["norm"] for name, numbers in named.items() if not numbers["epochs"]}
    distances = {name: (numbers["epochs"], numbers["distances"]) for name, numbers in runs.items()}
    norms = {name: (numbers["epochs"], numbers["norms"]) for name, numbers in runs.items()}
    distance = against_epochs(distances, "relative distance", log=True)
    return [
        ("Distance from the solution of minimum norm, over its norm", distance),
        ("Norm of the weights", against_epochs(norms, "norm", log=False, level=minima)),
    ]


STUDY = Study(
    "Section 5: SGD and the solution of minimum norm",
    lambda models: [_case(source) for source in models or _SAMPLES],
    {
        "samples": "samples",
        "dimensions": "dimensions",
        "norm": "norm",
        "distance": "distance",
        "outside": "outside the span",
        "residual": "largest residual",
        "test_error": "test error (%)",
        "hessian_change": "Hessian's change",
    },
    ("seed=", "data.", "sgd."),
    notes=(
        "A linear model with squared loss on one-hot labels, fewer images than dimensions, pixels standardised "
        "image by image. Distance: from the solution of minimum norm, and outside the span: the part of the "
        "weights orthogonal to all images, both over that solution's norm.",
        "SGD takes one image a step and no momentum; from zero it never leaves the span. Random weights start with "
        "the norm of the minimum solution, and keep their part outside the span for ever.",
        "Hessian's change: the largest |H(w) v - H(0) v| / |H(0) v| over random directions v, by differentiating "
        "twice at the row's weights: curvature is the same at all solutions.",
    ),
    figures=_figures,
)
