"""The rules of a recipe that need no data to be checked."""

import importlib.util
import re
import sys
from collections.abc import Iterable
from typing import Any

from fastgen.models import is_known
from fastgen.optim.schedules import SCHEDULES
from fastgen.recipe.schema import EVALUATE, TRACKING, DataSpec, Recipe
from pipelines.backends import BACKENDS
from pipelines.corruptions.published import check_source
from pipelines.errors import UserError, did_you_mean
from pipelines.sources import SOURCES
from pipelines.view.preparation import NORMALIZATIONS

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
CUDA_GRAPHS = ("auto", "on", "off")
_MOST_MINUTES = 1_000_000  # two years: more is no time that gloo can count
# Smallest value -> the keys that must be at least that, or null.
_AT_LEAST = {
    1: (
        "data.batch_size", "data.eval_batch_size", "data.workers", "data.image_size", "data.limit", "data.limit_test",
        "data.eval_size", "data.progressive.start_size", "schedule.every_samples", "train.epochs", "train.max_steps",
        "train.evaluate_epochs", "train.evaluate_train_epochs", "train.checks_per_epoch", "train.accumulate",
        "train.threads", "run.keep_checkpoints",
        "track.log_steps",
    ),
    0: (
        "seed", "data.holdout_seed", "data.subset.seed", "data.labels.seed", "data.pixels.seed", "optim.lr",
        "optim.momentum", "optim.decay", "optim.eps", "optim.clip", "optim.weight_decay", "train.aux_weight",
        "train.mixup", "train.cutmix", "schedule.factor", "schedule.warmup_samples", "run.checkpoint_minutes",
    ),
}  # fmt: skip

# Largest value -> the keys that must be at most that: PyTorch crashes at more threads, and NumPy takes no larger seed.
_AT_MOST = {1024: ("data.workers", "bake.workers", "train.threads"), 2**32 - 1: ("seed",)}


def _choice(key: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise UserError(f"unknown {key} '{value}': {did_you_mean(value, known)}")


def validate(recipe: Recipe) -> None:
    """Raises UserError for all that can be known to be wrong before any data is opened."""
    data, train, values = recipe.data, recipe.train, recipe.flat()
    for registry, name in ((SOURCES, data.source), (BACKENDS, data.backend), (SCHEDULES, recipe.schedule.kind)):
        registry[name]  # raises for an unknown name
    _choice("train.precision", train.precision, PRECISIONS)
    _choice("train.cuda_graphs", train.cuda_graphs, CUDA_GRAPHS)
    _choice("train.evaluate", train.evaluate, EVALUATE)
    _choice("track.wandb", recipe.track.wandb, TRACKING)
    if data.shards is not None and not BACKENDS[data.backend].streams_exports:
        able = " or ".join(name for name, backend in BACKENDS.items() if backend.streams_exports)
        raise UserError(f"data.shards is read by data.backend={able} alone, and data.backend={data.backend}")
    _check_numbers(values)
    recipe.bake.validate(data.pixels)
    recipe.optim.validate()
    data.augment.validate()
    data.view.validate()
    data.dali.validate()
    data.subset.validate()
    _check_sizes(data)
    _choice("data.normalize.kind", data.normalize.kind, NORMALIZATIONS)
    spec = data.labels.resolved()
    if spec.kind == "table" and spec.file is None and spec.column is not None:
        check_source(spec.column, data.source)
    if not 0 < train.fitted_at <= 100:
        raise UserError(f"train.fitted_at={train.fitted_at} is a percentage above 0 and up to 100")
    for key in ("data.holdout", "model.dropout", "train.label_smoothing", "train.ema"):
        if not 0 <= values[key] < 1:
            raise UserError(f"{key}={values[key]} must be at least 0 and below 1")
    if recipe.track.wandb != "off" and importlib.util.find_spec("wandb") is None:
        raise UserError(f"track.wandb={recipe.track.wandb} needs wandb: pip install wandb, or set track.wandb=off")
    for key in ("train.dynamics", "train.predictions"):
        if values[key] and data.labels.signs:
            raise UserError(f"{key}=true compares with true labels, and data.labels.kind={data.labels.kind} has none")
    if train.dynamics and train.mixes:
        raise UserError(
            "train.dynamics=true records how each sample is learned, and train.mixup and train.cutmix train on "
            "mixtures of two; leave one of them out"
        )
    if recipe.run.name and not re.fullmatch(r"[^/\0]{1,200}", recipe.run.name.strip(".")):
        raise UserError(f"run.name={recipe.run.name} is part of a folder's name: up to 200 characters without a /")
    _check_model(recipe.model.name)


def _check_numbers(values: dict[str, Any]) -> None:
    for least, keys in _AT_LEAST.items():
        for key in keys:
            if values[key] is not None and values[key] < least:
                raise UserError(f"{key}={values[key]} must be at least {least}")
    for key, value in values.items():
        for number in value if isinstance(value, list) else [value]:
            most = {int: 2**63 - 1, float: sys.float_info.max}.get(type(number))
            if most is not None and not abs(number) <= most:  # nan is not, either
                raise UserError(f"{key}={value} is no number that can be reckoned with")
    for largest, keys in _AT_MOST.items():
        for key in keys:
            if values[key] is not None and values[key] > largest:
                raise UserError(f"{key}={values[key]} must be at most {largest}")
    for key in ("train.startup_minutes", "train.timeout_minutes"):
        if not 0 < values[key] <= _MOST_MINUTES:
            raise UserError(f"{key}={values[key]:g} must be above 0 and at most {_MOST_MINUTES:,}")


def _check_sizes(data: DataSpec) -> None:
    resized, progressive = data.view.fraction is not None, data.progressive
    if resized and data.image_size is None:
        raise UserError("data.view.fraction resizes images to data.image_size, which is not set")
    if resized and data.augment.random_crop:
        raise UserError("data.augment.random_crop crops images as baked; with data.view.fraction use data.view.random")
    if data.pixels.window is not None and (resized or data.augment.random_crop):
        other = "data.view.fraction" if resized else "data.augment.random_crop=true"
        raise UserError(
            f"data.pixels.before_crop=false permutes the central data.image_size pixels alone, and {other} shows "
            "others; leave one of the two out"
        )
    for key, size in (("data.eval_size", data.eval_size), ("data.progressive", progressive.start_size)):
        if size is not None and not resized:
            raise UserError(f"{key} needs data.view.fraction: images that are not resized have one size")
    if progressive.start_size is not None and not 0 <= progressive.start_epoch < progressive.end_epoch:
        raise UserError("data.progressive.start_epoch must be at least 0 and below data.progressive.end_epoch")


def _check_model(name: str) -> None:
    if not is_known(name.partition(".")[0]):
        import timm

        near = did_you_mean(name, timm.list_models()).partition("known:")[0]
        raise UserError(f"unknown model.name '{name}': {near}timm.list_models() names all")
