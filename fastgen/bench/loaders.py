"""fastgen bench loaders: which loader feeds this machine's device?"""

import importlib.util
import statistics
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from fastgen.bench.contenders import CONTENDERS, FORMS, Work, default_workers
from fastgen.bench.photographs import repeated
from fastgen.bench.results import Table, conclude
from fastgen.bench.subprocesses import Measurement, chosen, in_turn, measure, median_and_range, ratios, values
from pipelines.baked.bake import bake
from pipelines.baked.export import export
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.sources import SourceSpec

_USUAL = ("torchvision, PIL", "timm")  # what most people train with: a column each


def loaders(
    only: list[str],
    repeats: int,
    output: Path,
    command: str,
    images: Path | None,
    samples: int,
    workers: int | None,
    size: int,
    batch: int,
) -> None:
    """only: names among CONTENDERS (empty: all). command: as the page quotes it. images, samples: as in `repeated`.
    workers: None for one a core. size: side of the delivered images in pixels.

    Raises UserError for mistakes, SystemExit(1) when a loader failed.
    """
    present, absent = [], {}
    for name in chosen(only, CONTENDERS):
        missing = [package for package in CONTENDERS[name].needs if not _installed(package)]
        if missing:
            absent[name] = f"absent: {', '.join(missing)} is not installed"
        else:
            present.append(name)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(present, Path(folder), images, samples, size, batch, workers or default_workers())
        asked = asdict(work)
        found, failed = in_turn(present, repeats, lambda name: measure("fastgen.bench.loader_process", name, asked))
    small, raw = FORMS["small"], FORMS["raw"]
    notes = (
        f"Random-resized-crop to {work.size} pixels and flip, batches of {work.batch} as bytes on the {work.device}, "
        f"{samples:,} photographs, {work.workers} threads or worker processes; the middle of "
        "an epoch, after a warm-up; all in turn, each time in a process of its own: median (lowest to highest).",
        f"small: baked with bake.resolution={small.resolution} bake.quality={small.quality}; raw: with "
        f"bake.encoding=raw bake.resolution={raw.resolution}; the others read the original files' bytes. timm's "
        "batches are normalised floats.",
        "First batch, cold: from the start of the process, imports and compilation included; opened: from the made "
        "loader; warm: of a later epoch. Memory: the largest of the process and its workers together.",
    )
    described = {name: asked[name] for name in ("size", "batch", "workers", "device")} | {"samples": samples}
    figures = {"work": described, "measured": found, "failed": failed, "absent": absent}
    table = _table(found, absent | failed, work)
    conclude(output / "loaders", "Loaders", table, notes, command, figures, "Images a second")


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def prepare(
    names: list[str], folder: Path, images: Path | None, samples: int, size: int, batch: int, workers: int
) -> Work:
    """Make in `folder` what these contenders read."""
    originals = repeated(images, samples, folder / "originals")
    sets, shards = {}, {}
    needed = {(CONTENDERS[name].of, CONTENDERS[name].reads) for name in names} - {("original", "files")}
    for stored in sorted({of for of, _ in needed}):
        source = SourceSpec("imagefolder", str(originals))
        baked = bake(source, LabelSpec(), PixelSpec(), FORMS[stored], folder, say=partial(print, flush=True))
        sets[stored] = str(baked.path)
        if (stored, "shards") in needed:
            shards[stored] = str(folder / f"{stored}-shards")
            export(baked, "webdataset", Path(shards[stored]), shard_bytes=32 << 20)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Work(str(originals), sets, shards, size, batch, workers, device)


def _table(found: dict[str, list[Measurement]], others: dict[str, str], work: Work) -> Table:
    """A row a loader, with its ratio to the best loader of original photographs, to the usual ones, and ours to the raw
    loader of the same files; on a GPU, how many such GPUs these cores could feed at that rate each."""
    peers = [name for name in found if not CONTENDERS[name].ours and CONTENDERS[name].of == "original"]
    rate = {name: statistics.median(values(found[name], "images_per_second")) for name in found}
    best = max(peers, key=lambda name: rate[name], default=None)
    header = ["loader", "images/s", f"of {best or 'the best peer'}", *(f"of {usual}" for usual in _USUAL)]
    header += ["of the raw loader", "CPU s / 1,000", "first batch: cold s", "opened s", "warm s", "peak MB"]
    header += ["GPUs fed"] if work.device == "cuda" else []
    rows = []

    def ratio(name: str, other: str | None) -> str:
        if other is None or other not in found or other == name:
            return "-"
        return f"{statistics.median(ratios(found[name], found[other], 'images_per_second')):.2f}"

    for name in sorted(found, key=lambda name: -rate[name]):
        measured = found[name]
        rows.append(
            [
                name,
                median_and_range(values(measured, "images_per_second")),
                ratio(name, best),
                *(ratio(name, usual) for usual in _USUAL),
                ratio(name, CONTENDERS[name].against),
                median_and_range(values(measured, "cpu_seconds_per_1000"), ".2f"),
                median_and_range(values(measured, "first_batch_cold_s"), ".1f"),
                median_and_range(values(measured, "first_batch_after_opening_s"), ".2f"),
                median_and_range(values(measured, "first_batch_warm_s"), ".2f"),
                median_and_range(values(measured, "peak_mb")),
                *([median_and_range(_fed(measured, work.workers), ".1f")] if work.device == "cuda" else []),
            ]
        )
    return header, rows + [[name, why, *[""] * (len(header) - 2)] for name, why in others.items()]


def _fed(measured: list[Measurement], cores: int) -> list[float]:
    """How many devices `cores` could feed at the measured rate each, judged by the CPU time that it took."""
    return [1000 * cores / (one["images_per_second"] * one["cpu_seconds_per_1000"]) for one in measured]
