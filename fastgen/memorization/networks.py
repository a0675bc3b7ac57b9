"""The networks, each trained on a random subset of the samples, and what they say of every sample."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fastgen.memorization.tables import SAMPLES
from fastgen.recipe.load import stored
from fastgen.recipe.schema import Recipe
from fastgen.runs import predictions
from fastgen.runs.folder import decisive_settings
from fastgen.sweeps.executor import DONE, FAILED, Job, run_points
from fastgen.sweeps.grid import Point
from fastgen.sweeps.sweep import LiveTable
from pipelines.durable import write_durably
from pipelines.errors import UserError

ASKED = "recipe.of_all.yaml"  # in the folder of the networks: what they have in common
_OURS = ("run.", "data.subset.", "train.predictions=")  # settings that are each network's


@dataclass(frozen=True)
class Asked:
    """What all networks have in common: a recipe's name or path, and settings "key=value"."""

    recipe: str
    settings: tuple[str, ...]

    @staticmethod
    def parse(arguments: list[str]) -> "Asked":
        """From "recipe=NAME" and "key=value". Raises UserError for mistakes that need no data."""
        recipes = [text.removeprefix("recipe=") for text in arguments if text.startswith("recipe=")]
        settings = tuple(text for text in arguments if not text.startswith("recipe="))
        if len(recipes) != 1:
            raise UserError("name one recipe: fastgen memorization recipe=NAME key=value ...")
        if own := [text for text in settings if text.startswith(_OURS)]:
            raise UserError(f"{own[0]} is chosen for each network; seed=S is where their seeds begin")
        if Asked(recipes[0], settings).point().load().data.labels.signs:
            raise UserError("memorization compares with labels, and the labels of this recipe are random signs")
        return Asked(recipes[0], settings)

    def point(self, *more: str) -> Point:
        return Point(self.recipe, (*self.settings, *more))

    def claim(self, root: Path) -> None:
        """Write down in root what its networks are asked for. Raises UserError where there are estimates for other
        settings, which would be written over."""
        path = root / ASKED
        if path.exists() and (root / SAMPLES).exists():
            try:
                there, here = stored(path), decisive_settings(self._recipe)
            except UserError as error:
                raise UserError(f"{error}; delete it, or name another folder with --output") from None
            if differ := [f"{key}={there.get(key)}, not {here[key]}" for key in here if there.get(key) != here[key]]:
                raise UserError(
                    f"{root} has the estimates for {', '.join(differ)}; name another folder with --output, or delete "
                    f"{SAMPLES} there"
                )
        else:
            root.mkdir(parents=True, exist_ok=True)
            write_durably(path, self._recipe.to_yaml())

    def on_subsets(self, fraction: float, networks: int) -> list[Point]:
        """Network t has the seed S + t for its samples, their order and its weights; S: the recipe's seed."""
        first, drawn = self._recipe.seed, ("train.predictions=true", f"data.subset.fraction={fraction!r}")
        return [
            self.one_of_many(f"seed={seed}", *drawn, f"data.subset.seed={seed}")
            for seed in range(first, first + networks)
        ]

    def one_of_many(self, *more: str) -> Point:
        """One of hundreds, of which W&B gets what they say together, and of which evaluations before the end tell
        nobody anything."""
        train = self._recipe.train  # which may end at an evaluation
        asked = train.stop_at_interpolation or any(text.startswith("train.evaluate_epochs=") for text in self.settings)
        seldom = () if asked else (f"train.evaluate_epochs={train.epochs}",)
        return self.point(*more, *seldom, "track.wandb=off")

    @cached_property
    def _recipe(self) -> Recipe:
        return self.point().load()


def train(points: list[Point], root: Path, jobs: int | None) -> list[Job]:
    """Train those of the points that are missing in root/runs, and return a job for each, in their order.

    Of a finished network only what it says is kept, not its weights. jobs: at a time. Raises UserError for mistakes.
    """
    distinct = {point.folder_name: point for point in points}
    kept: set[Path] = set()
    with LiveTable(["network"], lambda job: [_what(job.point)]) as live:
        found = run_points(distinct.values(), root / "runs", jobs, _trimming(live.show, kept))
    by_name = {job.folder.name: job for job in found}
    return [by_name[point.folder_name] for point in points]


def _what(point: Point) -> str:
    """The settings that tell a network from the others."""
    own = ("seed=", "data.subset.")
    return " ".join(text for text in point.settings if text.startswith(own)) or "all samples"


def _trimming(show: Callable[[list[Job]], None], trimmed: set[Path]) -> Callable[[list[Job]], None]:
    def watch(jobs: list[Job]) -> None:
        for job in jobs:
            if job.state == DONE and job.folder not in trimmed:
                shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
                trimmed.add(job.folder)
        show(jobs)

    return watch


@dataclass(frozen=True)
class Said:
    """By the networks that have finished, in order of their seeds. member: bool (networks, n), trained on the sample.
    correct: bool (networks, n), gives it its given label. margin: float16 (networks, n), of that label.
    correct_test: bool (networks, m), gives the test sample its label."""

    member: np.ndarray
    correct: np.ndarray
    margin: np.ndarray
    correct_test: np.ndarray


def collect(jobs: list[Job], samples: int, test_samples: int) -> Said:
    """What the networks say that have finished. One whose predictions are missing or damaged has failed after all."""
    found: list[tuple[predictions.Predictions, predictions.Predictions]] = []
    for job in jobs:
        if job.state == DONE and (summary := job.summary) is not None:
            try:
                found.append(predictions.read(job.folder, summary))
            except UserError as error:
                job.state, job.problem = FAILED, str(error)

    def stacked(values: list[np.ndarray], size: int, dtype: type) -> np.ndarray:
        return np.stack(values) if values else np.empty((0, size), dtype)

    return Said(
        stacked([training.member for training, _ in found], samples, np.bool_),
        stacked([training.correct_given for training, _ in found], samples, np.bool_),
        stacked([training.margin for training, _ in found], samples, np.float16),
        stacked([test.correct_given for _, test in found], test_samples, np.bool_),
    )
