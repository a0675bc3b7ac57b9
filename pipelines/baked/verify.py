"""A set's labels and images made once more, from its seeds and its source: that it is what its manifest says.

Hashes tell that nothing changed since a set was baked. This tells that it was baked right, and finds a manifest that
was written to go with other files.
"""

from dataclasses import replace

import numpy as np

from pipelines.baked.bake import file_order
from pipelines.baked.encoding import BakeSpec, baked_again, statistics_for
from pipelines.baked.manifest import BakedSet, Manifest
from pipelines.baked.notes import parsed
from pipelines.baked.shards import Export
from pipelines.corruptions import LABELS, PIXELS, LabelSpec, PixelSpec, corrupt_labels, pixel_corruption
from pipelines.errors import UserError
from pipelines.locations import data_root
from pipelines.provenance import made_by
from pipelines.sources import SOURCES, Source, SourceSpec, open_source

_IMAGES = 64  # of a split, spread over its file
_OTHER_CODEC = 3.0  # grey levels that an image may differ in the mean where another JPEG encoder made it


def recompute(baked: BakedSet | Export, root: str | None = None) -> list[str]:
    """Compare order, labels and some images with what the manifest's seeds and source give.

    root: where the source lies (data.root; None: where sets of its name are looked for). Nothing is downloaded. Returns
    a line for each split: what was compared, and what could not be. Raises UserError naming the first difference.
    """
    sources = _at_hand(baked.manifest, root)
    return [_recompute_split(baked, split, sources) for split in baked.splits]


def _recompute_split(baked: BakedSet | Export, split: str, sources: dict[str, Source] | str) -> str:
    stored = baked.splits[split]
    order, clean = file_order(stored.samples, split), stored.columns["clean_label"]
    if not np.array_equal(stored.columns["index"], order):
        raise UserError(
            f"{stored.path}: its samples are not in the order of a bake; delete {baked.path} and bake again"
        )
    by_sample = np.empty_like(clean)
    by_sample[order] = clean
    right, skipped = [], []
    source = None if isinstance(sources, str) else sources[split]
    total, positions = (source.total, source.positions) if source else (None, None)
    for name, column in baked.manifest.splits[split].columns.items():
        spec = LabelSpec(**column.spec)
        if reason := _cannot_recompute(spec, name, total):
            skipped.append(f"{name} ({reason})")
            continue
        given = corrupt_labels(spec, by_sample, baked.manifest.num_classes, total, positions)[order]
        _must_equal(stored.columns[name], given, f"{stored.path}: {name}", "its seed gives")
        right.append(name)
    said = [f"{', '.join(right)} as computed again"] if right else []
    said += [f"not computed again: {', '.join(skipped)}"] if skipped else []
    if isinstance(sources, str):
        said.append(f"images and true labels not compared: {sources}")
    else:
        _must_equal(clean, sources[split].labels[order], f"{stored.path}: clean_label", "the source says")
        said.append(f"true labels and {_compare_images(baked, split, sources)} images as in the source")
    return f"{split}: {'; '.join(said)}"


def _cannot_recompute(spec: LabelSpec, name: str, total: int | None) -> str | None:
    if spec.kind not in LABELS:
        return f"the kind {spec.kind} is not known here"
    if LABELS[spec.kind].from_file and total is None:
        return "the source tells how many samples its table is for"
    try:
        return None if spec.column_name == name else f"{spec.table} has changed"
    except UserError as error:
        return str(error)


def _must_equal(stored: np.ndarray, right: np.ndarray, what: str, whose: str) -> None:
    differ = np.flatnonzero(stored != right)
    if len(differ):
        row = int(differ[0])
        raise UserError(
            f"{what} is {stored[row]} in row {row}, and {whose} {right[row]} ({len(differ):,} of {len(stored):,} rows "
            "differ); delete the set and bake again"
        )


def _at_hand(manifest: Manifest, root: str | None) -> dict[str, Source] | str:
    """The source that the set was baked from, or in words why it cannot be had."""
    try:
        spec = replace(parsed(SourceSpec, manifest.specification["source"]), root=root)
    except ValueError as error:
        raise UserError(f"the manifest's source is none that can be opened ({error}); bake the set again") from None
    if spec.source not in SOURCES:
        return f"the source {spec.source} is not known here"
    roots = [root]
    if SOURCES[spec.source].well_known and root is None:  # a folder that is named keeps it from being downloaded
        roots = [str(folder) for folder in (data_root() / spec.source, data_root()) if folder.is_dir()]
    reason = f"{spec.source} is not below {data_root()}"
    for each in roots:
        try:
            opened = {split: open_source(replace(spec, root=each), split) for split in manifest.splits}
        except UserError as error:
            reason = str(error)
            continue
        found = {split: source for split, source in opened.items() if source is not None}
        if {split: source.fingerprint for split, source in found.items()} == manifest.specification["fingerprints"]:
            if (found["train"].class_names, found["train"].channels) != (manifest.class_names, manifest.channels):
                raise UserError("the source has other classes or channels than the manifest says; bake the set again")
            return found
        reason = f"{spec.source} at hand is not what was baked (its fingerprint differs)"
    return reason


def _compare_images(baked: BakedSet | Export, split: str, sources: dict[str, Source]) -> str:
    """How many images were compared. Raises UserError at the first that differs."""
    specification, stored = baked.manifest.specification, baked.splits[split]
    pixels, spec = PixelSpec(**specification["pixels"]), BakeSpec(**specification["image"])
    pixels.before_crop = pixels.window is None
    if pixels.kind not in PIXELS:
        return "no"
    corrupt = pixel_corruption(pixels, split, statistics_for(sources["train"], pixels, spec))
    rows = np.unique(np.linspace(0, stored.samples - 1, _IMAGES).astype(int)).tolist()
    indices = stored.columns["index"][rows].tolist()
    same_codec = baked.manifest.made_by.get("pillow") == made_by("pillow").get("pillow")
    for row, right in zip(rows, baked_again(sources[split], indices, spec, corrupt), strict=True):
        image = stored.image(row)
        alike = image.shape == right.shape and (
            np.abs(image.astype(int) - right).mean() <= _OTHER_CODEC
            if spec.encoding == "jpeg" and not same_codec
            else np.array_equal(image, right)
        )
        if not alike:
            name = sources[split].sample_name(int(stored.columns["index"][row]))
            raise UserError(
                f"{stored.path}: the image in row {row} is not what {name} gives with data.pixels.kind={pixels.kind} "
                "and the manifest's settings; delete the set and bake again"
            )
    return str(len(rows))
