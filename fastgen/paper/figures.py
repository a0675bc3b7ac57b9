"""The paper's figures, drawn from the results of an experiment."""

import statistics

from matplotlib.figure import Figure

from fastgen.paper.comparison import Result
from fastgen.paper.experiments import LEVELS
from fastgen.report.plots import Series, accuracy_curves, against_corruption, loss_curves
from fastgen.runs.summary import metric


def _fig1a(results: list[Result]) -> list[tuple[str, Figure]]:
    curves = {
        result.entry.labels["condition"]: curve
        for result in results
        if (curve := result.jobs[0].run.curve("train_running_loss_nats", "step"))[0]
    }
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
