"""fastgen reproduce: run what is missing of the paper's experiments, and show the paper's numbers beside ours."""

import shlex
import statistics
from pathlib import Path

from matplotlib.figure import Figure

from fastgen.paper import minnorm, table3, theorem1  # noqa: F401 (they add themselves to STUDIES)
from fastgen.paper.comparison import Result, comparison
from fastgen.paper.experiments import EXPERIMENTS, LEVELS, SMOKE_SAMPLES, WHAT_MOVES_IT, Entry, Options
from fastgen.paper.studies import STUDIES, run_study
from fastgen.report.outcome import finish
from fastgen.report.page import Page
from fastgen.report.plots import Series, accuracy_curves, against_corruption, loss_curves
from fastgen.runs.summary import metric
from fastgen.sweeps.executor import Job, found_jobs, run_points
from fastgen.sweeps.grid import Point
from fastgen.sweeps.sweep import LiveTable, job_count, split_options, tell_failures
from pipelines.errors import UserError

_SEEDS = ("seed=", "data.labels.seed=", "data.pixels.seed=")
_OPTIONS = ("--models", "--seeds", "--scale", "--jobs", "--output")


def reproduce(arguments: list[str]) -> None:
    """NAME | all [--models a,b] [--seeds 0,1,2] [--scale full|smoke] [--jobs N] [--output FOLDER] [--show] [key=value].

    Finished runs are not repeated: they lie in FOLDER/runs, named after what they are, and experiments share them.
    --show: run nothing, show what is there.
    Raises UserError for mistakes, and SystemExit(1) at the end when runs failed.
    """
    command = shlex.join(["fastgen", "reproduce", *arguments])
    only_show = "--show" in arguments
    arguments, given = split_options([argument for argument in arguments if argument != "--show"], *_OPTIONS)
    names = [argument for argument in arguments if "=" not in argument]
    settings = tuple(argument for argument in arguments if "=" in argument)
    if len(names) != 1:
        raise UserError(f"name one experiment: {', '.join((*EXPERIMENTS, *STUDIES))}, or all")
    if given["--scale"] not in ("", "full", "smoke"):
        raise UserError(f"--scale={given['--scale']} must be full or smoke")
    options = Options(given["--models"].split(",") if given["--models"] else None, given["--scale"] == "smoke")
    root = Path(given["--output"] or "reproduce")
    if names[0] in STUDIES:
        for option in ("--seeds", "--scale", "--jobs"):
            if given[option]:
                raise UserError(f"{option} is for trainings; {names[0]} takes --models, --output and settings")
        finish(run_study(names[0], options.models, list(settings), root, command, only_show), root / f"{names[0]}.html")
        return
    if own := [setting for setting in settings if setting.startswith(_SEEDS)]:
        raise UserError(
            f"{own[0]}: seeds are given as --seeds 0,1,2, each with a labelling, order and start of its own"
        )
    if names[0] == "rademacher" and (own := [s for s in settings if s.startswith("data.labels.")]):
        raise UserError(f"{own[0]}: the labels of this experiment are random signs")
    wanted = [name for name in EXPERIMENTS if not options.smoke or EXPERIMENTS[name].smoke]
    wanted = wanted if names == ["all"] else names
    if options.smoke and not all(EXPERIMENTS[name].smoke for name in wanted):
        raise UserError(f"{names[0]} trains on ImageNet and has no small scale; leave --scale out")
    entries = {name: EXPERIMENTS[name].entries(options) for name in wanted}
    seeds = {name: _seeds(given["--seeds"]) if given["--seeds"] else EXPERIMENTS[name].seeds for name in wanted}
    points = {
        point.folder_name: point
        for name in wanted
        for e in entries[name]
        for point in _points(e, seeds[name], settings)
    }
    if only_show:
        jobs = found_jobs(points.values(), root / "runs")
    else:
        jobs = _run(list(points.values()), root, job_count(given["--jobs"]))
    by_folder = {job.folder.name: job for job in jobs}
    for name in wanted:
        results = [
            Result(e, [by_folder[p.folder_name] for p in _points(e, seeds[name], settings)]) for e in entries[name]
        ]
        _show(name, results, root, command, options.smoke)
    failed = [] if names != ["all"] or options.smoke else _all_studies(settings, root, command, only_show)
    tell_failures(jobs)
    if failed:
        raise SystemExit(1)


def _all_studies(settings: tuple[str, ...], root: Path, command: str, only_show: bool) -> list[str]:
    """Each with those of the settings that it reads; the names of those that failed."""
    failed = []
    for name in STUDIES:
        own = [setting for setting in settings if setting.startswith(STUDIES[name].keys)]
        if len(own) < len(settings):
            print(f"{name} does not use {', '.join(s for s in settings if s not in own)}")
        try:
            finish(run_study(name, None, own, root, command, only_show), root / f"{name}.html")
        except UserError as error:
            print(f"{name}: {error}")
            failed += [name] * (not only_show)
    return failed


def _run(points: list[Point], root: Path, at_a_time: int) -> list[Job]:
    with LiveTable(["run"], lambda job: [" ".join((job.point.recipe, *job.point.settings))]) as live:
        return run_points(points, root / "runs", at_a_time, live.show)


def _seeds(text: str) -> tuple[int, ...]:
    seeds = text.split(",")
    if not all(seed.isdigit() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds={text} must be different whole numbers, such as 0,1,2")
    return tuple(int(seed) for seed in seeds)


def _points(entry: Entry, seeds: tuple[int, ...], settings: tuple[str, ...]) -> list[Point]:
    return [entry.point(seed, settings) for seed in seeds]


def _show(name: str, results: list[Result], root: Path, command: str, smoke: bool) -> None:
    """Print the table of an experiment, and write it with its plots below `root`."""
    experiment = EXPERIMENTS[name]
    page = Page(experiment.title)
    page.table(*comparison(experiment, results))
    for note in (*experiment.notes, *notes(name, results, smoke)):
        page.text(note)
    for title, figure in FIGURES[name](results) if name in FIGURES else []:
        page.figure(name, figure, title)
    page.code(command)
    page.text(
        f"Each run: its whole recipe, metrics and manifest are in {root / 'runs'}; minutes are those of one run, of "
        "which several may have shared the machine."
    )
    finish(page, root / f"{name}.html")


def notes(name: str, results: list[Result], smoke: bool) -> list[str]:
    """What a reader must know about the table: the subset, what failed, and what moves a figure that is far away."""
    out = []
    if smoke:
        out.append(
            f"Small scale: the first {SMOKE_SAMPLES:,} training and test samples, so the numbers are not the paper's."
        )
    settings = {s for r in results for s in (*r.entry.settings, *r.jobs[0].point.settings)}
    limited = sorted(s for s in settings if s.startswith("data.limit"))
    if limited and not smoke:
        out.append(f"Not the whole set: {', '.join(limited)}.")
    out += [
        f"{job.point.recipe} {' '.join(job.point.settings)}: {job.state}, {job.problem}"
        for result in results
        for job in result.jobs
        if job.problem
    ]
    far = {
        moves
        for result in results
        for (recipe, moves) in WHAT_MOVES_IT.items()
        if not limited and result.entry.recipe == recipe and _far(result)
    }
    return out + sorted(far)


def _far(result: Result) -> bool:
    """Whether a figure is more than 1.5 points from the paper's."""
    for key, printed in result.entry.paper.items():
        try:
            if abs(statistics.mean(result.values(key)) - float(printed)) > 1.5:
                return True
        except (statistics.StatisticsError, ValueError):
            continue
    return False


# ------------------------------------------------------------ figures


def _fig1a(results: list[Result]) -> list[tuple[str, Figure]]:
    curves = {}
    for result in results:
        steps, losses = result.jobs[0].run.curve("train_running_loss_nats", "step")
        if steps:
            curves[result.entry.labels["condition"]] = (steps, losses)
    return [("Training loss (average over steps) against steps, seed 0", loss_curves(curves))]


def _fig1b(results: list[Result]) -> list[tuple[str, Figure]]:
    """Relative to the same seed's time at level 0, as the paper draws it."""
    series = {}
    for model, by_level in _by_model(results).items():
        base = [s.interpolation_epoch if (s := job.summary) else None for job in by_level[0.0].jobs]
        values = [
            [
                summary.interpolation_epoch / first
                for job, first in zip(by_level[level].jobs, base, strict=True)
                if first and (summary := job.summary) and summary.interpolation_epoch
            ]
            for level in LEVELS
        ]
        series[model] = _series(values)
    return [("Time to fit the training set, relative to true labels", against_corruption(series, "time to overfit"))]


def _fig1c(results: list[Result]) -> list[tuple[str, Figure]]:
    series = {
        model: _series([[100 - top1 for top1 in by_level[level].values("test_top1")] for level in LEVELS])
        for model, by_level in _by_model(results).items()
    }
    return [("Test error when the training set is fitted, percent", against_corruption(series, "test error (%)"))]


def _fig2(results: list[Result]) -> list[tuple[str, Figure]]:
    curves = {
        result.entry.labels["curve"]: (
            result.jobs[0].run.curve(metric("train_top1"), "step"),
            result.jobs[0].run.curve(metric("test_top1"), "step"),
        )
        for result in results
        if result.summaries
    }
    return [("Accuracy against steps, seed 0", accuracy_curves(curves))]


def _by_model(results: list[Result]) -> dict[str, dict[float, Result]]:
    out: dict[str, dict[float, Result]] = {}
    for result in results:
        assert result.entry.level is not None
        out.setdefault(result.entry.labels["model"], {})[result.entry.level] = result
    return out


def _series(values: list[list[float]]) -> Series:
    present = [(level, found) for level, found in zip(LEVELS, values, strict=True) if found]
    return Series(
        x=[level for level, _ in present],
        mean=[statistics.mean(found) for _, found in present],
        low=[min(found) for _, found in present],
        high=[max(found) for _, found in present],
    )


FIGURES = {"fig1a": _fig1a, "fig1b": _fig1b, "fig1c": _fig1c, "fig2a": _fig2, "fig2b": _fig2}
