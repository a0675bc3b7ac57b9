"""What varies among runs: it names them, orders them, and makes the columns of their tables."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastgen.runs.folder import is_decisive
from fastgen.runs.run import Run

SEEDS = ("seed", "data.labels.seed", "data.pixels.seed")
LEVEL = "data.labels.p"
FOLDER = "run"  # in place of a key: the run directory's name
_KIND = "data.labels.kind"
# key -> another, beside which it says nothing where each value of the latter has one of the former.
_FOLLOWS = {
    LEVEL: _KIND, "data.labels.seed": "seed", "data.pixels.seed": "seed", "data.pixels.window": "data.image_size",
}  # fmt: skip
_KEYS_IN_TITLE = 3


class Variation:
    """Runs side by side.

    runs: ordered by the keys that vary, numbers as numbers. keys: those that vary within a recipe, in the order of
    columns: "recipe" if there are several, others, the axis, seeds. axis: the key to draw against, None where no number
    varies while all else is equal. names, settings: of each run, with its seeds and without; equal runs are told apart
    by their folders.
    """

    def __init__(self, runs: list[Run]) -> None:
        by_recipe = _grouped(runs, (run.settings["recipe"] for run in runs))
        self._varying = {recipe: _varying(group) for recipe, group in by_recipe.items()}
        found = set().union(*self._varying.values())
        known = [key for key in dict.fromkeys(key for run in runs for key in run.settings) if key in found]
        others = ["recipe"] * (len(by_recipe) > 1) + [key for key in known if key not in SEEDS]
        kinds = {run.settings[_KIND] for run in runs} - {"true"}
        self._level_is_kind = len(kinds) == 1  # true labels are then its level 0
        self.axis = self._find_axis(runs, others)
        self._fixed = [key for key in others if key != self.axis]
        self._settings = self._fixed + [key for key in others if key == self.axis]
        self.keys = self._settings + [key for key in SEEDS if key in found]
        self.runs = sorted(runs, key=self._place)
        self.settings = [self._named(run, self._settings) for run in self.runs]
        names = [self._named(run, self.keys) for run in self.runs]
        often, folders = Counter(names), folder_names([run.folder for run in self.runs])
        self.names = [
            name if name and often[name] == 1 else f"{name} {folder}".strip()
            for name, folder in zip(names, folders, strict=True)
        ]
        if len(set(names)) < len(names) or not self.keys:
            self.keys.append(FOLDER)
        self._folders = dict(zip((run.folder for run in self.runs), folders, strict=True))

    @property
    def title(self) -> str:
        """The recipe, or how many, and what varies."""
        keys = [key for key in self.keys if key not in ("recipe", FOLDER)]
        more = f" and {len(keys) - _KEYS_IN_TITLE} more keys" if len(keys) > _KEYS_IN_TITLE else ""
        named = f"{len(self._varying)} recipes" if len(self._varying) > 1 else next(iter(self._varying))
        return named + (f" over {', '.join(keys[:_KEYS_IN_TITLE])}{more}" if keys else "")

    def written(self, run: Run, key: str) -> str:
        """A key's value at a run, for a table."""
        value = run.settings.get(key)
        return self._folders[run.folder] if key == FOLDER else "-" if value is None else _written(value)

    def by_setting(self) -> dict[str, list[Run]]:
        """Runs that differ in their seeds alone, in order."""
        return _grouped(self.runs, self.settings)

    def series(self) -> dict[str, list[Run]]:
        """Runs that differ on the axis and in their seeds alone, in order."""
        return self._series(self.runs, self._fixed, self.axis)

    def _series(self, runs: list[Run], keys: list[str], axis: str | None) -> dict[str, list[Run]]:
        left_out = {_KIND, axis} if axis == LEVEL and self._level_is_kind else {axis}
        return _grouped(runs, (self._named(run, [key for key in keys if key not in left_out]) for run in runs))

    def _find_axis(self, runs: list[Run], keys: list[str]) -> str | None:
        """The level of corruption if it varies, else the number with the most values."""
        counts: dict[str, int] = {}
        for key in [LEVEL, *keys]:
            series = self._series(runs, keys, key).values()
            if key != "recipe" and any(len({at(run, key) for run in one} - {None}) > 1 for one in series):
                counts[key] = len({at(run, key) for run in runs})
        if LEVEL in counts and LEVEL in keys:
            return LEVEL
        return max(counts, key=counts.__getitem__, default=None)

    def _named(self, run: Run, keys: list[str]) -> str:
        recipe = run.settings["recipe"]
        parts = (f"{key}={_written(run.settings.get(key))}" for key in keys if key in self._varying[recipe])
        return " ".join([recipe] * ("recipe" in keys) + list(parts))

    def _place(self, run: Run) -> tuple[Any, ...]:
        keys = (_order(run.settings.get(key)) for key in self.keys)
        return (*keys, _order(run.folder.name), str(run.folder))


def at(run: Run, axis: str) -> float | None:
    """Where a run lies on an axis, None where it has no number there. True labels have the level 0."""
    if axis == LEVEL and run.settings[_KIND] == "true":
        return 0.0
    value = run.settings.get(axis)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def folder_names(folders: list[Path]) -> list[str]:
    """Their names, each with the fewest of its parents that tell them apart."""
    paths = [folder.resolve().parts for folder in folders]
    for parts in range(1, max(map(len, paths)) + 1):
        found = ["/".join(path[-parts:]) for path in paths]
        if len(set(found)) == len(found):
            break
    return found


def _varying(runs: list[Run]) -> set[str]:
    """Keys that decide a result and are not the same in all runs."""
    keys = {key for run in runs for key in run.settings if is_decisive(key) and key != "recipe"}
    values = {key: [_written(run.settings.get(key)) for run in runs] for key in keys}
    found = {key for key in keys if len(set(values[key])) > 1}
    follow = {
        key
        for key, other in _FOLLOWS.items()
        if {key, other} <= found and len(set(zip(values[key], values[other], strict=True))) == len(set(values[other]))
    }
    return found - follow


def _grouped(runs: list[Run], names: Iterable[str]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run, name in zip(runs, names, strict=True):
        groups.setdefault(name, []).append(run)
    return groups


def _written(value: Any) -> str:
    """As on a command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return json.dumps(value)


def _order(value: Any) -> tuple[Any, ...]:
    """Nothing first, then numbers by size, then text with the numbers in it by size."""
    if value is None:
        return (0,)
    if isinstance(value, int | float):
        return (1, value)
    parts = re.split(r"(\d+)", value if isinstance(value, str) else json.dumps(value))
    return (2, tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts))
