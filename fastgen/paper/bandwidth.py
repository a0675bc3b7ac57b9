"""How the kernels of table 3 got their bandwidths: by their error on training samples that are held out."""

import math
from dataclasses import replace
from functools import partial

import torch

from fastgen.paper.settings import Settings
from fastgen.paper.studies import Case, Numbers, Row, Study, Tell
from fastgen.paper.table3 import (
    FILTERS,
    MODELS,
    compute_device,
    layer_spec,
    model_features,
    model_points,
    refuse_iterative,
)
from fastgen.theory.kernels import KernelResult, KernelSpec, kernel_machine
from fastgen.theory.points import Points
from fastgen.theory.random_features import FeatureProducts
from pipelines.errors import UserError
from pipelines.randomness import permutation

_SAMPLES = 15_000  # of the training set, drawn at random, of which a third is held out
_TOLERANCE = 1e-5  # relative residual: errors need fewer digits than norms and residuals that are shown as exact
# Steps by factors of 2, to both sides of where the error is smallest.
GAMMAS = {
    "mnist": (0.005, 0.01, 0.02, 0.04, 0.08),
    "mnist_gabor": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0),
    "cifar10": (0.0025, 0.005, 0.01, 0.02, 0.04),
    "cifar10_convnet": (
        0.002,
        0.004,
        0.008,
        0.016,
        0.03,
        0.06,
        0.125,
        0.25,
        0.5,
        1.0,
        2.0,
        4.0,
    ),  # in units of 1 / mean squared distance
}
RIDGES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def choose_gamma(gammas: tuple[float, ...], mistakes: list[set[int]]) -> int:
    """Index of the smallest gamma whose error is at most one standard error above the smallest error.

    mistakes: the held-out samples that each gets wrong. Of kernels that are equally accurate as far as the samples can
    tell it takes the smoothest, as Breiman, Friedman, Olshen and Stone, "Classification and regression trees", 1984,
    section 3.4.3, take the smallest tree. The standard error is that of the difference between two kernels, which most
    samples do not enter, since both get them right or both wrong; of the error itself it is several times as large.
    """
    best = min(mistakes, key=len)
    alike = [i for i, wrong in enumerate(mistakes) if len(wrong) - len(best) <= standard_error(wrong, best)]
    return min(alike, key=lambda i: gammas[i])


def standard_error(first: set[int], second: set[int]) -> float:
    """Of the difference between the numbers of mistakes on the same samples, in samples (McNemar 1947): the root of the
    number of samples that one of two kernels gets wrong and the other right."""
    return math.sqrt(len(first ^ second))


def split(points: Points) -> Points:
    """Of the training set _SAMPLES at random, or all of fewer; a third of them in the place of the test set."""
    drawn = permutation(len(points.labels), 0, "table3/held out")[:_SAMPLES]
    fitted, held_out = drawn[len(drawn) // 3 :], drawn[: len(drawn) // 3]
    if not len(held_out):
        raise UserError(f"data.limit={len(drawn)} leaves no sample to hold out: set it to 3 or more")
    return replace(
        points,
        images=points.images[fitted],
        labels=points.labels[fitted],
        test_images=points.images[held_out],
        test_labels=points.labels[held_out],
    )


def _run(model: str, settings: Settings, tell: Tell) -> list[Numbers]:
    points, on = split(model_points(model, settings)), compute_device()
    spec = replace(settings.kernel.spec(1.0, 0.0, on.type == "cuda"), tolerance=_TOLERANCE)
    if model == "cifar10_convnet":
        return _run_convolution(points, settings, spec, tell)
    train, test = (model_features(model, images, on) for images in (points.images, points.test_images))
    labels, truth = (torch.from_numpy(found).to(on) for found in (points.labels, points.test_labels))
    results = [
        kernel_machine(train, labels, test, truth, points.classes, replace(spec, gamma=gamma), tell)
        for gamma in GAMMAS[model]
    ]
    return _numbers(results, [(gamma, 0.0) for gamma in GAMMAS[model]], [_best(model, results)], len(truth))


def _run_convolution(points: Points, settings: Settings, spec: KernelSpec, tell: Tell) -> list[Numbers]:
    refuse_iterative(settings)
    gammas = GAMMAS["cifar10_convnet"]
    products = FeatureProducts(points, layer_spec(settings), spec, len(gammas) + 1, compute_device(), tell)
    results = [products.solve(gamma, [0.0], tell)[0] for gamma in gammas]
    chosen = _best("cifar10_convnet", results)
    ridged = products.solve(gammas[chosen], list(RIDGES), tell)
    best = min(range(len(RIDGES)), key=lambda i: ridged[i].test_error)
    machines = [*((gamma, 0.0) for gamma in gammas), *((gammas[chosen], ridge) for ridge in RIDGES)]
    held_out = len(points.test_labels)
    return [
        *_numbers(results, machines[: len(gammas)], [chosen], held_out),
        *_numbers(ridged, machines[len(gammas) :], [best], held_out),
    ]


def _best(model: str, results: list[KernelResult]) -> int:
    return choose_gamma(GAMMAS[model], [set(result.mistakes) for result in results])


def _numbers(
    results: list[KernelResult], machines: list[tuple[float, float]], chosen: list[int], held_out: int
) -> list[Numbers]:
    best = min((set(result.mistakes) for result in results), key=len)
    return [
        {
            "gamma": gamma,
            "ridge": ridge,
            "held_out_error": result.test_error,
            "mistakes": len(result.mistakes),
            "above_the_best": len(result.mistakes) - len(best),
            "standard_error": standard_error(set(result.mistakes), best),
            "norm": result.norm,
            "samples": result.samples,
            "held_out": held_out,
            "residual": result.residual,
            "solver": result.solver,
            "chosen": "chosen" if i in chosen else "",
        }
        for i, (result, (gamma, ridge)) in enumerate(zip(results, machines, strict=True))
    ]


def _cases(models: list[str] | None) -> list[Case]:
    cases = []
    for model in MODELS if models is None else models:
        if model not in MODELS:
            raise UserError(f"--models has '{model}', and table3_bandwidth has {', '.join(MODELS)}")
        ridges = RIDGES if model == "cifar10_convnet" else ()
        rows = [Row({"row": model}) for _ in (*GAMMAS[model], *ridges)]
        described = {"model": model, "gammas": GAMMAS[model], "ridges": ridges, "samples": _SAMPLES, "rule": "paired"}
        if ridges:
            described["filters"] = FILTERS
        cases.append(Case(model, rows, described, partial(_run, model)))
    return cases


STUDY = Study(
    "Table 3: bandwidths, chosen on held-out training samples",
    _cases,
    {
        "gamma": "gamma",
        "ridge": "l2",
        "held_out_error": "held-out error (%)",
        "above_the_best": "mistakes above the best",
        "standard_error": "standard error",
        "norm": "norm",
        "chosen": "chosen",
        "samples": "samples",
        "held_out": "held out",
        "residual": "largest residual",
        "solver": "solver",
    },
    ("seed=", "data.", "kernel.filters", "kernel.precision", "kernel.panel", "kernel.solver", "kernel.memory_gb"),
    (
        "The rule: of the bandwidths whose held-out mistakes are at most one standard error (of the difference) above "
        "the fewest, the smallest gamma, which is the smoothest kernel; l2, at that gamma, is the one of the fewest "
        "mistakes. The test set is not read. Mistakes above the best and their standard error, in samples: among the "
        "rows without l2, and among those with it.",
        "Samples are drawn from the training set at random, a third of them held out. Norm: of the solution in the "
        "kernel's space, sqrt(sum over classes of |f|^2); it grows with the samples, so table 3's are larger.",
    ),
)
