"""fastgen bench bake: how fast photographs are baked, how large they become, and how fast they are streamed then."""

import importlib.util
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

from fastgen.bench.bake_process import SIZE, WRITERS, BakeWork
from fastgen.bench.contenders import default_workers
from fastgen.bench.photographs import repeated
from fastgen.bench.results import Table, conclude
from fastgen.bench.subprocesses import Measurement, chosen, in_turn, measure, median_and_range, ratios, values
from pipelines.baked.encoding import BakeSpec

# What a user may choose, from the most faithful to the smallest, and raw pixels, which need no decoding. The pixels are
# those of the longest side.
STORED = {
    "original files": BakeSpec("jpeg"),
    "JPEG 90, 500 pixels": BakeSpec("jpeg", resolution=500, quality=90),
    "JPEG 90, 400 pixels": BakeSpec("jpeg", resolution=400, quality=90),
    "JPEG 80, 400 pixels": BakeSpec("jpeg", resolution=400, quality=80),
    "JPEG 90, 320 pixels": BakeSpec("jpeg", resolution=320, quality=90),
    "JPEG 90, 256 pixels": BakeSpec("jpeg", resolution=256, quality=90),
    "raw, 400 pixels": BakeSpec("raw", resolution=400),
    "raw, 256 pixels": BakeSpec("raw", resolution=256),
}


def bakes(
    only: list[str], repeats: int, output: Path, command: str, images: Path | None, samples: int, workers: int | None
) -> None:
    """only: names among STORED (empty: all). command: as the page quotes it. images, samples: as in `repeated`.
    workers: None for one a core.

    Raises UserError for mistakes, SystemExit(1) when a writer failed.
    """
    names, workers = chosen(only, STORED), workers or default_workers()
    has_ffcv = importlib.util.find_spec("ffcv") is not None
    absent = {} if has_ffcv else {"FFCV": "absent: ffcv is not installed"}
    runs = {f"{writer}: {name}": (writer, name) for name in names for writer in WRITERS if writer not in absent}
    with tempfile.TemporaryDirectory() as folder:
        photographs = str(repeated(images, samples, Path(folder)))

        def run(one: str) -> Measurement:
            writer, name = runs[one]
            loader = "fastgen ffcv" if has_ffcv and writer == "fastgen" else None
            work = BakeWork(photographs, STORED[name], workers, loader)
            # FFCV's writer waits for ever for a worker that failed.
            return measure("fastgen.bench.bake_process", writer, asdict(work), limit_s=600 + samples)

        found, failed = in_turn(runs, repeats, run)
    notes = (
        f"{samples:,} photographs from class folders, by {workers} threads (fastgen) or worker processes (FFCV's "
        "DatasetWriter over torchvision's ImageFolder), at the same longest side and quality; all in turn, each time "
        "in a process of its own: median (lowest to highest), ratios of neighbours in time. Ours includes a shuffled "
        "order, two labellings, hashes, the manifest, and that all is on the disk at the end; FFCV's writes one label.",
        "Original files that fit are kept byte for byte by ours, each decoded to prove that it is whole. FFCV's writer "
        "encodes all again: beside 'original files' stands its write_mode='jpg' without max_resolution.",
        f"Streamed: data.backend=ffcv over our file, random-resized-crop to {SIZE} pixels and flip, as bytes in "
        "memory, in the middle of a second epoch.",
    )
    figures = {"samples": samples, "workers": workers, "measured": found, "failed": failed, "absent": absent}
    table = _table(names, found, failed, absent)
    conclude(output / "bake", "Bakes", table, notes, command, figures, "Images baked a second")


def _table(
    names: list[str], found: dict[str, list[Measurement]], failed: dict[str, str], absent: dict[str, str]
) -> Table:
    header = ["stored", "fastgen images/s", "FFCV images/s", "fastgen is", "CPU s / 1,000: fastgen", "FFCV"]
    header += ["kB an image: fastgen", "FFCV", "streamed images/s"]
    rate, cpu, size = "images_per_second", "cpu_seconds_per_1000", "kb_per_image"
    rows = []
    for name in names:
        of = {writer: found.get(f"{writer}: {name}", []) for writer in WRITERS}
        why = absent | {w: f"failed: {failed[f'{w}: {name}']}" for w in WRITERS if f"{w}: {name}" in failed}
        ours, other = of["fastgen"], of["FFCV"]
        rows.append(
            [
                name,
                *(why.get(writer) or median_and_range(values(of[writer], rate)) for writer in WRITERS),
                f"{statistics.median(ratios(ours, other, rate)):.2f} x" if ours and other else "-",
                *(median_and_range(values(of[writer], cpu), ".2f") for writer in WRITERS),
                *(median_and_range(values(of[writer][:1], size), ".1f") for writer in WRITERS),
                "-" if absent else median_and_range(values(ours, "streamed_images_per_second")),
            ]
        )
    return header, rows
