"""A run directory as a whole, for all who read one: sweeps, reports, the paper's tables."""

import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fastgen.recipe.load import known_recipes, load, stored
from fastgen.recipe.schema import Recipe
from fastgen.runs.folder import RECIPE, manifest_of
from fastgen.runs.metrics import DIVERGED, read_metrics
from fastgen.runs.summary import FINISHED, Summary, metric
from pipelines.baked.manifest import MANIFEST, BakedSet, Manifest
from pipelines.corruptions import LabelSpec
from pipelines.errors import UserError
from pipelines.locations import cache_root

Curve = tuple[list[float], list[float]]  # x, y
PARTS = {
    metric("train_top1_clean_part"): "training, clean labels",
    metric("train_top1_corrupted_part"): "training, corrupted labels",
    metric("train_top1_corrupted_part_true_labels"): "corrupted part, true labels",
    metric("test_top1"): "test",
}
MACHINE_KEYS = ("run.", "track.")  # keys that say where a run lives and how it is watched
_CORRUPTIONS = ("data.labels", "data.pixels")
_PLAIN = re.compile(r"[\w./+-]+")  # text that needs no quotes in YAML


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not. What has been read is kept: another `Run` of the folder reads it anew."""

    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted key -> value of recipe.yaml."""
        return stored(self.folder / RECIPE)

    @cached_property
    def summary(self) -> Summary | None:
        """None while the run has not ended."""
        return Summary.read(self.folder)

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl."""
        return read_metrics(self.folder)

    @cached_property
    def manifest(self) -> Manifest:
        return manifest_of(self.folder)

    @cached_property
    def labels(self) -> LabelSpec:
        prefix = "data.labels."
        settings = {k.removeprefix(prefix): v for k, v in self.settings.items() if k.startswith(prefix)}
        try:
            return LabelSpec(**settings).resolved()
        except UserError as error:
            raise UserError(f"{self.folder / RECIPE}: {error}") from None

    @cached_property
    def label_column(self) -> str | None:
        """Its labelling's column in a baked set; None for a table of labels that is no longer where it was."""
        try:
            return self.labels.column_name
        except UserError:
            return None

    @property
    def finished(self) -> bool:
        return self.summary is not None and self.summary.status == FINISHED

    @property
    def state(self) -> str:
        """Of `summary.FINISHED` and its like, DIVERGED, or "not finished": it trains now, or its process died."""
        if self.summary is not None:
            return self.summary.status
        return DIVERGED if self.lines and DIVERGED in self.lines[-1] else "not finished"

    @cached_property
    def changes(self) -> list[str]:
        """Settings that differ from the shipped recipe of the run's name, as they are written on a command line."""
        name, default = self.settings["recipe"], Recipe().flat()
        known = name in known_recipes()
        usual = load(name).flat() if known else default
        # With another kind of corruption, all its keys are named, less those that follow from the kind.
        other = tuple(f"{key}." for key in _CORRUPTIONS if self.settings[f"{key}.kind"] != usual[f"{key}.kind"])
        changed = {
            key: f"{key}={value if isinstance(value, str) and _PLAIN.fullmatch(value) else json.dumps(value)}"
            for key, value in self.settings.items()
            if key in usual.keys() - {"recipe", "data.pixels.window"}  # which follows from data.image_size
            and not key.startswith(MACHINE_KEYS)
            and (value != usual[key] or (key.startswith(other) and value != default[key]))
        }
        for key in [key for key in changed if known and key.startswith(other)]:
            with contextlib.suppress(UserError):
                if load(name, [changed[k] for k in changed if k != key]).flat()[key] == self.settings[key]:
                    del changed[key]
        return list(changed.values())

    @property
    def command(self) -> str:
        """The command that runs it again."""
        name = self.settings["recipe"]
        where = name if name in known_recipes() else str(self.folder / RECIPE)
        changes = self.changes if name in known_recipes() else []
        return shlex.join(["fastgen", "train", f"recipe={where}", *changes])

    @property
    def parts(self) -> dict[str, str]:
        """The accuracies that its evaluations log: key of metrics -> what it is. Signs have no parts and no test."""
        return {metric("train_top1"): "training, random signs"} if self.labels.signs else PARTS

    def last_line(self, key: str) -> dict[str, Any] | None:
        """The newest line of metrics.jsonl that has a value for `key`."""
        return next((line for line in reversed(self.lines) if line.get(key) is not None), None)

    def measured(self, name: str) -> float | None:
        """A field of `Evaluation`, of the newest evaluation that has it, or best_test_top1."""
        if self.summary is not None:
            return getattr(self.summary, name)
        if name == "best_test_top1":
            return max(self.curve(metric("test_top1"), "epoch")[1], default=None)
        line = self.last_line(metric(name))
        return None if line is None else line[metric(name)]

    def curve(self, key: str, against: str) -> Curve:
        """A logged key against "step" or "epoch"."""
        lines = [line for line in self.lines if line.get(key) is not None]
        return [line[against] for line in lines], [line[key] for line in lines]

    def baked(self) -> BakedSet | None:
        """The baked set that it was trained on, if the cache still has it."""
        for path in sorted((cache_root() / "baked").glob(f"*/{MANIFEST}")):
            try:
                if Manifest.load(path).specification == self.manifest.specification:
                    return BakedSet.open(path.parent)
            except UserError:
                continue  # a damaged set is not this report's concern
        return None


def find_runs(paths: list[Path]) -> list[Run]:
    """The run directories that `paths` are or contain, however deep, each once. In a run directory is none.

    Raises UserError for a path without any, and for a folder that cannot be read.
    """
    if not paths:
        raise UserError("name run directories: fastgen report RUN...")
    runs: dict[Path, Run] = {}
    for path in paths:
        try:
            found = list(_run_folders(path, path, set()))
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read ({error.strerror})") from None
        if not found:
            raise UserError(f"{path} is no run directory and contains none (they have {RECIPE} and {MANIFEST})")
        for folder in found:
            runs.setdefault(folder.resolve(), Run(folder))
    return list(runs.values())


def _run_folders(folder: Path, top: Path, seen: set[Path]) -> Iterator[Path]:
    """top: where the search began. seen: folders that were searched. Links are followed, but for those that lead to
    where one has been, or above `top`, whose other folders nobody named."""
    place = folder.resolve()
    if place in seen or (folder != top and top.resolve().is_relative_to(place)):
        return
    seen.add(place)
    if (folder / RECIPE).is_file() and (folder / MANIFEST).is_file():
        yield folder
    elif folder.is_dir():
        for inside in sorted(folder.iterdir()):
            if inside.is_dir() and not inside.name.startswith("."):
                yield from _run_folders(inside, top, seen)
