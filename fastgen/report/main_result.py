"""The main result of runs as figures: accuracy on the training and on the test set, against what varies."""

import statistics
from dataclasses import dataclass

from matplotlib.figure import Figure

from fastgen.report.plots import Series, accuracies, accuracies_by_name
from fastgen.report.variation import LEVEL, Variation, at
from fastgen.runs.metrics import DIVERGED
from fastgen.runs.run import Run

_TRAIN, _TEST = "train_top1", "test_top1"
_BEST = "best_test_top1"
_PARTS = ("train_top1_clean_part", "train_top1_corrupted_part")
_CALLED = {
    _TRAIN: "training, given labels", _PARTS[0]: "training, clean part", _PARTS[1]: "training, corrupted part",
    _TEST: "test", _BEST: "best test",
}  # fmt: skip
_APART = 1.0  # percent from each other, from which on the parts of the training set are drawn, and the best test
_MOST_LINES, _MOST_NAMES = 12, 60
_WIDE = 20.0  # between the largest and the smallest number, from which on an axis is logarithmic


@dataclass(frozen=True)
class Drawing:
    """A figure for a page. name: of its files."""

    name: str
    figure: Figure
    caption: str


def main_result(variation: Variation) -> list[Drawing]:
    """Lines against the axis, if there is one; and all settings by their names, where some are on no line. The first
    one shows the most runs."""
    drawn = {key: name for key, name in _CALLED.items() if _is_worth_drawing(variation, key)}
    if not drawn:
        return []
    lines = {
        name: runs
        for name, runs in (variation.series() if variation.axis else {}).items()
        if len({at(run, variation.axis or "") for run in runs} - {None}) > 1
    }
    on_lines = sum(map(len, lines.values()))
    found = []
    if lines:
        found.append(_against_axis(variation, lines, drawn))
    if on_lines < len(variation.runs):
        found.append(_by_name(variation, _without_clean_part(drawn)))
    return found if 2 * on_lines >= len(variation.runs) else found[::-1]


def _is_worth_drawing(variation: Variation, key: str) -> bool:
    if key in (_TRAIN, _TEST):
        return any(run.measured(key) is not None for run in variation.runs)
    one, other = (_TEST, _BEST) if key == _BEST else _PARTS
    both = ((run.measured(one), run.measured(other)) for run in variation.runs)
    return any(a is not None and b is not None and abs(a - b) > _APART for a, b in both)


def _without_clean_part(drawn: dict[str, str]) -> dict[str, str]:
    """Where there is little room: it is near the whole training set."""
    return {key: name for key, name in drawn.items() if key != _PARTS[0]}


def _against_axis(variation: Variation, lines: dict[str, list[Run]], drawn: dict[str, str]) -> Drawing:
    axis, shown = variation.axis or "", list(lines.items())[:_MOST_LINES]
    runs = [run for _, runs in shown for run in runs]
    if len(lines) == 1:  # a line for each accuracy
        panels = {next(iter(lines)): {name: _series(shown[0][1], axis, key) for key, name in drawn.items()}}
    else:
        drawn = _without_clean_part(drawn)
        panels = {name: {line: _series(runs, axis, key) for line, runs in shown} for key, name in drawn.items()}
    numbers = [x for run in runs if (x := at(run, axis)) is not None]
    log = min(numbers) > 0 and max(numbers) / min(numbers) >= _WIDE
    label = f"{axis} (label corruption)" if axis == LEVEL else axis
    caption = f"Accuracy against {axis}; lines are means over finished runs"
    if any(line.low != line.high for panel in panels.values() for line in panel.values()):
        caption += ", bands reach from the lowest to the highest seed"
    if len(lines) > _MOST_LINES:
        caption += f"; the first {_MOST_LINES} of {len(lines)} lines"
    return Drawing("accuracy", accuracies(panels, label, log), caption + _not_ended(runs) + ".")


def _by_name(variation: Variation, drawn: dict[str, str]) -> Drawing:
    settings, left_out = list(variation.by_setting().items()), 0
    rows = {}
    for name, runs in settings[:_MOST_NAMES]:
        finished = [run for run in runs if run.finished]
        left_out += len(runs) - len(finished or runs)
        state = "" if finished else f" ({runs[0].state})"
        rows[(name or variation.title) + state] = {
            called: [value for run in finished or runs if (value := run.measured(key)) is not None]
            for key, called in drawn.items()
        }
    caption = "Accuracy in evaluation mode"
    if any(len(values) > 1 for row in rows.values() for values in row.values()):
        caption += ", means over seeds; a line reaches from the lowest to the highest"
    if left_out:
        caption += f"; {left_out} run{'s' * (left_out > 1)} beside finished ones left out, which did not finish"
    if len(settings) > _MOST_NAMES:
        caption += f"; the first {_MOST_NAMES} of {len(settings)}"
    return Drawing("accuracies", accuracies_by_name(rows), caption + ".")


def _series(runs: list[Run], axis: str, key: str) -> Series:
    finished: dict[float, list[float]] = {}
    still_open: tuple[list[float], list[float]] = ([], [])
    for run in runs:
        x, y = at(run, axis), run.measured(key)
        if x is None or y is None or run.state == DIVERGED:
            continue
        if run.finished:
            finished.setdefault(x, []).append(y)
        else:
            still_open[0].append(x)
            still_open[1].append(y)
    xs = sorted(finished)
    return Series(
        x=xs,
        mean=[statistics.mean(finished[x]) for x in xs],
        low=[min(finished[x]) for x in xs],
        high=[max(finished[x]) for x in xs],
        open=still_open,
    )


def _not_ended(runs: list[Run]) -> str:
    diverged = sum(run.state == DIVERGED for run in runs)
    left = [run for run in runs if not run.finished and run.state != DIVERGED]
    unknown = sum(run.measured(_TRAIN) is None and run.measured(_TEST) is None for run in left)
    parts = [
        (len(left) - unknown, "not finished, hollow: as of the last evaluation"),
        (unknown, "not evaluated yet, not drawn"),
        (diverged, "diverged, not drawn"),
    ]
    return "".join(f"; {count} run{'s' * (count > 1)} {text}" for count, text in parts if count)
