"""Measures one writer in a process of its own: python -m fastgen.bench.bake_process NAME STARTED < WORK.json

Prints what was measured as one line of JSON. Imports are done before the time is taken, so STARTED, which `measure`
gives to every process, is not used.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fastgen.bench.loader_process import cpu_seconds, edges
from pipelines.baked.bake import BakeSpec, bake
from pipelines.baked.beton import Beton
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.sources import SourceSpec

SIZE, BATCH = 224, 32  # pixels of a side, and images, of the batches that are streamed


@dataclass(frozen=True)
class BakeWork:
    """photographs: class folders. spec: how they are stored. workers: threads or processes. loader: of the contenders,
    the one that streams our set afterwards, or none."""

    photographs: str
    spec: BakeSpec
    workers: int
    loader: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "BakeWork":
        values = json.loads(text)
        return cls(**{**values, "spec": BakeSpec(**values["spec"])})


def _ours(work: BakeWork, folder: Path) -> Callable[[], Path]:
    """From class folders to a baked set with a second labelling."""

    def write() -> Path:
        source = SourceSpec("imagefolder", work.photographs)
        spec = replace(work.spec, columns=[LabelSpec("random")], workers=work.workers)
        return bake(source, LabelSpec(), PixelSpec(), spec, folder).path / "train.beton"

    return write


def _ffcv(work: BakeWork, folder: Path) -> Callable[[], Path]:
    """As in FFCV's ImageNet example: from class folders to a file with one label."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    mode = {"jpeg": "jpg", "raw": "raw"}[work.spec.encoding]

    def write() -> Path:
        path = folder / "ffcv.beton"
        image = RGBImageField(write_mode=mode, max_resolution=work.spec.resolution, jpeg_quality=work.spec.quality)
        writer = DatasetWriter(str(path), {"image": image, "label": IntField()}, num_workers=work.workers)
        writer.from_indexed_dataset(ImageFolder(work.photographs))
        return path

    return write


WRITERS = {"fastgen": _ours, "FFCV": _ffcv}


def _streamed(path: Path, work: BakeWork, loader: str) -> float:
    """Images a second of a baked set, random-resized-crop and flip to bytes, after a first epoch."""
    import torch

    from fastgen.bench.contenders import CONTENDERS, Work

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


def main() -> None:
    name, work = sys.argv[1], BakeWork.from_json(sys.stdin.read())
    # What writers say on the way must not be taken for the result.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        write = WRITERS[name](work, Path(folder))
        cpu, began = cpu_seconds(), time.perf_counter()
        path = write()
        took, cpu = time.perf_counter() - began, cpu_seconds() - cpu
        written = Beton(path)
        measured = {
            "images_per_second": written.samples / took,
            "cpu_seconds_per_1000": 1000 * cpu / written.samples,
            "kb_per_image": float(written.sizes.mean()) / 1e3,
            "images": written.samples,
        }
        if work.loader:
            measured["streamed_images_per_second"] = _streamed(path, work, work.loader)
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # FFCV's threads and processes must not hold up the end
