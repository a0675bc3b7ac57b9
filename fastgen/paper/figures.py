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
    """Relative to the same seed's time at level 0, as the paper draws it.

    A run that ended unfitted counts with the epochs that it trained, and its point is drawn as a lower bound. Where a
    run at level 0 is not there or was not fitted, nothing can be relative to it: then all are drawn in epochs.
    """
    by_model = _by_model(results)
    based = all(job.summary and job.summary.fitted_epoch for levels in by_model.values() for job in levels[0.0].jobs)
    series = {}
    for model, by_level in by_model.items():
        bases = [job.summary.fitted_epoch if based and job.summary else 1 for job in by_level[0.0].jobs]
        values, above = [], []
        for level in LEVELS:
            found = [(s, base) for job, base in zip(by_level[level].jobs, bases, strict=True) if (s := job.summary)]
            values.append([(s.fitted_epoch or s.epochs) / (base or 1) for s, base in found])
            above.append(any(s.fitted_epoch is None for s, _ in found))
        series[model] = _series(values, above)
    percent = " and ".join(sorted({f"{s.fitted_at:g}" for result in results for s in result.summaries})) or "100"
    title = f"Time until {percent} % of the training set is fitted"
    limits = sorted({f"{s.epochs:g}" for result in results for s in result.summaries if s.fitted_epoch is None})
    title += f"; hollow with an arrow: not fitted within {' or '.join(limits)} epochs" if limits else ""
    if based:
        return [(f"{title}, relative to true labels", against_corruption(series, "time to overfit"))]
    return [(title, against_corruption(series, "epochs to overfit"))]


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


def _series(values: list[list[float]], above: list[bool] | None = None) -> Series:
    present = [i for i, found in enumerate(values) if found]
    return Series(
        x=[LEVELS[i] for i in present],
        mean=[statistics.mean(values[i]) for i in present],
        low=[min(values[i]) for i in present],
        high=[max(values[i]) for i in present],
        above=above and [above[i] for i in present],
    )


FIGURES = {"fig1a": _fig1a, "fig1b": _fig1b, "fig1c": _fig1c, "fig2a": _fig2, "fig2b": _fig2}
