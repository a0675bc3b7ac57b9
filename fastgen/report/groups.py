"""Which runs belong on one page: those of a folder, such as a sweep's."""

from dataclasses import dataclass
from pathlib import Path

from fastgen.report.variation import Variation, folder_names
from fastgen.runs.folder import RECIPE
from fastgen.runs.run import Run, find_runs

_NAMED = Path()  # the folder of runs that were named themselves


@dataclass(frozen=True)
class Group:
    """Runs of a page. name: the folder's, with as many of its parents as tell it apart. logs: last line of the log of
    each training that has no run directory (it failed before it began, or was moved)."""

    name: str
    variation: Variation
    logs: dict[str, str]


def grouped(paths: list[Path]) -> list[Group]:
    """Runs below `paths`, a group for each folder that holds some; those that are named themselves are one group. Where
    a number varies from folder to folder alone, all of them together are a further one.

    Raises UserError for a path without any.
    """
    named = [path for path in paths if (path / RECIPE).is_file()]
    found: dict[Path, list[Run]] = {}
    for run in find_runs(paths):
        found.setdefault(_NAMED if run.folder in named else run.folder.parent.resolve(), []).append(run)
    names = dict(zip(found, folder_names(list(found)), strict=True))
    groups = [
        Group(names[folder] if folder != _NAMED else "runs", Variation(runs), _logs(folder, runs))
        for folder, runs in found.items()
    ]
    if len(groups) > 1 and all(group.variation.axis is None for group in groups):
        together = Variation([run for runs in found.values() for run in runs])
        if together.axis is not None:  # a sweep that somebody put into a folder for each value
            groups.insert(0, Group("all together", together, {}))
    return groups


def _logs(folder: Path, runs: list[Run]) -> dict[str, str]:
    there = {run.folder.name for run in runs}
    if folder == _NAMED:
        return {}
    logs = {path.stem: path for path in sorted((folder / "logs").glob("*.txt")) if path.stem not in there}
    return {name: _last_line(path) for name, path in logs.items()}


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
