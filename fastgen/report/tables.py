"""Run directories, and the tables that compare and describe them."""

import contextlib
import json
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from fastgen.recipe.load import known_recipes, load
from fastgen.recipe.schema import Recipe
from fastgen.report.plots import Curve
from fastgen.report.spread import mean_and_deviation
from fastgen.runs.folder import flat
from fastgen.runs.metrics import read_metrics
from pipelines.baked.manifest import MANIFEST, BakedSet, Manifest
from pipelines.corruptions import LabelSpec
from pipelines.errors import UserError
from pipelines.locations import cache_root

Table = tuple[list[str], list[list[str]]]  # header, rows

_SUMMARY = {
    "epochs": "epochs",
    "train_top1": "training (%)",
    "train_top1_clean_part": "clean part",
    "train_top1_corrupted_part": "corrupted part",
    "train_top1_true_labels": "against true labels",
    "rademacher_complexity": "complexity",
    "test_top1": "test (%)",
    "best_test_top1": "best test",
    "interpolation_epoch": "fitted at epoch",
    "images_per_second": "images/s",
}
_OF_SIGNS = ("rademacher_complexity",)  # shown where some run has it
PARTS = {
    "train_top1_clean_part_percent": "training, clean labels",
    "train_top1_corrupted_part_percent": "training, corrupted labels",
    "train_top1_corrupted_part_true_labels_percent": "corrupted part, true labels",
    "test_top1_percent": "test",
}
_SEEDS = ("seed", "data.labels.seed", "data.pixels.seed")
_PLAIN = re.compile(r"[\w./+-]+")  # text that YAML takes for itself
_CORRUPTIONS = ("data.labels", "data.pixels")
_MACHINE = ("run.", "track.")  # keys that say where a run lives and how it is watched


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not."""

    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted key -> value of recipe.yaml."""
        return flat(yaml.safe_load((self.folder / "recipe.yaml").read_text()))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json, empty where the run has not ended."""
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        return read_metrics(path) if path.is_file() else []

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.load(self.folder / MANIFEST)

    @cached_property
    def labels(self) -> LabelSpec:
        prefix = "data.labels."
        return LabelSpec(**{k.removeprefix(prefix): v for k, v in self.settings.items() if k.startswith(prefix)})

    @property
    def state(self) -> str:
        return self.summary.get("status", "not finished")

    @cached_property
    def changes(self) -> list[str]:
        """Settings that differ from the shipped recipe of the run's name, as they are written on a command line."""
        name, default = self.settings["recipe"], Recipe().flat()
        known = name in known_recipes()
        usual = load(name).flat() if known else default
        # Of another kind of corruption all is told but what follows from the kind.
        others = tuple(f"{key}." for key in _CORRUPTIONS if self.settings[f"{key}.kind"] != usual[f"{key}.kind"])
        changed = {
            key: f"{key}={value if isinstance(value, str) and _PLAIN.fullmatch(value) else json.dumps(value)}"
            for key, value in self.settings.items()
            if key in usual.keys() - {"recipe"}
            and not key.startswith(_MACHINE)
            and (value != usual[key] or (key.startswith(others) and value != default[key]))
        }
        for key in [key for key in changed if known and key.startswith(others)]:
            with contextlib.suppress(UserError):
                if load(name, [changed[k] for k in changed if k != key]).flat()[key] == self.settings[key]:
                    del changed[key]
        return list(changed.values())

    @property
    def command(self) -> str:
        """What runs it again."""
        name = self.settings["recipe"]
        where = name if name in known_recipes() else str(self.folder / "recipe.yaml")
        changes = self.changes if name in known_recipes() else []
        return shlex.join(["fastgen", "train", f"recipe={where}", *changes])

    @property
    def parts(self) -> dict[str, str]:
        """The accuracies that its evaluations log: key of metrics -> what it is. Signs have no parts and no test."""
        return {"train_top1_percent": "training, random signs"} if self.labels.signs else PARTS

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


def find_runs(paths: list[str]) -> list[Run]:
    """The run directories that `paths` are or contain. Raises UserError for a path without any."""
    if not paths:
        raise UserError("name run directories: fastgen report RUN...")
    runs = []
    for path in map(Path, paths):
        inside = sorted(path.glob("*/recipe.yaml")) or sorted(path.glob("runs/*/recipe.yaml"))
        found = [path] if (path / "recipe.yaml").is_file() else [recipe.parent for recipe in inside]
        found = [folder for folder in found if (folder / MANIFEST).is_file()]
        if not found:
            raise UserError(f"{path} is no run directory and contains none (they have recipe.yaml and {MANIFEST})")
        runs += [Run(folder) for folder in found]
    return runs


def names(runs: list[Run]) -> list[str]:
    """Folder names, with as much of the path before them as it takes to tell them apart."""
    for parts in range(1, 5):
        found = ["/".join(run.folder.resolve().parts[-parts:]) for run in runs]
        if len(set(found)) == len(found):
            return found
    return [str(run.folder) for run in runs]


def title(runs: list[Run]) -> str:
    return "Runs: " + ", ".join(sorted({run.settings["recipe"] for run in runs}))


def results(runs: list[Run]) -> Table:
    """A row for each run: what it is, and what came of it."""
    keys = [key for key in _SUMMARY if key not in _OF_SIGNS or any(key in run.summary for run in runs)]
    header = ["run", "labels", "model", "seed", "state", *(_SUMMARY[key] for key in keys), "minutes"]
    return header, [
        [
            name,
            run.labels.column_name,
            run.settings["model.name"],
            str(run.settings["seed"]),
            run.state,
            *(_number(run.summary.get(key)) for key in keys),
            _number(run.summary["wall_seconds"] / 60 if run.summary else None),
        ]
        for name, run in zip(names(runs), runs, strict=True)
    ]


def over_seeds(runs: list[Run]) -> Table | None:
    """Mean and spread over finished runs that differ in their seeds alone; None where there are none."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.state == "finished":
            rest = {k: v for k, v in run.settings.items() if k not in _SEEDS and not k.startswith(_MACHINE)}
            groups.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return None
    keys = ["train_top1", "test_top1", "interpolation_epoch"]
    keys += [key for key in _OF_SIGNS if any(key in run.summary for group in several for run in group)]
    return ["runs", "seeds", *(_SUMMARY[key] for key in keys)], [
        [
            " ".join([group[0].settings["recipe"], *(c for c in group[0].changes if not c.startswith(_SEEDS))]),
            str(len(group)),
            *(
                mean_and_deviation([run.summary[key] for run in group if run.summary.get(key) is not None])
                for key in keys
            ),
        ]
        for group in several
    ]


def data_of(run: Run) -> Table:
    """What it was trained on, from its manifest."""
    specification, split = run.manifest.specification, run.manifest.splits["train"]
    column = run.labels.column_name
    changed = split.columns[column].changed if column in split.columns else 0
    share = f"{changed:,} ({100 * changed / split.samples:.1f} %)"
    return ["source", "training samples", "classes", "pixels", "encoding", "labels changed", "manifest"], [
        [
            specification["source"]["source"],
            f"{split.samples:,}",
            str(run.labels.classes(run.manifest.num_classes)),
            specification["pixels"]["kind"],
            specification["image"]["encoding"],
            "signs in place of classes" if run.labels.signs else share,
            run.summary.get("manifest_sha256", "-")[:12],
        ]
    ]


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)
