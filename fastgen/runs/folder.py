"""The run directory: recipe.yaml, manifest.json, made_by.json, metrics.jsonl, summary.json, checkpoints/."""

import json
import re
from pathlib import Path
from typing import Any

from fastgen.recipe.load import load
from fastgen.recipe.schema import Recipe, leaves
from pipelines.backends import BACKENDS
from pipelines.baked.manifest import MANIFEST, Manifest
from pipelines.durable import write_atomically
from pipelines.errors import UserError

# What may differ between a run and its continuation: how long, how observed, on which machine.
_FREE = (
    "run.",
    "track.",
    "train.epochs",
    "train.max_steps",
    "train.threads",
    "train.timeout_minutes",
    "data.backend",
    "data.workers",
    "data.stage",
    "data.shards",
    "data.root",
    "bake.workers",
)
RECIPE = "recipe.yaml"
MADE_BY = "made_by.json"
_RUNS = Path("runs")
# What a run's result depends on beside its recipe and its data, as pip knows it.
PACKAGES = ("torch", "timm", "accelerate", "numpy", *(b.distribution for b in BACKENDS.values() if b.distribution))
WANDB_ID = "wandb_id.txt"  # a file of the run directory: the run's id in W&B
SAMPLES = "samples"  # the key of the sample images in W&B


def choose(recipe: Recipe) -> Path:
    """The folder of this run: made, empty, or (with run.resume) the one to continue.

    Raises UserError when run.dir is in use, when there is nothing to resume, or the recipe differs from the
    run's. Called by the main process alone.
    """
    if recipe.run.resume:
        folder = Path(recipe.run.dir) if recipe.run.dir else _latest(recipe.recipe)
        if folder is None or not (folder / RECIPE).is_file():
            raise UserError(f"run.resume=true, but there is no run to resume in {folder or _RUNS}")
        _check_same(recipe, folder)
        return folder
    if recipe.run.dir is None:
        return _new_numbered(recipe.recipe)
    folder = Path(recipe.run.dir)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"run.dir={folder} is not empty; run.resume=true continues it, another run.dir starts anew")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def decisive_settings(recipe: Recipe) -> dict[str, Any]:
    """What decides a run's result: all keys but where it lives, how it is observed and on which machine it runs."""
    several = ("train.epochs", "train.max_steps")  # which may change when a run goes on, and then make another one
    return {key: value for key, value in recipe.flat().items() if key in several or not key.startswith(_FREE)}


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of a parsed recipe.yaml."""
    return dict(leaves(Recipe, settings))


def note_maker(folder: Path, step: int, made_by: dict[str, str]) -> None:
    """Add to made_by.json that this code computes the steps after `step`."""
    path = folder / MADE_BY
    before = json.loads(path.read_text()) if path.exists() else []
    write_atomically(path, json.dumps([*before, {"after_step": step, **made_by}], indent=1) + "\n")


def _numbered(name: str) -> list[Path]:
    pattern = re.compile(re.escape(name) + r"-\d{3,}")
    found = [p for p in _RUNS.glob(f"{name}-*") if pattern.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))


def _latest(name: str) -> Path | None:
    found = _numbered(name)
    return found[-1] if found else None


def _new_numbered(name: str) -> Path:
    while True:
        last = _latest(name)
        number = int(last.name.rpartition("-")[2]) + 1 if last else 1
        folder = _RUNS / f"{name}-{number:03d}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue  # another run took the number


def _check_same(recipe: Recipe, folder: Path) -> None:
    # How it was watched is free, and W&B may be missing here.
    before = load(str(folder / RECIPE), ["track.wandb=off"]).flat()
    for key, value in recipe.flat().items():
        if not key.startswith(_FREE) and before.get(key) != value:
            raise UserError(
                f"{folder} was made with {key}={before.get(key)}, and now it is {value}; "
                "a resumed run must have the same recipe: take the difference back, or start another run.dir"
            )


def check_same_data(folder: Path, manifest: Manifest) -> None:
    """Raises UserError when the data under the same recipe are no longer those that the run was started with."""
    before = Manifest.load(folder / MANIFEST).specification
    if before != manifest.specification:
        differ = [key for key in manifest.specification if before.get(key) != manifest.specification[key]]
        raise UserError(
            f"{folder} was trained on other data (its manifest differs in {', '.join(differ)}); "
            "restore them, or start another run.dir"
        )
