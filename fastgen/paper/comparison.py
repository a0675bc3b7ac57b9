"""Our runs beside the paper's numbers: means over seeds, spreads, and the tables that show both."""

import statistics
from dataclasses import dataclass, fields

from fastgen.paper.experiments import Entry, Experiment
from fastgen.report.spread import interval, mean_and_deviation
from fastgen.runs.summary import Evaluation, Summary, metric
from fastgen.sweeps.executor import Job


@dataclass(frozen=True)
class Result:
    """An entry and its runs, one for each seed."""

    entry: Entry
    jobs: list[Job]

    @property
    def summaries(self) -> list[Summary]:
        """Of the finished runs."""
        return [summary for job in self.jobs if (summary := job.summary) is not None]

    def values(self, key: str) -> list[float]:
        """The finished runs' values of a key of summary.json, without nulls."""
        found = (getattr(summary, key) for summary in self.summaries)
        return [value for value in found if value is not None]


def comparison(experiment: Experiment, results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table that shows paper and ours side by side.

    With several seeds the column "inside" says whether the paper's number lies in our `interval`.
    """
    printed_keys = {key for result in results for key in result.entry.paper}
    several = any(len(result.jobs) > 1 for result in results)
    header = list(results[0].entry.labels)
    for key, heading in experiment.columns.items():
        has_paper = key in printed_keys
        header += [f"{heading}, paper"] * has_paper + [f"{heading}, ours"] + ["inside"] * (has_paper and several)
    header += ["seeds", "epochs", "minutes"]
    rows = []
    for result in results:
        row = list(result.entry.labels.values())
        for key in experiment.columns:
            values, printed, has_paper = result.values(key), result.entry.paper.get(key, ""), key in printed_keys
            row += [printed] * has_paper + [_ours(result, key, values)]
            row += [_inside(values, printed)] * (has_paper and several)
        row += [
            str(len(result.summaries)),
            mean_and_deviation(result.values("epochs"), 0),
            mean_and_deviation([seconds / 60 for seconds in result.values("wall_seconds")], 1),
        ]
        rows.append(row)
    for cited in experiment.cited:
        row = [*cited.labels.values()]
        for key in experiment.columns:
            has_paper = key in printed_keys
            row += [cited.paper.get(key, "")] * has_paper + ["cited"] + [""] * (has_paper and several)
        rows.append([*row, "", "", ""])
    return header, rows


def _ours(result: Result, key: str, values: list[float]) -> str:
    """Mean and deviation; a lower bound where a run ended before it had fitted its training set; or why nothing."""
    if not result.summaries:
        return next((job.state for job in result.jobs if job.problem), _so_far(result, key))
    if key not in ("fitted_epoch", "epoch_at_99"):
        return mean_and_deviation(values)
    ends = [time[0] for s in result.summaries if (time := s.time_to(key))]
    unfitted = len(ends) - len(values)
    if not unfitted:
        return mean_and_deviation(ends)
    return f"> {statistics.mean(ends):g} epochs" + (f" ({unfitted} of {len(ends)} unfitted)" if values else "")


def _so_far(result: Result, key: str) -> str:
    """Of a run that has not ended: its last evaluation, and when that was."""
    if key in {item.name for item in fields(Evaluation)}:
        for job in result.jobs:
            if (line := job.run.last_line(metric(key))) and line[metric(key)] is not None:
                return f"{line[metric(key)]:.2f} after {line['epoch']:g} epochs (not finished)"
    return "not run"


def _inside(values: list[float], printed: str) -> str:
    around = interval(values)
    try:
        number = float(printed)
    except ValueError:
        return ""
    rounding = 0.5 * 10.0 ** -len(printed.partition(".")[2])  # 100.0 is printed of 99.96 as well
    return "" if around is None else "yes" if around[0] - rounding <= number <= around[1] + rounding else "no"
