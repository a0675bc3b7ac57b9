"""Points of a sweep: a recipe with settings, and the folder name of each."""

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastgen.recipe.load import load
from fastgen.recipe.schema import Recipe
from fastgen.runs.folder import decisive_settings
from pipelines.errors import UserError

_MOST_POINTS = 10_000


@dataclass(frozen=True)
class Point:
    """One training: a recipe's name or path, and overrides "key=value"."""

    recipe: str
    settings: tuple[str, ...] = ()

    def load(self) -> Recipe:
        """The same object each time, which nobody changes."""
        return self._loaded

    @cached_property
    def _loaded(self) -> Recipe:
        return load(self.recipe, list(self.settings))

    @cached_property
    def folder_name(self) -> str:
        """The recipe's name and a digest of its keys: equal experiments have one name, however they are written.

        Keys at their defaults are left out, so that a key that fastgen gains later renames no finished run.
        """
        usual = Recipe().flat()
        settings = {key: value for key, value in decisive_settings(self.load()).items() if value != usual.get(key)}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
        return f"{Path(self.recipe).stem}-{digest}"


@dataclass(frozen=True)
class Grid:
    """All combinations of some keys' values. varied: key -> its values as they are written."""

    recipe: str
    fixed: tuple[str, ...]
    varied: dict[str, list[str]]

    @property
    def points(self) -> list[Point]:
        """In the order of the command line, the last key fastest. Equal experiments (true labels with several seeds)
        are one point. Raises UserError for an unknown key, and for a value that is given twice."""
        for key, values in self.varied.items():
            if len(set(values)) < len(values):
                raise UserError(f"the sweep has the same point twice: {key}={max(values, key=values.count)}")
        points: dict[str, Point] = {}
        settings = ([f"{key}={value}" for value in values] for key, values in self.varied.items())
        for combination in itertools.product(*settings):
            point = Point(self.recipe, (*self.fixed, *combination))
            points.setdefault(point.folder_name, point)
        return list(points.values())

    def label(self, point: Point) -> dict[str, str]:
        """The varied keys' values at a point."""
        settings = dict(setting.split("=", 1) for setting in point.settings)
        return {key: settings[key] for key in self.varied}

    @staticmethod
    def parse(arguments: list[str]) -> "Grid":
        """From "recipe=NAME", "key=value" and "key=a,b,c" (commas inside brackets or quotes do not separate)."""
        recipe, fixed, varied = None, [], {}
        for argument in arguments:
            key, equals, text = argument.partition("=")
            if not equals:
                raise UserError(f"'{argument}' is no setting; write key=value or key=a,b,c")
            values = _split(text)
            if key == "recipe":
                if len(values) > 1:
                    raise UserError("a sweep has one recipe; vary its keys, model.name=... among them")
                recipe = text
            elif key.startswith("run."):
                raise UserError(f"{key} is chosen by the sweep for each point; --output names its folder")
            elif len(values) == 1:
                fixed.append(argument)
            elif key in varied:
                raise UserError(f"{key} is given twice")
            else:
                varied[key] = values
        if both := varied.keys() & {setting.partition("=")[0] for setting in fixed}:
            raise UserError(f"{min(both)} is given twice")
        if (points := math.prod(map(len, varied.values()))) > _MOST_POINTS:
            raise UserError(f"these are {points:,} points, and a sweep has at most {_MOST_POINTS:,}; make several")
        if recipe is None:
            raise UserError("name a recipe: fastgen sweep recipe=NAME key=a,b,c")
        return Grid(recipe, tuple(fixed), varied)


def _split(text: str) -> list[str]:
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        depth += (sign in "[{(") - (sign in "]})")
        if sign == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    if len(parts) > 1 and "" in parts:
        raise UserError(f"'{text}' has an empty value between its commas")
    return parts
