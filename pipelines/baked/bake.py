"""Source -> corruption -> baked set: the files that the backends stream, and their manifest.

A set is found again by its specification (source fingerprint, pixel corruption, encoding) and never baked
twice. Labels are columns of it: another labelling of the same images copies the payload, and encodes nothing.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.baked import notes
from pipelines.baked.beton import PAGE_BYTES, Beton, Hashes, bytes_of
from pipelines.baked.encoding import CHUNK, BakeSpec, encoded, statistics_for
from pipelines.baked.manifest import (
    MANIFEST,
    STAMP,
    BakedSet,
    Column,
    Manifest,
    Split,
    describe,
    folder_name,
    next_manifest,
    settings_of,
)  # fmt: skip
from pipelines.baked.writer import Writer, add_columns
from pipelines.corruptions import PIXELS, LabelSpec, PixelSpec, corrupt_labels, pixel_corruption
from pipelines.durable import Refused, check_room, one_at_a_time, refusals, share, sync_folder, write_durably
from pipelines.errors import UserError
from pipelines.locations import cache_root
from pipelines.progress import tracked
from pipelines.provenance import made_by
from pipelines.randomness import permutation
from pipelines.sources import SPLITS, Source, SourceSpec, open_source, which_samples


def specification(
    source: SourceSpec, pixels: PixelSpec, bake: BakeSpec, fingerprints: dict[str, str]
) -> dict[str, Any]:
    """What the payload depends on, as plain data: equal specifications make equal payloads."""
    encoding: dict[str, Any] = {"encoding": bake.encoding, "resolution": bake.resolution, "square": bake.square}
    if bake.encoding == "jpeg":
        encoding["quality"] = bake.quality
    samples = asdict(which_samples(source))
    if not source.holdout:  # a key that came later renames no set
        del samples["holdout"], samples["holdout_seed"]
    return {
        "source": samples,
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


_REMEDY = "free some space (`fastgen clean` shows the cache), or set FASTGEN_CACHE to a folder that can be written"


def bake(
    source: SourceSpec,
    labels: LabelSpec,
    pixels: PixelSpec,
    spec: BakeSpec,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    before: Callable[[Source], None] = lambda source: None,
) -> BakedSet:
    """The baked set of this specification with this labelling: found, extended by a label column, or made.

    cache: the folder of baked sets (default: FASTGEN_CACHE). say: is told each step in words. before: is told the
    training samples before any is baked, and may raise what speaks against it.
    Safe to call from several processes: one bakes, the others wait for it.
    Raises UserError for contradictory settings, missing data, or a sample that cannot be decoded.
    """
    splits, plan, folder = _planned(source, pixels, spec, cache)
    root, wanted = folder.parent, _wanted(labels, spec)
    with refusals(root, _REMEDY):
        there = (folder / MANIFEST).is_file()
    if not there:
        before(splits["train"])
    with refusals(root, _REMEDY):
        root.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(lock_of(folder), say) as refusal:
            if refusal is None:
                recover(folder)
            if not (folder / MANIFEST).is_file():
                _must_write(folder, refusal, "is not baked yet")
                going_on = " (going on from where it was stopped)" if unfinished_of(folder).exists() else ""
                say(f"baking {source.source} into {folder}{going_on}")
                for note in (note for split in splits.values() for note in split.notes):
                    say(note)
                _bake_new(folder, source, splits, wanted, pixels, spec, plan)
            baked = BakedSet.open(folder, plan=plan)
            _must_be_of(baked, splits["train"])
            missing = {n: s for n, s in wanted.items() if n not in baked.splits["train"].names}
            if missing:
                _must_write(folder, refusal, f"has no label column {', '.join(missing)}")
                say(f"adding {', '.join(missing)} to {folder}")
                _extend(baked, splits["train"], missing)
                baked = BakedSet.open(folder, plan=plan)
            return baked


def find_baked(source: SourceSpec, labels: LabelSpec, pixels: PixelSpec, spec: BakeSpec) -> BakedSet | None:
    """The set that `bake` finds in FASTGEN_CACHE, where it is there with all its label columns. Writes nothing."""
    _, plan, folder = _planned(source, pixels, spec, None)
    with refusals(folder.parent, _REMEDY):
        if not (folder / MANIFEST).is_file():
            return None
    baked = BakedSet.open(folder, plan=plan)
    return baked if _wanted(labels, spec).keys() <= set(baked.splits["train"].names) else None


def _planned(
    source: SourceSpec, pixels: PixelSpec, spec: BakeSpec, cache: Path | None
) -> tuple[dict[str, Source], dict[str, Any], Path]:
    """The splits of the source, the specification, and the folder of its set."""
    spec.validate(pixels)
    splits = {name: opened for name in SPLITS if (opened := open_source(source, name)) is not None}
    plan = specification(source, pixels, spec, {name: s.fingerprint for name, s in splits.items()})
    return splits, plan, (cache or cache_root()) / "baked" / folder_name(plan)


def _wanted(labels: LabelSpec, spec: BakeSpec) -> dict[str, LabelSpec]:
    return {s.column_name: s.resolved() for s in (labels, *spec.columns)}


def lock_of(folder: Path) -> Path:
    """The file whose lock a process holds that makes or changes the set in `folder`."""
    return folder.with_name(f".{folder.name}.lock")


def recover(folder: Path) -> None:
    """Finish what a process that died has left to do in the set's `folder`, and remove what it left behind.

    For the holder of the set's lock.
    """
    unfinished, following = unfinished_of(folder), next_manifest(folder)
    if (folder / MANIFEST).is_file():
        shutil.rmtree(unfinished, ignore_errors=True)
    elif (unfinished / MANIFEST).is_file():  # written last
        try:
            whole = BakedSet.open(unfinished, full=True)
        except UserError:
            (unfinished / MANIFEST).unlink()
        else:
            _publish(whole, folder)
    extended = notes.found(Manifest, following)
    with suppress(UserError):
        table = Beton(folder / "train.beton").hashes(payload=False).table if extended else None
        if extended and table == extended.splits["train"].table_sha256:
            following.rename(folder / MANIFEST)
    for left in leftovers(folder):
        with suppress(OSError):  # in another user's folder, where it does no harm
            left.unlink()


def leftovers(folder: Path) -> list[Path]:
    """Files in the set's `folder` that a process which died left behind."""
    return [left for left in (*folder.glob(".*"), *folder.glob("*.next")) if left.name != STAMP and left.is_file()]


def _must_be_of(baked: BakedSet, source: Source) -> None:
    manifest = baked.manifest
    if (manifest.class_names, manifest.channels) != (source.class_names, source.channels):
        raise UserError(
            f"{baked.path} has other class names or channels than its source: classes were renamed, or its manifest "
            "was changed; delete it and bake again"
        )


def _must_write(folder: Path, refusal: OSError | None, lack: str) -> None:
    if refusal is not None:
        raise Refused(
            f"{folder} {lack}, and its cache cannot be written ({refusal.strerror}); have its owner bake that, or set "
            "FASTGEN_CACHE to a folder of your own"
        )


def file_order(n: int, split: str) -> np.ndarray:
    """Sample index of each row: a fixed shuffle, so that a sequential read is already mixed."""
    return permutation(n, 0, "bake/order", split)


def _label_columns(
    source: Source, specs: dict[str, LabelSpec], order: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, Column]]:
    arrays, described = {}, {}
    for name, spec in specs.items():
        given = corrupt_labels(spec, source.labels, source.num_classes, source.total, source.positions)
        arrays[name] = given[order]
        # A sign is no class, even where the two are the same number.
        described[name] = Column(settings_of(spec), len(given) if spec.signs else int((given != source.labels).sum()))
    return arrays, described


def _bake_new(
    folder: Path,
    source_spec: SourceSpec,
    splits: dict[str, Source],
    labels: dict[str, LabelSpec],
    pixels: PixelSpec,
    spec: BakeSpec,
    plan: dict[str, Any],
) -> None:
    train, kind = splits["train"], PIXELS[pixels.kind]
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is in the way: it is no baked set (it has no {MANIFEST}); delete it and bake again")
    statistics = statistics_for(train, pixels, spec)
    unfinished = unfinished_of(folder)
    unfinished.mkdir(exist_ok=True)
    try:
        described = {}
        for name, source in splits.items():
            if not (source.labels.min() >= 0 and source.labels.max() < train.num_classes):
                raise UserError(f"{name} labels are not all in 0..{train.num_classes - 1}")
            # Test labels are never touched.
            columns = labels if name == "train" else {"label_true": LabelSpec()}
            corrupt = pixel_corruption(pixels, name, statistics)
            described[name] = _bake_split(unfinished / f"{name}.beton", source, name, columns, spec, corrupt)
            if kind.one_size and described[name].image.height is None:
                raise UserError(
                    f"data.pixels.kind={pixels.kind} {kind.one_size}, and these differ in size; "
                    "set bake.square=true and bake.resolution"
                )
        _check_unchanged(source_spec, splits)
        manifest = Manifest(plan, train.class_names, train.channels, described, made_by("numpy", "pillow"))
        write_durably(unfinished / MANIFEST, manifest.to_json())
    except (UserError, OSError) as error:
        # After a mistake in data or settings, the right set has another name, and no bake would go on with these files.
        # What the system refused is tried again, and goes on behind the parts that are whole.
        if not (isinstance(error, Refused | OSError) and _has_parts(unfinished)):
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _publish(BakedSet.of(unfinished, manifest), folder)


def _check_unchanged(spec: SourceSpec, splits: dict[str, Source]) -> None:
    for name, source in splits.items():
        again = open_source(spec, name)
        if again is None or again.fingerprint != source.fingerprint:
            raise UserError(
                f"the {name} split of data.source={spec.source} changed while it was baked; bake again when nobody "
                "writes to it"
            )


def _publish(whole: BakedSet, folder: Path) -> None:
    """Give a set that is whole its place. If the process dies here, `recover` does it again."""
    known = {MANIFEST, *(split.file for split in whole.manifest.splits.values())}
    for path in whole.path.iterdir():
        if path.name in known:
            share(path, folder.parent)
        else:
            path.unlink()  # a note of what was done
    whole.write_stamp()
    share(whole.path, folder.parent)
    sync_folder(whole.path)
    whole.path.rename(folder)
    sync_folder(folder.parent)


def unfinished_of(folder: Path) -> Path:
    """Where a set is baked until it is whole. A bake that was stopped goes on from what it finds there."""
    return folder.with_name(f".{folder.name}.unfinished")


def _done_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.done.json")


def _has_parts(unfinished: Path) -> bool:
    """Whether a bake would find anything to go on with."""
    return any(_done_path(unfinished / f"{split}.beton").exists() for split in SPLITS) or any(
        rows.stat().st_size for rows in unfinished.glob("*.rows")
    )


def _bake_split(
    path: Path,
    source: Source,
    split: str,
    labels: dict[str, LabelSpec],
    spec: BakeSpec,
    corrupt: Callable[[np.ndarray, int], np.ndarray],
) -> Split:
    """Write one file, or what is missing of it, and return the manifest's entry."""
    order = file_order(len(source), split)
    arrays, columns = _label_columns(source, labels, order)
    arrays = {"clean_label": source.labels[order], "index": order, **arrays}
    done = _done_path(path)
    before = notes.found(Hashes, done)
    with suppress(UserError):  # the file is not what the note says
        if before and Beton(path).names == list(arrays) and Beton(path).hashes() == before:
            return describe(path, Beton(path), before, columns)
    done.unlink(missing_ok=True)
    with Writer(path, len(source), arrays) as writer:
        rest = order[writer.count :]
        images = encoded(source, rest, spec, corrupt)
        some = list(islice(images, CHUNK))
        size = sum(len(bytes_of(data)) for data, *_ in some) / max(1, len(some))
        remedy = "set FASTGEN_CACHE to a larger disk, bake.resolution lower, or bake.encoding=jpeg"
        check_room(path.parent, round(size * len(rest)), "this bake", remedy)
        for image in tracked(chain(some, images), len(order), f"baking {split}", done=writer.count):
            writer.append(*image)
        hashes = writer.finish()
        write_durably(done, notes.sealed(hashes))
    return describe(path, Beton(path), hashes, columns)


def _extend(baked: BakedSet, source: Source, labels: dict[str, LabelSpec]) -> None:
    """Add label columns to train.beton.

    The new file and the new manifest are written aside, then renamed in this order. If the process dies between
    the two renames, `recover` does the second one.
    """
    beton, split = baked.splits["train"], baked.manifest.splits["train"]
    arrays, described = _label_columns(source, labels, beton.columns["index"])
    path, following = baked.path / split.file, baked.path / f"{split.file}.next"
    try:
        split.table_sha256 = add_columns(beton, following, arrays)
        split.columns |= described
        split.bytes = following.stat().st_size
        write_durably(next_manifest(baked.path), baked.manifest.to_json())
        for new in (following, next_manifest(baked.path)):
            share(new, baked.path)
        following.rename(path)
        next_manifest(baked.path).rename(baked.path / MANIFEST)
        sync_folder(baked.path)
    except (OSError, UserError):
        recover(baked.path)
        raise
    # The payload was checked when `baked` was opened, and copied as it was.
    BakedSet.of(baked.path, baked.manifest).write_stamp()
