"""What can be known to be wrong with a recipe before any data is opened."""

import importlib.util
from collections.abc import Iterable

from fastgen.models import is_known
from fastgen.optim.schedules import SCHEDULES
from fastgen.recipe.schema import DataSpec, Recipe
from pipelines.backends import BACKENDS
from pipelines.errors import UserError, did_you_mean
from pipelines.sources import SOURCES
from pipelines.view.preparation import NORMALIZATIONS

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TRACKING = ("online", "offline", "off")
_AT_LEAST_1 = (
    "data.batch_size", "data.eval_batch_size", "data.workers", "data.image_size", "data.limit", "data.limit_test",
    "data.eval_size", "data.progressive.start_size", "schedule.every_samples", "train.epochs", "train.max_steps",
    "train.evaluate_epochs", "train.checks_per_epoch", "train.accumulate", "train.threads", "run.keep_checkpoints",
    "track.log_steps",
)  # fmt: skip
_AT_LEAST_0 = (
    "seed", "data.labels.seed", "data.pixels.seed", "optim.lr", "optim.momentum", "optim.decay", "optim.eps",
    "optim.clip", "optim.weight_decay", "train.aux_weight", "train.timeout_minutes", "schedule.factor",
    "schedule.warmup_samples", "run.checkpoint_minutes",
)  # fmt: skip


def _choice(key: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise UserError(f"unknown {key} '{value}': {did_you_mean(value, known)}")


def _at_least(recipe: Recipe, least: float, *keys: str) -> None:
    values = recipe.flat()
    for key in keys:
        if values[key] is not None and values[key] < least:
            raise UserError(f"{key}={values[key]} must be at least {least}")


def validate(recipe: Recipe) -> None:
    """What can be known to be wrong before any data is opened. Raises UserError."""
    data, train = recipe.data, recipe.train
    for registry, name in ((SOURCES, data.source), (BACKENDS, data.backend), (SCHEDULES, recipe.schedule.kind)):
        registry[name]  # which raises for a name that it does not know
    _choice("train.precision", train.precision, PRECISIONS)
    _choice("track.wandb", recipe.track.wandb, TRACKING)
    if data.shards is not None and not BACKENDS[data.backend].streams_exports:
        able = " or ".join(name for name, backend in BACKENDS.items() if backend.streams_exports)
        raise UserError(f"data.shards is read by data.backend={able} alone, and data.backend={data.backend}")
    _at_least(recipe, 1, *_AT_LEAST_1)
    _at_least(recipe, 0, *_AT_LEAST_0)
    recipe.bake.validate(data.pixels)
    recipe.optim.validate()
    data.augment.validate()
    data.view.validate()
    _check_sizes(data)
    _choice("data.normalize.kind", data.normalize.kind, NORMALIZATIONS)
    for key, value in (
        ("model.dropout", recipe.model.dropout),
        ("train.label_smoothing", train.label_smoothing),
        ("train.ema", train.ema),
    ):
        if not 0 <= value < 1:
            raise UserError(f"{key}={value} must be at least 0 and below 1")
    if recipe.track.wandb != "off" and importlib.util.find_spec("wandb") is None:
        raise UserError(f"track.wandb={recipe.track.wandb} needs wandb: pip install wandb, or set track.wandb=off")
    if train.dynamics and data.labels.signs:
        raise UserError(
            f"train.dynamics=true compares with true labels, and data.labels.kind={data.labels.kind} has none"
        )
    _check_model(recipe.model.name)


def _check_sizes(data: DataSpec) -> None:
    if data.view.fraction is not None and data.image_size is None:
        raise UserError("data.view.fraction resizes images to data.image_size, which is not set")
    if data.view.fraction is not None and data.augment.random_crop:
        raise UserError("data.augment.random_crop crops images as baked; with data.view.fraction use data.view.random")
    if data.eval_size is not None and data.view.fraction is None:
        raise UserError("data.eval_size needs data.view.fraction: images that are not resized have one size")
    progressive = data.progressive
    if progressive.start_size is not None:
        if data.view.fraction is None:
            raise UserError("data.progressive needs data.view.fraction: images that are not resized have one size")
        if not 0 <= progressive.start_epoch < progressive.end_epoch:
            raise UserError("data.progressive.start_epoch must be at least 0 and below data.progressive.end_epoch")


def _check_model(name: str) -> None:
    if not is_known(name.partition(".")[0]):
        import timm

        near = did_you_mean(name, timm.list_models()).partition("known:")[0]
        raise UserError(f"unknown model.name '{name}': {near}timm.list_models() names all")
