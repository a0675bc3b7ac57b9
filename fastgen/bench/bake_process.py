"""Measures one writer in a process of its own, as `fastgen.bench.subprocesses.measure` starts it."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastgen.bench.contenders import CONTENDERS, Work
from fastgen.bench.loader_process import cpu_seconds, edges
from fastgen.bench.subprocesses import Measurement, answer
from pipelines.baked.bake import bake
from pipelines.baked.beton import Beton
from pipelines.baked.encoding import BakeSpec
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.sources import SourceSpec

SIZE, BATCH = 224, 32  # pixels of a side, and images, of the batches that are streamed


@dataclass(frozen=True)
class BakeWork:
    """photographs: class folders. spec: how they are stored. workers: threads or processes. loader: the contender that
    streams the set afterwards, or none."""

    photographs: str
    spec: BakeSpec
    workers: int
    loader: str | None = None


def _ours(work: BakeWork, folder: Path) -> Path:
    """From class folders to a baked set with a second labelling."""
    source = SourceSpec("imagefolder", work.photographs)
    spec = replace(work.spec, columns=[LabelSpec("random")], workers=work.workers)
    return bake(source, LabelSpec(), PixelSpec(), spec, folder).path / "train.beton"


def _ffcv() -> Callable[[BakeWork, Path], Path]:
    """As in FFCV's ImageNet example: from class folders to a file with one label."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    def write(work: BakeWork, folder: Path) -> Path:
        mode = {"jpeg": "jpg", "raw": "raw"}[work.spec.encoding]
        path = folder / "ffcv.beton"
        image = RGBImageField(write_mode=mode, max_resolution=work.spec.resolution, jpeg_quality=work.spec.quality)
        writer = DatasetWriter(str(path), {"image": image, "label": IntField()}, num_workers=work.workers)
        writer.from_indexed_dataset(ImageFolder(work.photographs))
        return path

    return write


# Each imports what it needs, and returns the function that is timed.
WRITERS: dict[str, Callable[[], Callable[[BakeWork, Path], Path]]] = {"fastgen": lambda: _ours, "FFCV": _ffcv}


def _streamed(path: Path, work: BakeWork, loader: str) -> float:
    """Images a second of a baked set, random-resized-crop and flip to bytes, after a first epoch."""
    torch.set_num_threads(1)  # as `loader_process` does
    sets = {"original": str(path.parent)}
    epoch = CONTENDERS[loader].open(Work(work.photographs, sets, {}, SIZE, BATCH, work.workers, "cpu"))
    edge, counted = edges(sum(1 for _ in epoch(0)))
    for number, _ in enumerate(epoch(1)):
        if number == edge:
            began = time.perf_counter()
        if number == edge + counted:
            took = time.perf_counter() - began
    return counted * BATCH / took


def measured(name: str, work_asked: dict[str, Any]) -> Measurement:
    work = BakeWork(**{**work_asked, "spec": BakeSpec(**work_asked["spec"])})
    write = WRITERS[name]()
    with tempfile.TemporaryDirectory() as folder:
        cpu, began = cpu_seconds(), time.perf_counter()
        path = write(work, Path(folder))
        took, cpu = time.perf_counter() - began, cpu_seconds() - cpu
        written = Beton(path)
        found = {
            "images_per_second": written.samples / took,
            "cpu_seconds_per_1000": 1000 * cpu / written.samples,
            "kb_per_image": float(written.sizes.mean()) / 1e3,
            "images": written.samples,
        }
        if work.loader:
            found["streamed_images_per_second"] = _streamed(path, work, work.loader)
    return found


if __name__ == "__main__":
    answer(measured)
    os._exit(0)  # FFCV's threads and processes must not hold up the end
