"""The paper's figures from plain data, with matplotlib. Equal data give equal files."""

import itertools
import statistics
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastgen.runs.run import Curve

matplotlib.rcParams["svg.hashsalt"] = "fastgen"  # the same ids in an SVG every time
matplotlib.rcParams["svg.fonttype"] = "none"  # letters as text that can be searched, not as outlines

# Okabe and Ito's colours, which colour-blind readers tell apart. The markers are for print without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MOST_WITHIN, _WIDEST_WITHIN = 7, 36  # lines, and characters of a name, of a legend within the axes
_WIDEST_LABEL, _MOST_LABEL_LINES = 48, 3  # characters and lines of a name in a legend or beside an axis
_MOST_POINTS = 200  # of a line of a run's log: more would not be told apart, and make a page of megabytes


@dataclass(frozen=True)
class Series:
    """A line with its spread: y's mean, low and high at each x. above: where y is only known to be above the mean.
    open: points of runs that have not ended, which are no part of it."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    above: list[bool] | None = None
    open: Curve = ([], [])


def loss_curves(curves: dict[str, list[Curve]]) -> Figure:
    """Figure 1a: average training loss (nats) against optimizer steps, lines of one style for each condition."""
    figure, axes = _figure("steps", "average loss (nats)")
    labels = [_label(name) for name in curves]
    beside = len(labels) > _MOST_WITHIN or max(map(len, labels), default=0) > _WIDEST_WITHIN
    if beside:
        figure.set_size_inches(9, max(4.2, 0.9 + 0.16 * sum(label.count("\n") + 1 for label in labels)))
    for label, lines, style in zip(labels, curves.values(), _styles(), strict=False):
        for number, (steps, losses) in enumerate(map(thinned, lines)):
            every = max(1, len(steps) // 8)
            axes.plot(steps, losses, label=None if number else label, markevery=every, markersize=4, **style)
    axes.set(xlim=(0, None), ylim=(0, 1.05 * axes.dataLim.y1 if curves else None))
    _legend(axes, len(curves), beside)
    return figure


def against_corruption(series: dict[str, Series], ylabel: str, arrows: bool = True) -> Figure:
    """Figures 1b and 1c: something against the level of label corruption (fraction), a line for each network.

    A band reaches from the lowest to the highest of several seeds. Where a series is `above`, its marker is hollow,
    and with `arrows` an arrow says that the true value lies above.
    """
    figure, axes = _figure("label corruption", ylabel)
    for (name, line), style in zip(series.items(), _styles(), strict=False):
        axes.plot(line.x, line.mean, markersize=5, label=name, **style)
        if line.low != line.high:
            axes.fill_between(line.x, line.low, line.high, color=style["color"], alpha=0.2, linewidth=0)
        for x, y, above in zip(line.x, line.mean, line.above or [], strict=False):
            if above:
                axes.plot(x, y, marker=style["marker"], markersize=7, color=style["color"], markerfacecolor="white")
                arrow = {"arrowstyle": "<-", "color": style["color"]}
                if arrows:
                    axes.annotate("", (x, y), (0, 18), textcoords="offset points", arrowprops=arrow)
    axes.set(xlim=(-0.03, 1.03), ylim=(0, None))
    _legend(axes, len(series))
    return figure


def accuracies(panels: dict[str, dict[str, Series]], xlabel: str, log: bool) -> Figure:
    """Accuracy (percent) against a key: panels two in a row, in each a line for each name with its seeds as a band.

    A name has one style in all panels. Hollow: runs that have not ended.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    styles = dict(zip(names, _styles(), strict=False))
    columns, rows = min(2, len(panels)), -(-len(panels) // 2)
    figure = _sheet(4.4 * columns + 2, 3.9 * rows)
    places = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    axes: list[Axes] = list(places)[: len(panels)]
    if len(panels) < rows * columns:
        figure.delaxes(figure.axes[-1])
    for number, (one, (title, panel)) in enumerate(zip(axes, panels.items(), strict=True)):
        _furnish(one, xlabel, "accuracy (%)" if number % columns == 0 else "")
        one.set_title(title, fontsize="medium")
        if log:
            one.set_xscale("log")
        for name, line in panel.items():
            style = styles[name]
            one.plot(line.x, line.mean, markersize=5, label=name, **style)
            one.fill_between(line.x, line.low, line.high, color=style["color"], alpha=0.2, linewidth=0)
            hollow = {"color": style["color"], "marker": style["marker"], "markerfacecolor": "white"}
            one.plot(*line.open, markersize=5, linestyle="none", **hollow)
        one.set_ylim(0, 102)
    handles = {name: line for one in axes for line, name in zip(*one.get_legend_handles_labels(), strict=True)}
    figure.legend([handles[name] for name in names], names, loc="outside right upper", frameon=False, fontsize="small")
    return figure


def accuracies_by_name(rows: dict[str, dict[str, list[float]]]) -> Figure:
    """Accuracies (percent) of each name, a marker for each kind of them at its mean, with a line over its seeds."""
    labels = [_label(name) for name in rows]
    lines = max(label.count("\n") + 1 for label in labels)
    figure = _sheet(9, 1.1 + (0.11 + 0.15 * lines) * len(rows))
    axes = figure.add_subplot()
    _furnish(axes, "accuracy (%)", "")
    kinds = list(dict.fromkeys(kind for values in rows.values() for kind in values))
    for kind, style in zip(kinds, _styles(), strict=False):
        found = [(y, values[kind]) for y, values in enumerate(rows.values()) if values.get(kind)]
        means, ys = [statistics.mean(values) for _, values in found], [y for y, _ in found]
        axes.plot(means, ys, label=kind, markersize=6, **(style | {"linestyle": "none"}))
        for y, values in found:
            axes.plot([min(values), max(values)], [y, y], color=style["color"], linewidth=2, alpha=0.4)
    axes.set_yticks(range(len(rows)), labels, fontsize="small")
    axes.set(xlim=(0, 102), ylim=(len(rows) - 0.5, -0.5))
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def accuracy_curves(curves: dict[str, tuple[Curve, Curve]]) -> Figure:
    """Figure 2: accuracy (percent) against steps: (training, test) for each name, training solid, test dashed.

    Dotted: the best test accuracy so far, which early stopping would keep.
    """
    figure, axes = _figure("steps", "accuracy (%)")
    for (name, (training, test)), colour in zip(curves.items(), itertools.cycle(COLOURS), strict=False):
        axes.plot(*training, color=colour, label=f"{name}, training")
        if test[0]:
            axes.plot(*test, color=colour, linestyle="--", label=f"{name}, test")
            axes.plot(
                test[0],
                list(itertools.accumulate(test[1], max)),
                color=colour,
                linestyle=":",
                label=f"{name}, best test so far",
            )
    axes.set(xlim=(0, None), ylim=(0, 102))
    _legend(axes, 3 * len(curves))
    return figure


def parts_curves(parts: dict[str, Curve]) -> Figure:
    """Accuracy (percent) against epochs on parts of the training set and on the test set, a line each."""
    figure, axes = _figure("epoch", "accuracy (%)")
    for (name, curve), style in zip(parts.items(), _styles(), strict=False):
        axes.plot(*thinned(curve), markersize=3, label=name, **style)
    axes.set(xlim=(0, None), ylim=(0, 102))
    _legend(axes, len(parts))
    return figure


def along_projection(panels: dict[str, tuple[Curve, Curve]]) -> Figure:
    """Theorem 1's function against the projection of the points: (curve, points) for each name."""
    figure, axes = _figure("projection of the image, from its smallest shown", "output")
    for (name, (curve, points)), style in zip(panels.items(), _styles(), strict=False):
        axes.plot(*curve, color=style["color"], linewidth=1, label=name)
        axes.plot(*points, color=style["color"], marker=style["marker"], linestyle="none", markersize=5)
    _legend(axes, len(panels))
    return figure


def against_epochs(curves: dict[str, Curve], ylabel: str, log: bool, level: dict[str, float] | None = None) -> Figure:
    """Something against epochs (logarithmic), a line each; level: dotted lines across."""
    figure, axes = _figure("epoch", ylabel)
    for (name, curve), style in zip(curves.items(), _styles(), strict=False):
        axes.plot(*curve, label=name, markersize=3, markevery=4, **style)
    for (name, y), colour in zip((level or {}).items(), reversed(COLOURS), strict=False):
        axes.axhline(y, color=colour, linestyle=":", label=name)
    axes.set_xscale("log")
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    _legend(axes, len(curves) + len(level or {}))
    return figure


def histograms(values: dict[str, np.ndarray], xlabel: str) -> Figure:
    """How many of each kind lie where, from the smallest value to the largest; the counts are logarithmic."""
    figure, axes = _figure(xlabel, "samples")
    together = np.concatenate(list(values.values()) or [np.zeros(1)])
    edges = np.linspace(min(0.0, together.min()), max(1.0, together.max()), 41)
    for (name, some), colour in zip(values.items(), itertools.cycle(COLOURS), strict=False):
        axes.hist(some, edges.tolist(), histtype="stepfilled", alpha=0.5, color=colour, label=f"{name} ({len(some):,})")
    axes.set_yscale("log")
    _legend(axes, len(values))
    return figure


def against_networks(agreement: list[tuple[int, float]]) -> Figure:
    """How well two halves of so many networks agree (a correlation)."""
    figure, axes = _figure("networks", "correlation of two halves")
    axes.plot([count for count, _ in agreement], [r for _, r in agreement], marker="o", color=COLOURS[0])
    axes.set(xlim=(0, None), ylim=(min([0.0, *(r for _, r in agreement)]), 1.02))
    return figure


def against_removed(series: dict[str, Series]) -> Figure:
    """Test accuracy (percent) against the percentage of the training set that is left out, a line each."""
    figure, axes = _figure("training samples left out (%)", "test accuracy (%)")
    for (name, line), style in zip(series.items(), _styles(), strict=False):
        axes.plot(line.x, line.mean, markersize=5, label=name, **style)
        axes.fill_between(line.x, line.low, line.high, color=style["color"], alpha=0.2, linewidth=0)
    axes.set(xlim=(0, None))
    _legend(axes, len(series))
    return figure


def bars(values: dict[str, list[float]], xlabel: str) -> Figure:
    """A bar for each name as long as its median, with a line from the lowest to the highest value."""
    figure, axes = _figure(xlabel, "")
    figure.set_size_inches(6.4, 0.8 + 0.28 * len(values))
    names = sorted(values, key=lambda name: statistics.median(values[name]))
    for y, name in enumerate(names):
        median = statistics.median(values[name])
        colour = COLOURS[0] if name.startswith("fastgen") else COLOURS[4]
        axes.barh(y, median, color=colour)
        axes.plot([min(values[name]), max(values[name])], [y, y], color="black", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(left=0)
    return figure


def thinned(curve: Curve) -> Curve:
    """At most `_MOST_POINTS` points: the first, the last, and evenly between them."""
    x, y = curve
    if len(x) <= _MOST_POINTS:
        return curve
    chosen = [round(i * (len(x) - 1) / (_MOST_POINTS - 1)) for i in range(_MOST_POINTS)]
    return [x[i] for i in chosen], [y[i] for i in chosen]


def _styles() -> Iterator[dict[str, Any]]:
    """Colour and marker of each next line; after the last colour the first one again, dashed."""
    for linestyle in itertools.cycle(("-", "--", ":", "-.")):
        for colour, marker in zip(COLOURS, _MARKERS, strict=True):
            yield {"color": colour, "marker": marker, "linestyle": linestyle}


def _figure(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = _sheet(5.6, 3.8)
    axes = figure.add_subplot()
    _furnish(axes, xlabel, ylabel)
    return figure, axes


def _sheet(width: float, height: float) -> Figure:
    """width, height: inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _furnish(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _label(name: str) -> str:
    """Broken into lines, so that it leaves room for what it names."""
    return "\n".join(textwrap.wrap(name, _WIDEST_LABEL, max_lines=_MOST_LABEL_LINES, placeholder=" …"))


def _legend(axes: Axes, lines: int, beside: bool = False) -> None:
    if beside or lines > _MOST_WITHIN:  # beside the axes, where it hides nothing
        axes.legend(frameon=False, fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    elif lines:
        axes.legend(frameon=False, fontsize="small")
    else:
        axes.text(0.5, 0.5, "no finished runs", ha="center", va="center", transform=axes.transAxes)
