"""Training without the most memorised samples, and without as many random ones (Feldman and Zhang, figure 2)."""

import hashlib
import io
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastgen.memorization.networks import Asked
from fastgen.report.plots import Series
from fastgen.sweeps.executor import Job
from fastgen.sweeps.grid import Point
from pipelines.durable import write_durably

MEMORISED, RANDOM = "without the most memorised", "without as many random ones"


@dataclass(frozen=True)
class Removal:
    """threshold: of memorization, from which on samples are left out. removed: how many these are. points: of each of
    the two ways, one for each seed."""

    threshold: float
    removed: int
    points: dict[str, list[Point]]


def removals(asked: Asked, value: np.ndarray, thresholds: list[float], seeds: int, root: Path) -> list[Removal]:
    """What is to be trained; first of all with nothing left out.

    value: memorization, float64 (n,). seeds: how many trainings of each. The samples of a threshold lie in
    root/removed, in a file that is named after its content, so that a finished training counts for these alone.
    """
    first, n = asked.point().load().seed, len(value)
    found = []
    for threshold in (np.inf, *sorted(set(thresholds), reverse=True)):
        samples = np.flatnonzero(value >= threshold)
        ways: dict[str, list[str]] = {MEMORISED: [], RANDOM: []}
        if 0 < len(samples) < n:
            content = io.BytesIO()
            np.save(content, samples)
            path = root / "removed" / f"{hashlib.sha256(content.getvalue()).hexdigest()[:10]}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, content.getvalue())
            ways[MEMORISED] = [f"data.subset.without={path.resolve()}"]
            ways[RANDOM] = [f"data.subset.fraction={(n - len(samples)) / n!r}"]
        points = {way: [_seeded(asked, more, first + seed) for seed in range(seeds)] for way, more in ways.items()}
        found.append(Removal(threshold, len(samples), points))
    return [one for one in found if one.removed < n]


def _seeded(asked: Asked, more: list[str], seed: int) -> Point:
    drawn = [f"data.subset.seed={seed}"] if more and more[0].startswith("data.subset.fraction") else []
    return asked.one_of_many(f"seed={seed}", *more, *drawn)


def results(found: list[Removal], jobs: list[Job], n: int) -> tuple[dict[str, Series], list[list[str]]]:
    """Test accuracy (percent) against the part of the samples that is left out (percent), over the seeds; and the same
    as rows of a table: threshold, left out, and mean with its extremes of each way. jobs: of all points."""
    by_name = {job.folder.name: job for job in jobs}
    series, rows = (
        {},
        [[_threshold(one.threshold), f"{one.removed:,} ({100 * one.removed / n:.1f} %)"] for one in found],
    )
    for way in (MEMORISED, RANDOM):
        x, mean, low, high = [], [], [], []
        for one, row in zip(found, rows, strict=True):
            summaries = [by_name[point.folder_name].summary for point in one.points[way]]
            accuracies = [each.test_top1 for each in summaries if each is not None and each.test_top1 is not None]
            row.append(_spread(accuracies))
            if accuracies:
                x.append(100 * one.removed / n)
                mean.append(statistics.mean(accuracies))
                low.append(min(accuracies))
                high.append(max(accuracies))
        series[way] = Series(x, mean, low, high)
    return series, rows


def _threshold(value: float) -> str:
    return "none" if value == np.inf else f"{value:g}"


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-"
