"""fastgen bench train: does the data keep up with the network?"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from fastgen.bench.photographs import repeated
from fastgen.bench.results import Table, conclude
from fastgen.bench.subprocesses import Measurement, chosen, in_turn, measure, median_and_range, ratios, values
from fastgen.recipe.load import load

_SIDES = ("training", "compute", "loader")


def workloads(photographs: Path) -> dict[str, tuple[str, list[str]]]:
    """Name -> recipe and settings. photographs: class folders that the trainings at ImageNet's shape read."""
    batch = 256 if torch.cuda.is_available() else 8
    small = {
        name: (f"cifar10_{name}_random", ["train.evaluate_epochs=1000"])
        for name in ("mlp_1x512", "mlp_3x512", "alexnet", "inception")
    }
    large = {
        f"{name} {size} {backend}": (
            "imagenet_sample_random",
            [
                f"data.root={photographs}", f"model.name={name}", f"data.image_size={size}", "data.view.random=area",
                f"data.batch_size={batch}", "train.evaluate_epochs=1000", "train.epochs=1000",
                f"data.backend={backend}", "data.augment.flip=true", "bake.resolution=400",
            ],
        )
        for name, size in (("inception_v3", 299), ("resnet50", 224))
        for backend in ("dali", "ffcv")
    }  # fmt: skip
    return small | large


def train(
    only: list[str],
    repeats: int,
    output: Path,
    command: str,
    images: Path | None,
    samples: int,
    steps: int,
    settings: list[str],
) -> None:
    """settings: recipe=NAME to measure this one in place of `workloads`; key=value applies to all. only: names among
    them (empty: all). command: as the page quotes it. images, samples: as in `repeated`, for those at ImageNet's shape.
    steps: timed in each repetition.

    Raises UserError for mistakes, SystemExit(1) when one failed.
    """
    given = [setting.partition("=")[2] for setting in settings if setting.startswith("recipe=")]
    settings = [setting for setting in settings if not setting.startswith("recipe=")]
    with tempfile.TemporaryDirectory() as folder:
        known: dict[str, tuple[str, list[str]]] = {name: (name, []) for name in given} or workloads(Path(folder))
        names = chosen(only, known)
        asked: dict[str, tuple[str, dict[str, Any]]] = {}
        for name in names:
            recipe, own = known[name]
            load(recipe, [*own, *settings])  # mistakes are told before anything is measured
            work = {"recipe": recipe, "settings": [*own, *settings], "steps": steps}
            asked |= {f"{name}: {side}": (side, work) for side in _SIDES}
        if any(f"data.root={folder}" in known[name][1] for name in names):
            repeated(images, samples, Path(folder))
        found, failed = in_turn(asked, repeats, lambda one: measure("fastgen.bench.train_process", *asked[one]))
    notes = (
        "Compute: the recipe's step on one batch that is on the device already; loader: its batches with nothing done "
        "with them. All in turn, each time in a process of its own: median (lowest to highest), ratios of neighbours.",
        "Share of peak: operations of forward and backward over those of a large matrix product in the same precision "
        "on the same device, measured in the same process.",
    )
    table, figures = _table(names, found, failed), {"measured": found, "failed": failed}
    conclude(output / "train", "Training beside its limits", table, notes, command, figures)


def _table(names: list[str], found: dict[str, list[Measurement]], failed: dict[str, str]) -> Table:
    header = ["training", "images/s", "of compute", "of loader", "stall %", "GPU busy %", "compute images/s"]
    header += ["loader images/s", "GFLOP/image", "share of peak %", "advice"]
    rows = []
    for name in names:
        sides = {side: found.get(f"{name}: {side}") for side in _SIDES}
        whole, limit, data = (sides[side] for side in _SIDES)
        if whole is None or limit is None or data is None:
            why = next(failed[f"{name}: {side}"] for side in _SIDES if f"{name}: {side}" in failed)
            rows.append([name, f"failed: {why}", *[""] * (len(header) - 2)])
            continue
        rate = "images_per_second"
        busy = [value for value in values(whole, "gpu_utilisation") if value is not None]
        rows.append(
            [
                name,
                median_and_range(values(whole, rate)),
                median_and_range(ratios(whole, limit, rate), ".2f"),
                median_and_range(ratios(whole, data, rate), ".3f"),
                median_and_range([100 * value for value in values(whole, "data_stall_fraction")], ".1f"),
                median_and_range(busy),
                median_and_range(values(limit, rate)),
                median_and_range(values(data, rate)),
                f"{limit[0]['gflop_per_image']:.3g}",
                median_and_range([100 * value for value in values(limit, "share_of_peak")], ".0f"),
                whole[-1]["advice"],
            ]
        )
    return header, rows
