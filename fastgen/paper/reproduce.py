"""fastgen reproduce: run what is missing of the paper's experiments, and show the paper's numbers beside ours."""

import statistics
from collections import Counter
from pathlib import Path

from fastgen.paper.comparison import Result, comparison
from fastgen.paper.coverage import coverage
from fastgen.paper.experiments import EXPERIMENTS, STUDIES, WHAT_MOVES_IT, Entry, Scope, names
from fastgen.paper.figures import FIGURES
from fastgen.paper.studies import find_study, run_study
from fastgen.report.outcome import finish
from fastgen.report.page import Page
from fastgen.sweeps.executor import Job, found_jobs, run_points
from fastgen.sweeps.grid import Point
from fastgen.sweeps.sweep import LiveTable, tell_failures
from pipelines.errors import UserError, did_you_mean

_SEEDS = ("seed=", "data.labels.seed=", "data.pixels.seed=")


def reproduce(
    name: str,
    settings: list[str],
    *,
    models: list[str] | None = None,
    seeds: tuple[int, ...] | None = None,
    smoke: bool = False,
    jobs: int | None = None,
    root: Path,
    only_show: bool = False,
    command: str,
) -> None:
    """Run what is missing of an experiment, a study or "all", and show it.

    settings: key=value, for all trainings. models, seeds: None for the experiment's own. smoke: the small scale. jobs:
    trainings at a time (None: `default_jobs`). root: finished runs lie in root/runs, and are not repeated. only_show:
    run nothing, show what is there. command: the command line, which the pages repeat. Raises UserError for mistakes,
    and SystemExit(1) at the end when something failed.
    """
    if name in STUDIES:
        for option, given in (("--seeds", seeds), ("--scale", smoke), ("--jobs", jobs)):
            if given:
                raise UserError(f"{option} is for trainings; {name} takes --models, --output and settings")
        finish(run_study(name, models, settings, root, command, only_show), root / f"{name}.html")
        return
    plans = _plans(name, tuple(settings), Scope(models, smoke), seeds)
    points = {point.folder_name: point for rows in plans.values() for _, points in rows for point in points}
    found = found_jobs(points.values(), root / "runs") if only_show else _run(list(points.values()), root, jobs)
    by_folder = {job.folder.name: job for job in found}
    for experiment, rows in plans.items():
        results = [Result(entry, [by_folder[point.folder_name] for point in points]) for entry, points in rows]
        if only_show and not any(job.summary or job.run.lines for result in results for job in result.jobs):
            # Its page may hold what was run with other settings.
            missing = f"nothing of {experiment} with these settings is in {root}"
            if name != "all":
                raise UserError(f"{missing}; give those that it was run with, or leave --show out to run it")
            print(missing)
            continue
        _show(experiment, results, root, command, smoke)
    failed = []
    if name == "all" and not smoke:
        failed = _all_studies(settings, root, command, only_show)
        finish(coverage(root), root / "coverage.html")
    tell_failures(found)
    if failed:
        raise SystemExit(1)


def _plans(
    name: str, settings: tuple[str, ...], scope: Scope, seeds: tuple[int, ...] | None
) -> dict[str, list[tuple[Entry, list[Point]]]]:
    """Experiment -> its rows, each with its trainings. Raises UserError for mistakes."""
    if own := [s for s in settings if s.startswith(_SEEDS)]:
        raise UserError(f"{own[0]}: seeds are given as --seeds 0,1,2, each with its own labelling, order and start")
    if name == "rademacher" and (own := [s for s in settings if s.startswith("data.labels.")]):
        raise UserError(f"{own[0]}: the labels of this experiment are random signs")
    if name == "all":
        paper = [one for one in EXPERIMENTS if EXPERIMENTS[one].of_paper]
        wanted = [one for one in paper if not scope.smoke or EXPERIMENTS[one].smoke]
    elif name in EXPERIMENTS:
        wanted = [name]
    else:
        raise UserError(f"unknown experiment '{name}': {did_you_mean(name, names())}")
    if scope.smoke and not all(EXPERIMENTS[one].smoke for one in wanted):
        raise UserError(f"{name} trains on ImageNet and has no small scale; leave --scale out")
    return {
        one: [
            (entry, [entry.point(seed, settings) for seed in seeds or EXPERIMENTS[one].seeds])
            for entry in EXPERIMENTS[one].entries(scope)
        ]
        for one in wanted
    }


def _all_studies(settings: list[str], root: Path, command: str, only_show: bool) -> list[str]:
    """Compute and show each study with those of the settings that it reads. Returns the names of those that failed."""
    failed = []
    for name in STUDIES:
        own = [setting for setting in settings if setting.startswith(find_study(name).keys)]
        if len(own) < len(settings):
            print(f"{name} does not use {', '.join(s for s in settings if s not in own)}")
        try:
            finish(run_study(name, None, own, root, command, only_show), root / f"{name}.html")
        except UserError as error:
            print(f"{name}: {error}")
            failed += [name] * (not only_show)
    return failed


def _run(points: list[Point], root: Path, jobs: int | None) -> list[Job]:
    with LiveTable(["run"], lambda job: [" ".join((job.point.recipe, *job.point.settings))]) as live:
        return run_points(points, root / "runs", jobs, live.show)


def _show(name: str, results: list[Result], root: Path, command: str, smoke: bool) -> None:
    """Print the table of an experiment, and write it with its plots below `root`."""
    experiment = EXPERIMENTS[name]
    page = Page(experiment.title)
    page.table(*comparison(experiment, results))
    for note in (*experiment.notes, *notes(name, results, smoke)):
        page.text(note)
    for number, (title, figure) in enumerate(FIGURES[name](results) if name in FIGURES else []):
        page.figure(f"{name}-{number}" if number else name, figure, title)
    page.code(command)
    page.text(
        f"Each run: its whole recipe, metrics and manifest are in {root / 'runs'}; minutes are those of one run, of "
        "which several may have shared the machine."
    )
    summaries = [job.summary for result in results for job in result.jobs if job.summary is not None]
    where = Counter(summary.made_by.get("machine", summary.device) for summary in summaries)
    page.text(
        "Run on: " + "; ".join(f"{name} ({count} run{'s' * (count > 1)})" for name, count in where.most_common()) + "."
    )
    finish(page, root / f"{name}.html")


def notes(name: str, results: list[Result], smoke: bool) -> list[str]:
    """What a reader must know: the subset, what failed, and which setting moves an accuracy far from the paper's."""
    out = []
    if smoke:
        out.append("Small scale, so the numbers are not the paper's.")
    data = [result.jobs[0].point.load().data for result in results]
    limits = {("data.limit", each.limit) for each in data} | {("data.limit_test", each.limit_test) for each in data}
    limited = sorted(f"{key}={limit}" for key, limit in limits if limit is not None)
    if limited:
        out.append(f"Not the whole set: {', '.join(limited)}.")
    out += [
        f"{job.point.recipe} {' '.join(job.point.settings)}: {job.state}, {job.problem}"
        for result in results
        for job in result.jobs
        if job.problem
    ]
    recipes = set() if limited else {result.entry.recipe for result in results if _far(result)}
    return out + sorted(moves for recipe, moves in WHAT_MOVES_IT.items() if recipe in recipes)


def _far(result: Result) -> bool:
    """Whether an accuracy is more than 1.5 points from the paper's."""
    for key, printed in result.entry.paper.items():
        try:
            if abs(statistics.mean(result.values(key)) - float(printed)) > 1.5:
                return True
        except (statistics.StatisticsError, ValueError):
            continue
    return False
