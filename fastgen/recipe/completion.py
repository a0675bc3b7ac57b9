"""Completion of recipe=NAME and key=value on a command line."""

from collections.abc import Iterable

from fastgen.models import INCEPTION_V3, NETWORKS
from fastgen.optim.optimizers import DECAYED, OPTIMIZERS
from fastgen.optim.schedules import SCHEDULES
from fastgen.recipe.load import known_recipes
from fastgen.recipe.schema import EVALUATE, TRACKING, known_keys
from fastgen.recipe.validation import CUDA_GRAPHS, PRECISIONS
from pipelines.backends import BACKENDS
from pipelines.baked.encoding import ENCODINGS
from pipelines.corruptions import LABELS, PIXELS
from pipelines.corruptions.published import PUBLISHED
from pipelines.sources import SOURCES
from pipelines.view.preparation import NORMALIZATIONS
from pipelines.view.regions import RANDOM

_NAMES: dict[str, Iterable[str]] = {
    "data.source": SOURCES,
    "data.backend": BACKENDS,
    "data.labels.kind": LABELS,
    "data.labels.name": PUBLISHED,
    "data.pixels.kind": PIXELS,
    "data.view.random": RANDOM,
    "data.normalize.kind": NORMALIZATIONS,
    "bake.encoding": ENCODINGS,
    "model.name": (*NETWORKS, INCEPTION_V3),  # timm's others take seconds to list
    "optim.name": OPTIMIZERS,
    "optim.decay_on": DECAYED,
    "schedule.kind": SCHEDULES,
    "train.precision": PRECISIONS,
    "train.cuda_graphs": CUDA_GRAPHS,
    "train.evaluate": EVALUATE,
    "track.wandb": TRACKING,
}


def completions(setting: str) -> list[str]:
    """Settings that begin with `setting`: keys, or after "key=" the values that have names.

    Where only one key fits, the settings have its values or its default: the shell would take a lone "key=" for a whole
    word. After a comma comes another value (fastgen sweep).
    """
    key, equals, value = setting.partition("=")
    if equals:
        before = value[: value.rfind(",") + 1]
        return [found for name in values_of(key) if (found := f"{key}={before}{name}").startswith(setting)]
    keys = [known for known in ("recipe", *known_keys()) if known.startswith(setting)]
    if len(keys) != 1:
        return [f"{key}=" for key in keys]
    default = known_keys().get(keys[0])
    return [f"{keys[0]}={value}" for value in values_of(keys[0]) or ["", "null" if default is None else default]]


def values_of(key: str) -> list[str]:
    if key == "recipe":
        return known_recipes()
    if isinstance(known_keys().get(key), bool):
        return ["true", "false"]
    return list(_NAMES.get(key, ()))
