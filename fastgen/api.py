"""The Python interface: train, bake, open and load_run, which `import fastgen` gives.

Recipes are named as on a command line, and keys are keyword arguments with Python's values:

    run = fastgen.train("quickstart", **{"data.labels.kind": "random", "train.epochs": 20})

What a user can mend is a `UserError`, of one line, which a notebook shows as such.
"""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.recipe.load import defaults, known_recipes, load
from fastgen.recipe.schema import Recipe
from fastgen.runs.folder import RECIPE
from fastgen.sets import bake_recipe, open_path
from pipelines.baked.manifest import BakedSet
from pipelines.errors import UserError

__all__ = ["UserError", "bake", "load_run", "open", "train"]

if TYPE_CHECKING:
    from fastgen.training.opened import OpenSet
    from fastgen.training.trained import TrainedRun

# Of a set that is there already, these keys say how it is streamed and shown; the others say how one is made.
_OF_STREAMS = (
    "seed", "data.batch_size", "data.eval_batch_size", "data.backend", "data.workers", "data.image_size",
    "data.eval_size", "data.view.", "data.progressive.", "data.augment.", "data.normalize.", "train.accumulate",
)  # fmt: skip


def train(recipe: str | os.PathLike[str], /, **keys: Any) -> "TrainedRun":
    """Train a recipe in this process, and return its run.

    It prints what the command prints, and leaves the same run directory (a new one, or `run.dir`; with `run.resume` it
    goes on). The random numbers of Python, NumPy and PyTorch are seeded.

    Args:
        recipe: a name that `fastgen recipes` lists, or the path of a YAML file.
        keys: as `fastgen keys` lists them, with Python's values: numbers, texts, lists, True, None.

    Raises:
        UserError: a wrong recipe, key or value, or data that cannot be read.
        ArithmeticError: the loss stopped being finite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the run has a checkpoint then.
    """
    settings = load(os.fspath(recipe), _overrides(keys))  # before PyTorch is imported, so that mistakes end at once
    from fastgen.training.launch import alone
    from fastgen.training.loop import train
    from fastgen.training.trained import TrainedRun

    with alone():
        try:
            summary = train(settings)
        except SystemExit:
            raise KeyboardInterrupt from None
    return TrainedRun(Path(summary.run_dir))


def bake(recipe: str | os.PathLike[str], /, **keys: Any) -> BakedSet:
    """The recipe's baked set, made now if it is not there: open and checked.

    Its `path` is a folder of the cache (FASTGEN_CACHE), `manifest` says what is in it, and `splits["train"]` holds the
    columns (int64, one value a row) and images (`image(row)`: uint8 (H, W, 3)) of the file. Arguments as `train` has.

    Raises:
        UserError: a wrong recipe, key or value, data that cannot be read, or a folder that cannot be written.
    """
    return bake_recipe(load(os.fspath(recipe), _overrides(keys)))


def open(what: str | os.PathLike[str], /, **keys: Any) -> "OpenSet":
    """A set whose batches your own loop takes.

        opened = fastgen.open("cifar10_alexnet_random")
        for epoch in range(10):
            for batch in opened.batches(epoch=epoch, batch_size=128, device="cuda"):
                loss = cross_entropy(network(batch.images), batch.label)

    Args:
        what: a recipe, whose set is made now if it is not there; or the folder of a baked set or of an export.
        keys: of the recipe. With a folder those that say how a set is streamed and shown: seed, data.batch_size,
            data.backend, data.workers, data.image_size, data.view, data.augment, data.normalize.

    Raises:
        UserError: there is no such recipe or folder, the set is damaged, or a key is wrong.
    """
    said, name = _overrides(keys), os.fspath(what)
    as_a_name = isinstance(what, str) and "/" not in name
    is_recipe = name.endswith((".yaml", ".yml")) or (as_a_name and (name in known_recipes() or not Path(name).exists()))
    from fastgen.training.data import set_of
    from fastgen.training.opened import OpenSet

    if is_recipe:
        return OpenSet(set_of(load(name, said)), partial(_more, name, keys))
    for key in keys:
        if not key.startswith(_OF_STREAMS):
            raise UserError(
                f"{key} says how a set is made, and {name} is there already: leave it out, or name a recipe"
            )
    defaults(said)  # raises for what is wrong in them
    return OpenSet(open_path(Path(name)), partial(_more, None, keys), of_path=True)


def load_run(path: str | os.PathLike[str], /) -> "TrainedRun":
    """A run directory, finished or not: its summary, metrics, network and predictions.

    Raises:
        UserError: there is no run in it.
    """
    from fastgen.training.trained import TrainedRun

    folder = Path(path)
    if not (folder / RECIPE).is_file():
        raise UserError(
            f"{folder} is no run directory (it has no {RECIPE}); `fastgen train` and fastgen.train make one"
        )
    return TrainedRun(folder)


def _more(name: str | None, keys: dict[str, Any], further: dict[str, Any]) -> Recipe:
    said = _overrides({**keys, **further})
    return load(name, said) if name else defaults(said)


def _overrides(keys: Mapping[str, Any]) -> list[str]:
    """Python's values as a command line has them."""
    return [f"{key}={_written(key, value)}" for key, value in keys.items()]


def _written(key: str, value: Any) -> str:
    def plain(other: Any) -> Any:
        if isinstance(other, os.PathLike):
            return os.fspath(other)
        if hasattr(other, "item"):  # a number of NumPy's or PyTorch's
            return other.item()
        raise TypeError

    try:
        return json.dumps(value, default=plain, ensure_ascii=False)
    except (TypeError, ValueError):
        raise UserError(
            f"{key}={value!r} is no value that a recipe can hold: a number, text, list, True or None"
        ) from None
