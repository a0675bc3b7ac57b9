"""The paper's theory as experiments of `fastgen reproduce`: cases that are computed once, and shown as a table."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fastgen.paper.numbers import table
from fastgen.paper.page import Page
from fastgen.terminal import console
from fastgen.theory.features import ConvolutionSpec, GaborSpec, gabor, pixels
from fastgen.theory.kernels import KernelResult, kernel_machine
from fastgen.theory.points import Points, load_points
from fastgen.theory.random_features import convolution_machine
from fastgen.theory.settings import Settings
from fastgen.training.rundir import write_atomically
from pipelines.corruptions import LabelSpec
from pipelines.registry import Registry, UserError

Told = Callable[[str, float], None]  # what is being done, and the fraction of it that is
Measured = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """labels: column -> text. paper: key of what is measured -> the paper's number."""

    labels: dict[str, str]
    paper: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What is computed together. run: gives what was measured for each of `rows`, as JSON can hold it.

    described: all that decides the outcome, beside the settings.
    """

    name: str
    rows: list[Row]
    described: dict[str, Any]
    run: Callable[[Settings, Told], list[Measured]]


@dataclass(frozen=True)
class Study:
    """title: what the paper calls it. columns: key of what is measured -> heading. figures: (title, figure) for each
    plot, from all rows with what was measured."""

    title: str
    cases: Callable[[list[str] | None], list[Case]]
    columns: dict[str, str]
    notes: tuple[str, ...] = ()
    figures: Callable[[list[tuple[Row, Measured]]], list[tuple[str, Figure]]] = lambda rows: []


STUDIES: Registry[Study] = Registry("experiment")


def run_study(name: str, models: list[str] | None, overrides: list[str], root: Path, command: str) -> Page:
    """Compute what is missing of a study and return its page. Finished cases lie in `root`/theory.

    Raises UserError for mistakes; a case that fails with one is told, after the others are done, as SystemExit(1).
    """
    study, settings = STUDIES[name], Settings.parse(overrides)
    shown: list[tuple[Row, Measured]] = []
    for case in study.cases(models):
        text = json.dumps({"case": case.described, "settings": asdict(settings)}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        path = root / "theory" / f"{name}-{case.name}-{digest}.json"
        if not path.is_file():
            started = time.perf_counter()
            measured = _with_progress(case, settings)
            path.parent.mkdir(parents=True, exist_ok=True)
            document = {**json.loads(text), "seconds": time.perf_counter() - started, "measured": measured}
            write_atomically(path, json.dumps(document, indent=1) + "\n")
        shown += zip(case.rows, json.loads(path.read_text())["measured"], strict=True)
    page = Page(study.title)
    page.table(*comparison(study, shown))
    for note in study.notes:
        page.text(note)
    if settings.data.limit is not None:
        page.text(f"Not the whole training set: data.limit={settings.data.limit}.")
    for title, figure in study.figures(shown):
        page.figure(f"{name}-{len(page.figures)}" if page.figures else name, figure, title)
    page.code(command)
    return page


def comparison(study: Study, shown: list[tuple[Row, Measured]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what each row is, and the paper's numbers beside ours."""
    printed = {key for row, _ in shown for key in row.paper}
    header = list(shown[0][0].labels)
    for key, heading in study.columns.items():
        header += [f"{heading}, paper", f"{heading}, ours"] if key in printed else [heading]
    rows = []
    for row, measured in shown:
        cells = list(row.labels.values())
        for key in study.columns:
            cells += ([row.paper.get(key, "")] if key in printed else []) + [_text(measured[key])]
        rows.append(cells)
    return header, rows


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if 0.01 <= abs(value) < 1e6 or value == 0 else f"{value:.1e}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _with_progress(case: Case, settings: Settings) -> list[Measured]:
    """Run it, with a bar on a terminal and a line for each thing that it does elsewhere."""
    screen = console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(case.name, total=1.0)
        said = set()

        def told(doing: str, done: float) -> None:
            bar.update(task, description=f"{case.name}: {doing}", completed=done)
            if not screen.is_terminal and doing not in said:
                said.add(doing)
                print(f"{case.name}: {doing}", flush=True)

        return case.run(settings, told)


def chosen(cases: dict[str, Case], models: list[str] | None) -> list[Case]:
    """Those that --models names, or all."""
    for model in models or []:
        if model not in cases:
            raise UserError(f"--models has '{model}', and this experiment has {', '.join(cases)}")
    return [case for name, case in cases.items() if models is None or name in models]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ------------------------------------------------------------ table 3

# Bandwidths, chosen on 5,000 (MNIST) or 2,000 (CIFAR-10) training samples held out from 8,000 others.
_MNIST_GAMMA = 0.02  # for pixels in [0, 1]
_GABOR_GAMMA = 1.0
_CIFAR_GAMMA = 0.01
_CONVOLUTION_GAMMA = 1.0  # in units of the reciprocal mean squared distance
_RIDGE = 0.1
_FILTERS = 2000  # what a machine with two cores computes in a quarter of an hour; the paper has 32,000


def _pixel_row(points: Points, settings: Settings, gamma: float, told: Told) -> list[Measured]:
    return [_exact(pixels(points.images), pixels(points.test_images), points, settings, gamma, told)]


def _gabor_row(points: Points, settings: Settings, gamma: float, told: Told) -> list[Measured]:
    started = time.perf_counter()
    told("wavelets", 0.0)
    train, test = (gabor(images, GaborSpec(), device()) for images in (points.images, points.test_images))
    seconds = time.perf_counter() - started
    measured = _exact(train, test, points, settings, gamma, told)
    return [{**measured, "seconds": seconds + measured["seconds"]}]


def _exact(
    train: torch.Tensor, test: torch.Tensor, points: Points, settings: Settings, gamma: float, told: Told
) -> Measured:
    on = device()
    labels, truth = (torch.from_numpy(found).to(on) for found in (points.labels, points.test_labels))
    spec = settings.kernel.spec(gamma, 0.0, on.type == "cuda")
    result = kernel_machine(train.to(on), labels, test.to(on), truth, points.classes, spec, told)
    return _measured(result, points, spec.gamma, spec.ridge)


def _measured(result: KernelResult, points: Points, gamma: float, ridge: float) -> Measured:
    return {**asdict(result), "gamma": gamma, "ridge": ridge, "manifest_sha256": points.manifest_sha256}


def _convolution_rows(settings: Settings, ridges: list[float], told: Told) -> list[Measured]:
    points = load_points(settings.data.source("cifar10"), LabelSpec())
    on = device()
    layer = ConvolutionSpec(filters=settings.kernel.filters or _FILTERS, seed=settings.seed)
    spec = settings.kernel.spec(_CONVOLUTION_GAMMA, 0.0, on.type == "cuda")
    ridges = [ridge if settings.kernel.ridge is None or not ridge else settings.kernel.ridge for ridge in ridges]
    results = convolution_machine(points, layer, spec, ridges, on, told)
    return [
        {**_measured(result, points, spec.gamma, ridge), "filters": layer.filters}
        for result, ridge in zip(results, ridges, strict=True)
    ]


def _table3(models: list[str] | None) -> list[Case]:
    rows = {
        (row["dataset"], row["preprocessing"], row["regularisation"]): Row(
            {name: row[name].replace("_", " ") for name in ("dataset", "preprocessing", "regularisation")},
            {"test_error": row["test_error"]},
        )
        for row in table(3)
    }

    def single(key: tuple[str, str, str], gamma: float, features: Callable[..., list[Measured]]) -> Case:
        def run(settings: Settings, told: Told) -> list[Measured]:
            found = features(load_points(settings.data.source(key[0]), LabelSpec()), settings, gamma, told)
            return [{**measured, "filters": None} for measured in found]

        row = rows[key]
        norms = {("mnist", "none"): "about 220", ("mnist", "gabor_filters"): "about 390"}
        row.paper.update({"norm": norm} if (norm := norms.get(key[:2])) else {})
        described = {"key": key, "gamma": gamma, "wavelets": asdict(GaborSpec()) if features is _gabor_row else None}
        return Case("-".join(part for part in key if part != "none"), [row], described, run)

    convolution = [rows["cifar10", "random_convnet", kind] for kind in ("none", "l2")]
    described = {"gamma": _CONVOLUTION_GAMMA, "ridge": _RIDGE, "layer": asdict(ConvolutionSpec(filters=_FILTERS))}
    cases = {
        "mnist": single(("mnist", "none", "none"), _MNIST_GAMMA, _pixel_row),
        "mnist_gabor": single(("mnist", "gabor_filters", "none"), _GABOR_GAMMA, _gabor_row),
        "cifar10": single(("cifar10", "none", "none"), _CIFAR_GAMMA, _pixel_row),
        "cifar10_convnet": Case(
            "cifar10-random_convnet",
            convolution,
            described,
            lambda settings, told: _convolution_rows(settings, [0.0, _RIDGE], told),
        ),
    }
    return chosen(cases, models)


STUDIES.add(
    "table3",
    Study(
        "Table 3: Gaussian kernels, solved exactly",
        _table3,
        {
            "test_error": "test error (%)",
            "norm": "norm",
            "samples": "samples",
            "filters": "filters",
            "gamma": "gamma",
            "ridge": "l2",
            "residual": "largest residual",
            "solver": "solver",
            "seconds": "seconds",
            "peak_gb": "peak GB",
        },
        (
            "The paper solves MNIST's 60,000 equations in under 3 minutes on 24 cores with 256 GB.",
            "Norm: of the solution in the kernel's space, sqrt(sum over classes of |f|^2). Residual: the largest "
            "difference between two sides of 1,024 of the equations, drawn at random. Seconds: of the whole row, "
            "features included; the rows of the random convnet share one kernel matrix.",
        ),
    ),
)
