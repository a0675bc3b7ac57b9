"""Source -> corruption -> baked set: the files that the backends stream, and their manifest.

A set is found again by its specification (source fingerprint, pixel corruption, encoding) and never baked
twice. Labels are columns of it: another labelling of the same images copies the payload, and encodes nothing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from pipelines.baked.beton import JPEG, PAGE_BYTES, RAW, Beton, Hashes, bytes_of
from pipelines.baked.manifest import MANIFEST, BakedSet, Column, Manifest, Split, describe
from pipelines.baked.writer import Writer, add_columns
from pipelines.corruptions import PIXELS, LabelSpec, PixelSpec, Statistics, corrupt_labels, pixel_corruption
from pipelines.durable import check_room, sync_folder, write_durably
from pipelines.errors import UserError, did_you_mean
from pipelines.locations import cache_root
from pipelines.prefetch import Prefetcher
from pipelines.progress import tracked
from pipelines.provenance import made_by
from pipelines.randomness import permutation
from pipelines.sources import SPLITS, Source, SourceSpec, open_source, which_samples
from pipelines.sources.decoding import Decoded, read_image

ENCODINGS = ("raw", "jpeg")
_SIDE, _JPEG_SIDE = 65535, 65500  # pixels: what a .beton says of an image's sides, and what libjpeg encodes
_CHUNK = 32  # samples encoded by a task: enough to hide the task's cost, few enough to keep all cores busy


@dataclass
class BakeSpec:
    """How images are stored (bake.*).

    encoding: raw pixels or JPEG. resolution: the longest side in pixels at most (larger images are reduced by area
    averaging); with square, the central square, resized to exactly resolution x resolution. quality: of JPEG,
    1..100. An original JPEG that fits, and is upright as it is stored, is kept byte for byte. columns: labellings to
    bake beside the recipe's own. workers: threads (None: the cores at hand); it never changes a byte.
    """

    encoding: str = "raw"
    resolution: int | None = None
    square: bool = False
    quality: int = 90
    columns: list[LabelSpec] = field(default_factory=list)
    workers: int | None = None

    def validate(self, pixels: PixelSpec) -> None:
        """Raises UserError on settings that contradict each other."""
        if self.encoding not in ENCODINGS:
            raise UserError(f"unknown bake.encoding '{self.encoding}': {did_you_mean(self.encoding, ENCODINGS)}")
        if self.resolution is not None and not 1 <= self.resolution <= 65535:
            raise UserError(f"bake.resolution={self.resolution} must be 1 to 65535 pixels")
        if self.square and self.resolution is None:
            raise UserError("bake.square=true needs bake.resolution, the side of the square")
        if not 1 <= self.quality <= 100:
            raise UserError(f"bake.quality={self.quality} must be 1 to 100")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"bake.workers={self.workers} must be at least 1")
        if pixels.kind != "none" and self.encoding == "jpeg":
            raise UserError(
                f"data.pixels.kind={pixels.kind} is noise to JPEG, which would change its mean and variance; "
                "set bake.encoding=raw"
            )


def specification(
    source: SourceSpec, pixels: PixelSpec, bake: BakeSpec, fingerprints: dict[str, str]
) -> dict[str, Any]:
    """What the payload depends on, as plain data: equal specifications make equal payloads."""
    encoding: dict[str, Any] = {"encoding": bake.encoding, "resolution": bake.resolution, "square": bake.square}
    if bake.encoding == "jpeg":
        encoding["quality"] = bake.quality
    return {
        "source": asdict(which_samples(source)),
        "fingerprints": fingerprints,
        "pixels": pixels.described(),
        "image": encoding,
        "order_seed": 0,
        "page_bytes": PAGE_BYTES,
    }


def check_made_as(manifest: Manifest, folder: Path, source: SourceSpec, pixels: PixelSpec, bake: BakeSpec) -> None:
    """Raises UserError unless the set of `manifest` is of this specification (the source's files are not looked at)."""
    wanted = specification(source, pixels, bake, manifest.specification["fingerprints"])
    for part, keys in (("source", "data."), ("pixels", "data.pixels."), ("image", "bake.")):
        made, asked = manifest.specification[part], wanted[part]
        for key in sorted(made.keys() | asked.keys()):
            if made.get(key) != asked.get(key):
                raise UserError(
                    f"{folder} was made with {keys}{key}={made.get(key)}, and the recipe says {asked.get(key)}: "
                    "make them agree, or name another folder"
                )


def bake(
    source: SourceSpec,
    labels: LabelSpec,
    pixels: PixelSpec,
    spec: BakeSpec,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> BakedSet:
    """The baked set of this specification with this labelling: found, extended by a label column, or made.

    cache: the folder of baked sets (default: FASTGEN_CACHE). say: is told each step in words.
    Safe to call from several processes: one bakes, the others wait for it.
    Raises UserError for contradictory settings, missing data, or a sample that cannot be decoded.
    """
    spec.validate(pixels)
    wanted = {s.column_name: s.resolved() for s in (labels, *spec.columns)}
    splits = {name: opened for name in SPLITS if (opened := open_source(source, name)) is not None}
    plan = specification(source, pixels, spec, {name: s.fingerprint for name, s in splits.items()})
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:12]
    root = (cache or cache_root()) / "baked"
    folder = root / f"{source.source}-{pixels.kind}-{spec.encoding}-{digest}"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{folder.name}.lock"):
        _finish_extension(folder)
        if not (folder / MANIFEST).is_file():
            going_on = " (going on from where it was stopped)" if _unfinished(folder).exists() else ""
            say(f"baking {source.source} into {folder}{going_on}")
            for note in (note for split in splits.values() for note in split.notes):
                say(note)
            _bake_new(folder, splits, wanted, pixels, spec, plan)
        baked = BakedSet.open(folder)
        missing = {n: s for n, s in wanted.items() if n not in baked.splits["train"].names}
        if missing:
            say(f"adding {', '.join(missing)} to {folder}")
            _extend(baked, splits["train"], missing)
            baked = BakedSet.open(folder)
        return baked


def _file_order(n: int, split: str) -> np.ndarray:
    """Sample index of each row: a fixed shuffle, so that a sequential read is already mixed."""
    return permutation(n, 0, "bake/order", split)


def _label_columns(
    source: Source, specs: dict[str, LabelSpec], order: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, Column]]:
    arrays, described = {}, {}
    for name, spec in specs.items():
        given = corrupt_labels(spec, source.labels, source.num_classes, source.total)
        arrays[name] = given[order]
        settings = {k: v for k, v in asdict(spec).items() if v is not None}
        # A sign is no class, even where the two are the same number.
        described[name] = Column(settings, len(given) if spec.signs else int((given != source.labels).sum()))
    return arrays, described


def _bake_new(
    folder: Path,
    splits: dict[str, Source],
    labels: dict[str, LabelSpec],
    pixels: PixelSpec,
    spec: BakeSpec,
    plan: dict[str, Any],
) -> None:
    train, kind = splits["train"], PIXELS[pixels.kind]
    workers = spec.workers or len(os.sched_getaffinity(0))
    statistics = _statistics(train, spec, workers) if kind.needs_statistics else None
    unfinished = _unfinished(folder)
    unfinished.mkdir(exist_ok=True)
    try:
        described = {}
        for name, source in splits.items():
            if not (source.labels.min() >= 0 and source.labels.max() < train.num_classes):
                raise UserError(f"{name} labels are not all in 0..{train.num_classes - 1}")
            # Test labels are never touched.
            columns = labels if name == "train" else {"label_true": LabelSpec()}
            corrupt = pixel_corruption(pixels, name, statistics)
            described[name] = _bake_split(unfinished / f"{name}.beton", source, name, columns, spec, corrupt, workers)
            if kind.one_size and described[name].image["height"] is None:
                raise UserError(
                    f"data.pixels.kind={pixels.kind} {kind.one_size}, and these differ in size; "
                    "set bake.square=true and bake.resolution"
                )
        manifest = Manifest(plan, train.class_names, train.channels, described, made_by("numpy", "pillow"))
        write_durably(unfinished / MANIFEST, manifest.to_json())
        BakedSet(unfinished, manifest, hashlib.sha256(manifest.to_json().encode()).hexdigest()).write_stamp()
        unfinished.rename(folder)
        sync_folder(folder.parent)
        for name in splits:
            _done_path(folder / f"{name}.beton").unlink()
    except UserError:
        # The user changes data or settings, which make a set of another name: no bake would go on with these files.
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _unfinished(folder: Path) -> Path:
    """Where a set is baked until it is whole. A bake that was stopped goes on from what it finds there."""
    return folder.with_name(f".{folder.name}.unfinished")


def _done_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.done.json")


def _bake_split(
    path: Path,
    source: Source,
    split: str,
    labels: dict[str, LabelSpec],
    spec: BakeSpec,
    corrupt: Callable[[np.ndarray, int], np.ndarray],
    workers: int,
) -> Split:
    """Write one file, or what is missing of it, and return the manifest's entry."""
    order = _file_order(len(source), split)
    arrays, columns = _label_columns(source, labels, order)
    arrays = {"clean_label": source.labels[order], "index": order, **arrays}
    done = _done_path(path)
    if done.exists():
        hashes = Hashes(**json.loads(done.read_text()))
        if Beton(path).names == list(arrays) and Beton(path).hashes() == hashes:
            return describe(path, Beton(path), hashes, columns)
        done.unlink()
    with Writer(path, len(source), arrays) as writer:
        rest = order[writer.count :]
        encoded = _encoded(source, rest, spec, corrupt, workers)
        some = list(islice(encoded, _CHUNK))
        size = sum(len(bytes_of(data)) for data, *_ in some) / max(1, len(some))
        remedy = "set FASTGEN_CACHE to a larger disk, bake.resolution lower, or bake.encoding=jpeg"
        check_room(path.parent, round(size * len(rest)), "this bake", remedy)
        for image in tracked(chain(some, encoded), len(order), f"baking {split}", done=writer.count):
            writer.append(*image)
        hashes = writer.finish()
    write_durably(done, json.dumps(asdict(hashes)))
    return describe(path, Beton(path), hashes, columns)


def _extend(baked: BakedSet, source: Source, labels: dict[str, LabelSpec]) -> None:
    """Add label columns to train.beton.

    The new file and the new manifest are written aside, then renamed in this order. If the process dies between
    the two renames, `_finish_extension` does the second one.
    """
    beton, split = baked.splits["train"], baked.manifest.splits["train"]
    arrays, described = _label_columns(source, labels, beton.columns["index"])
    path = baked.path / split.file
    following = path.with_suffix(".beton.next")
    split.table_sha256 = add_columns(beton, following, arrays)
    split.columns |= described
    split.bytes = following.stat().st_size
    write_durably(baked.path / f"{MANIFEST}.next", baked.manifest.to_json())
    following.rename(path)
    (baked.path / f"{MANIFEST}.next").rename(baked.path / MANIFEST)
    sync_folder(baked.path)
    # The payload was checked when `baked` was opened, and copied as it was.
    renewed = BakedSet(baked.path, baked.manifest, hashlib.sha256(baked.manifest.to_json().encode()).hexdigest())
    renewed.write_stamp()


def _finish_extension(folder: Path) -> None:
    following, renamed = folder / f"{MANIFEST}.next", folder / "train.beton.next"
    if not renamed.exists() and following.exists():
        following.rename(folder / MANIFEST)
    for left in (renamed, following):
        left.unlink(missing_ok=True)


Encoded = tuple[bytes | np.ndarray, int, int, int]  # data, mode, width, height


def _encoded(
    source: Source, order: np.ndarray, spec: BakeSpec, corrupt: Callable[[np.ndarray, int], np.ndarray], workers: int
) -> Iterator[Encoded]:
    """Encode in `order` with threads (decoding, resizing and encoding release the interpreter lock)."""

    def work(chunk: np.ndarray) -> list[Encoded]:
        return [_encode(source, int(index), spec, corrupt) for index in chunk]

    chunks = np.split(order, range(_CHUNK, len(order), _CHUNK))
    for done in Prefetcher(workers).map(work, chunks):
        yield from done


def _encode(source: Source, index: int, spec: BakeSpec, corrupt: Callable[[np.ndarray, int], np.ndarray]) -> Encoded:
    if spec.encoding == "jpeg":
        stored = source.read(index)
        decoded = _decoded(stored, source.sample_name(index))
        fitted = _fit(decoded.image, spec)
        width, height = fitted.size
        if isinstance(stored, bytes) and decoded.plain_jpeg and fitted is decoded.image:
            data: bytes | np.ndarray = stored
        else:
            _check_sides(width, height, _JPEG_SIDE, source.sample_name(index))
            data = _as_jpeg(fitted, spec.quality)
        mode, remedy = JPEG, "set bake.resolution or bake.quality lower"
    else:
        pixels = _pixels(source, index, spec)
        height, width = pixels.shape[:2]
        _check_sides(width, height, _SIDE, source.sample_name(index))
        data, mode = np.ascontiguousarray(corrupt(pixels, index)), RAW
        remedy = "set bake.resolution lower or bake.encoding=jpeg"
    if (size := len(bytes_of(data))) > PAGE_BYTES:
        raise UserError(
            f"{source.sample_name(index)}: {width:,} x {height:,} pixels take {size:,} bytes, more than a page "
            f"({PAGE_BYTES:,}), and nothing was baked: {remedy}"
        )
    return data, mode, width, height


def _check_sides(width: int, height: int, longest: int, name: str) -> None:
    if max(width, height) > longest:
        raise UserError(
            f"{name}: {width:,} x {height:,} pixels, and a side has {longest:,} at most; nothing was baked. "
            "Set bake.resolution, or crop or remove the file"
        )


def _decoded(stored: bytes | np.ndarray, name: str) -> Decoded:
    return Decoded(Image.fromarray(stored)) if isinstance(stored, np.ndarray) else read_image(stored, name)


def _pixels(source: Source, index: int, spec: BakeSpec) -> np.ndarray:
    """The fitted image: uint8 (H, W, 3)."""
    stored = source.read(index)
    if isinstance(stored, np.ndarray) and spec.resolution is None:
        return stored
    return np.asarray(_fit(_decoded(stored, source.sample_name(index)).image, spec))


def _fit(image: Image.Image, spec: BakeSpec) -> Image.Image:
    """`image` itself when it already fits, else cropped and resized."""
    width, height = image.size
    if spec.resolution is None:
        return image
    if spec.square:
        side = min(height, width)
        if height != width:
            top, left = (height - side) // 2, (width - side) // 2
            image = image.crop((left, top, left + side, top + side))
        goal = (spec.resolution, spec.resolution)
    else:
        ratio = min(1.0, spec.resolution / max(height, width))
        goal = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    if goal == image.size:
        return image
    larger = goal[0] > image.width
    return image.resize(goal, Image.Resampling.BICUBIC if larger else Image.Resampling.BOX)


def _as_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encoded into a file in memory: for a file of the system's, Pillow releases the interpreter lock; for a BytesIO it
    holds the lock, and one thread encodes at a time."""
    image.info = {}  # else the original's comment would be written, too
    with open(os.memfd_create("jpeg"), "r+b") as file:
        image.save(file, "JPEG", quality=quality)
        file.seek(0)
        return file.read()


def _statistics(source: Source, spec: BakeSpec, workers: int) -> Statistics:
    """Exact mean and standard deviation per channel of the fitted images, in integers."""

    def sums(chunk: np.ndarray) -> np.ndarray:
        total = np.zeros((3, 3), np.int64)
        for index in chunk:
            flat = _pixels(source, int(index), spec).reshape(-1, 3).astype(np.int64)
            total += np.stack([np.full(3, len(flat)), flat.sum(0), (flat * flat).sum(0)])
        return total

    chunks = np.split(np.arange(len(source)), range(_CHUNK, len(source), _CHUNK))
    measured = tracked(Prefetcher(workers).map(sums, chunks), len(chunks), "measuring mean and variance")
    count, first, second = sum(measured, np.zeros((3, 3), np.int64)).astype(np.float64)
    mean = first / count
    std = np.sqrt(second / count - mean**2)
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), source.channels)
