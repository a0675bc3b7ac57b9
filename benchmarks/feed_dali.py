"""What feeding DALI from Python costs: how fast image files and regions reach it, with and without decoding.

    python benchmarks/feed_dali.py FOLDER [--repeats 5] [--json OUT.json]

FOLDER: class folders of JPEG files, taken over and over until there are 4,000. Batches of 256 in shuffled order,
random regions, 224 pixels. All in turn in one process, on one core if it is started on one (taskset -c 0).

  feed .beton    our generator alone: bytes in the mapped file, regions drawn
  feed shards    the same from the shards of an export: positioned reads in threads, each image's CRC-32 checked
  hand over      the first through DALI's external_source into a pipeline that only passes it on
  DALI's reader  its own WebDataset reader over the same shards, which only passes the files on
  whole, .beton  the dali backend: fed, decoded, resized, labels beside it
  whole, shards  the same from the shards
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nvidia.dali import Pipeline, fn, types

from fastgen.bench.photographs import repeated
from fastgen.bench.results import write_figures
from pipelines.backends.dali import DALIEngine
from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.export import export
from pipelines.baked.shards import Export
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.sampler import Sampler
from pipelines.sources import SourceSpec
from pipelines.view.regions import View, ViewSpec

SAMPLES, BATCH = 4000, 256
VIEW = View(ViewSpec(0.875, random="area"), 224, seed=0, epoch=0)


def passed_on(outputs: Callable[[], list[Any]], batches: int) -> int:
    """Run a pipeline that does nothing with its inputs; returns how many images they were."""
    pipeline = Pipeline(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=3)
    with pipeline:
        pipeline.set_outputs(*outputs())
    pipeline.build()
    return sum(len(pipeline.run()[0]) for _ in range(batches))


def handed_over(engine: DALIEngine, sampler: Sampler) -> int:
    batches = sampler.batches()
    kinds = [types.DALIDataType.UINT8, types.DALIDataType.INT32, types.DALIDataType.INT32]
    feed = engine.feed(batches, VIEW)
    return passed_on(lambda: fn.external_source(source=feed, num_outputs=3, no_copy=True, dtype=kinds), len(batches))


def read_by_dali(shards: list[str], batches: int) -> int:
    reader = partial(
        fn.readers.webdataset,
        paths=shards,
        index_paths=[path.replace(".tar", ".idx") for path in shards],
        ext=["jpg", "clean_label.i64"],
        dtypes=[types.DALIDataType.UINT8, types.DALIDataType.INT64],
        random_shuffle=True,
        dont_use_mmap=True,
    )
    return passed_on(reader, batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        source = SourceSpec("imagefolder", str(repeated(arguments.folder, SAMPLES, root / "photographs")))
        baked = bake(source, LabelSpec("random"), PixelSpec(), BakeSpec("jpeg"), root)
        export(baked, "webdataset", root / "export", shard_bytes=64 << 20)
        cpu, column = torch.device("cpu"), LabelSpec("random").column_name
        mapped = DALIEngine(baked.splits["train"], cpu, 3, None)
        sharded = DALIEngine(Export.open(root / "export").splits["train"], cpu, 3, None)
        sampler = Sampler(SAMPLES, BATCH)
        batches = sampler.batches()
        shards = [str(path) for path in sorted((root / "export").glob("train-*.tar"))]
        loops: dict[str, Callable[[], int]] = {
            "feed .beton": lambda: sum(len(fed[0]) for fed in mapped.feed(batches, VIEW)),
            "feed shards": lambda: sum(len(fed[0]) for fed in sharded.feed(batches, VIEW)),
            "hand over": lambda: handed_over(mapped, sampler),
            "DALI's reader": lambda: read_by_dali(shards, len(batches)),
            "whole, .beton": lambda: sum(len(batch.index) for batch in mapped.batches(sampler, column, VIEW)),
            "whole, shards": lambda: sum(len(batch.index) for batch in sharded.batches(sampler, column, VIEW)),
        }
        rates: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(arguments.repeats + 1):
            for name, loop in loops.items():
                started = time.perf_counter()
                images = loop()
                rates[name].append(images / (time.perf_counter() - started))
    rates = {name: values[1:] for name, values in rates.items()}  # the first round warms up
    print(f"{'':14} {'images/s':>9} {'range':>19} {'of whole, .beton':>17}")
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, rates["whole, .beton"], strict=True))
        median = statistics.median(values)
        print(f"{name:14} {median:9,.0f} {min(values):9,.0f}-{max(values):9,.0f} {ratio:15.2f} x")
    if arguments.json:
        command = "python benchmarks/feed_dali.py " + " ".join(sys.argv[1:])
        write_figures(arguments.json, command, {"images_per_second": rates})


if __name__ == "__main__":
    main()
