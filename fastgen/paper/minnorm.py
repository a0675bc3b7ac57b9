"""Section 5 of the paper: SGD from zero finds the solution of minimum norm of a linear model."""

from dataclasses import asdict, replace

import torch
from matplotlib.figure import Figure

from fastgen.paper.settings import Settings
from fastgen.paper.studies import Case, Measured, Row, Study, Told
from fastgen.report.plots import against_epochs
from fastgen.theory.minimum_norm import Fit, LinearProblem, standardised
from fastgen.theory.points import load_points
from pipelines.corruptions import LabelSpec

_SAMPLES = {"mnist": 200, "cifar10": 500}  # well below the dimensions, so that plain SGD arrives
_OTHERS = 100
_SOLUTIONS = ("pseudo-inverse", "SGD from zero", "SGD from random weights")


def _cases(models: list[str] | None) -> list[Case]:
    return [_case(source) for source in models or _SAMPLES]


def _case(source: str) -> Case:
    rows = [Row({"points": source, "solution": solution}) for solution in _SOLUTIONS]
    samples = _SAMPLES.get(source, _OTHERS)
    described = {"source": source, "samples": samples}
    return Case(source, rows, described, lambda settings, told: _run(source, samples, settings, told))


def _run(source: str, samples: int, settings: Settings, told: Told) -> list[Measured]:
    data = settings.data if settings.data.limit is not None else replace(settings.data, limit=samples)
    points = load_points(data.source(source), LabelSpec())
    labels, test_labels = torch.from_numpy(points.labels), torch.from_numpy(points.test_labels)
    problem = LinearProblem(
        standardised(points.images), labels, standardised(points.test_images), test_labels, points.classes
    )
    zero = torch.zeros_like(problem.minimum)
    fits = [problem.measure(problem.minimum, settings.seed)]
    for weights, solution in ((zero, _SOLUTIONS[1]), (problem.start(fits[0].norm, settings.seed), _SOLUTIONS[2])):

        def progress(done: float, solution: str = solution) -> None:
            told(solution, done)

        fits.append(problem.sgd(weights, settings.sgd.epochs, settings.seed, progress))
    n, d = problem.points.shape
    return [{**_as_json(fit), "samples": n, "dimensions": d, "manifest_sha256": points.manifest_sha256} for fit in fits]


def _as_json(fit: Fit) -> Measured:
    return {key: value for key, value in asdict(fit).items() if key != "weights"}


def _figures(shown: list[tuple[Row, Measured]]) -> list[tuple[str, Figure]]:
    named = {f"{row.labels['points']}, {row.labels['solution']}": measured for row, measured in shown}
    runs = {name: measured for name, measured in named.items() if measured["epochs"]}
    minima = {name: measured["norm"] for name, measured in named.items() if not measured["epochs"]}
    distances = {name: (measured["epochs"], measured["distances"]) for name, measured in runs.items()}
    norms = {name: (measured["epochs"], measured["norms"]) for name, measured in runs.items()}
    return [
        (
            "Distance from the solution of minimum norm, over its norm",
            against_epochs(distances, "relative distance", log=True),
        ),
        ("Norm of the weights", against_epochs(norms, "norm", log=False, level=minima)),
    ]


STUDY = Study(
    "Section 5: SGD and the solution of minimum norm",
    _cases,
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
