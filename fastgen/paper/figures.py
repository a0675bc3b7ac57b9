"""The paper's figures, drawn from the results of an experiment."""

import statistics

from matplotlib.figure import Figure

from fastgen.paper.comparison import Result
from fastgen.paper.experiments import LEVELS
from fastgen.report.plots import Series, accuracy_curves, against_corruption, loss_curves
from fastgen.runs.summary import metric


def _fig1a(results: list[Result]) -> list[tuple[str, Figure]]:
    curves = {
        result.entry.labels["condition"]: [curve]
        for result in results
        if (curve := result.jobs[0].run.curve("train_running_loss_nats", "step"))[0]
    }
    return [("Training loss (average over steps) against steps, seed 0", loss_curves(curves))]


def _fig1b(results: list[Result]) -> list[tuple[str, Figure]]:
    """Until all is fitted, and where some runs ended before, until 99 % are, which more of them reach."""
    figures = _times(results, _fitted_at(results), "fitted_epoch")
    unfitted = any(s.fitted_epoch is None and s.fitted_at > 99 for result in results for s in result.summaries)
    if unfitted and any(result.values("epoch_at_99") for result in results):
        figures += _times(results, "99", "epoch_at_99")
    return figures


def _times(results: list[Result], percent: str, key: str) -> list[tuple[str, Figure]]:
    """The epochs until so many percent are fitted, which are a key of the summaries, relative to the same seed's at
    level 0, as the paper draws them.

    A run that ended before counts with the epochs that it trained, and its point is drawn as a lower bound. Of a
    network that did not get there at level 0 nothing can be relative to it: then there is a second figure, in epochs.
    """
    relative: dict[str, Series] = {}
    absolute: dict[str, Series] = {}
    for model, by_level in _by_model(results).items():
        seeds = range(len(by_level[0.0].jobs))
        bases = [getattr(job.summary, key, None) for job in by_level[0.0].jobs]
        times = {
            level: [(s := by_level[level].jobs[seed].summary) and s.time_to(key) for seed in seeds] for level in LEVELS
        }
        if not any(any(row) for row in times.values()):
            continue
        wanted = [seed for seed in seeds if bases[seed]] or list(seeds)
        values, above = [], []
        for level in LEVELS:
            found = [(*time, bases[seed] or 1.0) for seed in wanted if (time := times[level][seed])]
            values.append([epochs / base for epochs, _, base in found])
            above.append(not all(reached for _, reached, _ in found))
        (relative if any(bases) else absolute)[model] = _series(values, above)
    title = f"Time until {percent} % of the training set is fitted{_unfitted(results, key)}"
    figures = [(f"{title}, relative to true labels", against_corruption(relative, "time to overfit"))]
    if not absolute:
        return figures
    return figures * bool(relative) + [(f"{title}, in epochs", against_corruption(absolute, "epochs to overfit"))]


def _fig1c(results: list[Result]) -> list[tuple[str, Figure]]:
    series = {
        model: _series(
            [[100 - top1 for top1 in by_level[level].values("test_top1")] for level in LEVELS],
            [any(s.fitted_epoch is None for s in by_level[level].summaries) for level in LEVELS],
        )
        for model, by_level in _by_model(results).items()
        if any(result.summaries for result in by_level.values())
    }
    title = f"Test error when {_fitted_at(results)} % of the training set is fitted, percent"
    hollow = _unfitted(results, "fitted_epoch").replace(" with an arrow", "")
    return [(title + hollow, against_corruption(series, "test error (%)", arrows=False))]


def _fitted_at(results: list[Result]) -> str:
    """The percentages at which the runs count as fitted, in words."""
    levels = {summary.fitted_at for result in results for summary in result.summaries} or {100.0}
    return " and ".join(f"{level:g}" for level in sorted(levels))


def _unfitted(results: list[Result], key: str) -> str:
    """What hollow markers mean, if there are any."""
    times = [s.time_to(key) for result in results for s in result.summaries]
    limits = sorted({time[0] for time in times if time and not time[1]})
    return f"; hollow with an arrow: not within {' or '.join(f'{n:g}' for n in limits)} epochs" if limits else ""


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
