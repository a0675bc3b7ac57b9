"""The paper's figures from plain data, with matplotlib. Equal data give equal files."""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastgen.runs.run import Curve

matplotlib.rcParams["svg.hashsalt"] = "fastgen"  # the same ids in an SVG every time
matplotlib.rcParams["svg.fonttype"] = "none"  # letters as text that can be searched, not as outlines

# Okabe and Ito's colours, which colour-blind readers tell apart. The markers are for print without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Series:
    """A line with its spread: y's mean, low and high at each x. above: where y is only known to be above the mean."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    above: list[bool] | None = None


def loss_curves(curves: dict[str, Curve]) -> Figure:
    """Figure 1a: average training loss (nats) against optimizer steps, a line for each condition."""
    figure, axes = _figure("steps", "average loss (nats)")
    for (name, (steps, losses)), style in zip(curves.items(), _styles(), strict=False):
        every = max(1, len(steps) // 8)
        axes.plot(steps, losses, label=name, markevery=every, markersize=4, **style)
    axes.set(xlim=(0, None), ylim=(0, None))
    _legend(axes, len(curves))
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
        axes.plot(*curve, markersize=3, label=name, **style)
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


def _styles() -> Iterator[dict[str, Any]]:
    """Colour and marker of each next line; after the last colour the first one again, dashed."""
    for linestyle in itertools.cycle(("-", "--", ":", "-.")):
        for colour, marker in zip(COLOURS, _MARKERS, strict=True):
            yield {"color": colour, "marker": marker, "linestyle": linestyle}


def _figure(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes, lines: int) -> None:
    if lines > 7:  # beside the axes, where it hides nothing
        axes.legend(frameon=False, fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    elif lines:
        axes.legend(frameon=False, fontsize="small")
    else:
        axes.text(0.5, 0.5, "no finished runs", ha="center", va="center", transform=axes.transAxes)
