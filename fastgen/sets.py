"""A recipe's baked set, and the commands that verify, show and export sets."""

import importlib.util
import io
import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from fastgen.recipe.load import parse
from fastgen.recipe.schema import Recipe
from fastgen.terminal import console
from pipelines.baked.bake import bake, find_baked
from pipelines.baked.clean import entries, remove, to_remove
from pipelines.baked.export import EXPORT, EXPORTS, export, labellings
from pipelines.baked.manifest import BakedSet
from pipelines.baked.shards import Export
from pipelines.baked.verify import recompute
from pipelines.corruptions import LabelSpec
from pipelines.durable import refusals, write_atomically
from pipelines.errors import UserError
from pipelines.locations import cache_root, outputs_root
from pipelines.sources import Source, open_source


def bake_recipe(recipe: Recipe, before: Callable[[Source], None] = lambda source: None) -> BakedSet:
    """The recipe's baked set, made now if it is not there yet. before: as of `bake`."""
    data = recipe.data
    return bake(
        data.source_spec, data.labels, data.pixels, recipe.bake,
        say=lambda text: print(text, flush=True), before=before,
    )  # fmt: skip


_SHEET_ROWS, _SHEET_COLUMNS = 4, 8  # of the images on a sheet
_CELL = 96  # pixels, side of an image on the sheet
_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # of sheets: suffix -> Pillow's name


def _open(named: list[str], full: bool, missing: Callable[[Recipe], BakedSet]) -> BakedSet | Export:
    """named: the path of a baked set or export, or recipe=NAME key=value ... for the recipe's. missing: makes a set
    that is not baked, or refuses to."""
    if path := _path(named):
        return open_path(path, full)
    recipe = parse(named)
    data = recipe.data
    baked = find_baked(data.source_spec, data.labels, data.pixels, recipe.bake) or missing(recipe)
    return BakedSet.open(baked.path, full=full)


def _refuse_to_bake(named: list[str]) -> Callable[[Recipe], BakedSet]:
    def refuse(recipe: Recipe) -> BakedSet:
        raise UserError(f"this set is not baked yet; make it: {shlex.join(['fastgen', 'bake', *named])}")

    return refuse


def open_path(path: Path, full: bool = False) -> BakedSet | Export:
    """The baked set or export in a folder. full: hash every byte. Raises UserError where none is, or a damaged one."""
    with refusals(path, "name the folder of a baked set or export, and let this user read it"):
        if path.is_file():
            raise UserError(f"{path} is a file; name the folder of a baked set or export")
        return (Export if (path / EXPORT).exists() else BakedSet).open(path, full=full)


def _path(named: list[str]) -> Path | None:
    return Path(named[0]) if len(named) == 1 and ("=" not in named[0] or os.path.exists(named[0])) else None


def verify(named: list[str]) -> None:
    """Hash every byte and compare with the manifest; compute labels and some images again, from seeds and source.

    Raises UserError naming the first difference.
    """
    started = time.perf_counter()
    baked = _open(named, full=True, missing=_refuse_to_bake(named))
    shards = [shard.name for shard in sorted(baked.path.glob("*.tar"))]
    names = shards if isinstance(baked, Export) else [split.file for split in baked.manifest.splits.values()]
    size = sum((baked.path / name).stat().st_size for name in names)
    files = ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
    seconds = time.perf_counter() - started
    print(f"{baked.path}: {files} match the manifest ({size / 1e6:,.1f} MB in {seconds:.1f} s)")
    root = None if _path(named) else parse(named).data.root
    for line in recompute(baked, root):
        print(line)


def inspect(named: list[str], images: Path | None = None) -> None:
    """Print a summary, and draw the first training samples with their labels to `images`, a picture's file."""
    if images is not None and images.suffix.lower() not in _PICTURES:
        raise UserError(f"--images={images} must end in {', '.join(_PICTURES)}")
    baked = _open(named, full=False, missing=_refuse_to_bake(named))
    show_summary(baked)
    if images is not None:
        picture = io.BytesIO()
        draw_samples(baked).save(picture, _PICTURES[images.suffix.lower()])
        with refusals(images, "name another place with --images"):
            write_atomically(images, picture.getvalue())
        print(f"sample images with true -> given label: {images}")


def export_set(
    named: list[str], to: str, output: Path | None = None, shard_mb: int = 512, labels: str | None = None
) -> None:
    """Write a baked set as shards of about shard_mb MB. to: one of EXPORTS. output: a folder (None: named after the
    set). labels: the column that readers are given as the label (None: the recipe's, of a path the set's first)."""
    EXPORTS[to]  # raises for an unknown format, before anything is baked
    baked = _open(named, full=False, missing=bake_recipe)
    if isinstance(baked, Export):
        raise UserError(f"{baked.path} is an export; name the baked set that it was made from")
    output = output or outputs_root() / "exports" / f"{baked.path.name}-{to}"
    if labels is None and not _path(named):
        labels = parse(named).data.labels.column_name
    labels = labels or labellings(baked.splits["train"].names)[0]
    shards = export(baked, to, output, shard_mb << 20, labels)
    others = ", ".join(name for name in labellings(baked.splits["train"].names) if name != labels)
    print(f"{output}: .cls is {labels}{f' (with --labels it can be {others})' if others else ''}")
    for split, files in shards.items():
        samples, size = sum(shard.samples for shard in files), sum(shard.bytes for shard in files)
        print(f"{output}: {split}, {samples:,} samples in {len(files)} files, {size / 1e6:,.1f} MB")


def clean(
    folder: Path | None = None, older_than: float | None = None, keep_gb: float | None = None, yes: bool = False
) -> None:
    """Show the cache's sets (or those in `folder`), and with `yes` remove what processes that died left behind, sets
    not used for older_than days, and the least recently used beyond keep_gb GB. What is in use stays."""
    place = folder or cache_root() / "baked"
    found = entries(place)
    chosen = to_remove(found, older_than, None if keep_gb is None else keep_gb * 1e9)
    table = Table("last used", "MB", "what", "where", "then")
    for entry in found:
        days = (time.time() - entry.used) / 86400
        then = "kept" if entry not in chosen else "removed" if yes and remove(entry) else "in use" if yes else "goes"
        table.add_row(f"{days:,.1f} days ago", f"{entry.bytes / 1e6:,.1f}", entry.kind, entry.path.name, then)
    print(f"{place}: {len(found)} entries that nobody uses now, {sum(e.bytes for e in found) / 1e9:,.2f} GB")
    console().print(table)
    size = sum(entry.bytes for entry in chosen) / 1e9
    print(f"{len(chosen)} of them, {size:,.2f} GB, " + ("were to be removed" if yes else "would be removed with --yes"))


def show_summary(baked: BakedSet | Export) -> None:
    manifest = baked.manifest
    screen = console()
    pixels, encoding = manifest.specification["pixels"], manifest.specification["image"]
    screen.print(f"{baked.path}")
    screen.print(
        f"source {manifest.specification['source']['source']}, {manifest.num_classes} classes, {manifest.channels} "
        f"channel(s), pixels {pixels['kind']}, {encoding['encoding']}, manifest {baked.sha256[:12]}"
    )
    table = Table("split", "samples", "MB", "image", "label column", "changed", "of")
    for name, split in manifest.splits.items():
        width, height = split.image.width, split.image.height
        size = f"{width}x{height}" if width else "varying"
        for column, described in split.columns.items():
            share = f"{100 * described.changed / split.samples:.2f} %"
            table.add_row(
                name, f"{split.samples:,}", f"{split.bytes / 1e6:,.1f}", size, column, f"{described.changed:,}", share
            )
    screen.print(table)


def draw_samples(baked: BakedSet | Export, column: str | None = None) -> Image.Image:
    """A sheet of the first training images; under each: true label, and the given one of `column` (None: the last)."""
    stored, names = baked.splits["train"], baked.manifest.class_names
    columns = baked.manifest.splits["train"].columns
    column = column or next(reversed(columns))
    signs = LabelSpec(**columns[column].spec).signs
    given_names = ["-1", "+1"] if signs else names
    given, clean = stored.columns[column], stored.columns["clean_label"]
    cells = [
        (stored.image(row), names[clean[row]], given_names[given[row]], given[row] != clean[row] and not signs)
        for row in range(min(stored.samples, _SHEET_ROWS * _SHEET_COLUMNS))
    ]
    return contact_sheet(cells)


def sample_files(recipe: Recipe) -> list[str] | None:
    """The files of the training samples, by index, where the source is at hand."""
    try:
        source = open_source(recipe.data.source_spec, "train")
    except UserError:  # of an export, say, whose source lies elsewhere
        return None
    return [source.sample_name(index) for index in range(len(source))] if source else None


def _font() -> ImageFont.FreeTypeFont:
    """That of Matplotlib, which is not imported for it: Pillow's own has no letters beyond ASCII."""
    found = importlib.util.find_spec("matplotlib")
    assert found is not None and found.origin is not None, "it is one of fastgen's dependencies"
    return ImageFont.truetype(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", 9)


def _shortened(text: str, font: ImageFont.FreeTypeFont) -> str:
    """As much of the text as is no wider than a cell."""
    return next(text[:end] for end in range(len(text), -1, -1) if font.getlength(text[:end]) < _CELL)


def contact_sheet(cells: Sequence[tuple[np.ndarray, str, str, bool]]) -> Image.Image:
    """Images with two lines under each: uint8 (H, W, 3), a label, another one, and whether that is to be noticed."""
    line = 12
    font = _font()
    rows = max(_SHEET_ROWS, -(-len(cells) // _SHEET_COLUMNS))
    sheet = Image.new("RGB", (_SHEET_COLUMNS * _CELL, rows * (_CELL + 2 * line)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (image, label, other, differs) in enumerate(cells):
        x, y = place % _SHEET_COLUMNS * _CELL, place // _SHEET_COLUMNS * (_CELL + 2 * line)
        picture = Image.fromarray(image)
        picture = picture.resize((_CELL - 2, _CELL - 2), Image.Resampling.NEAREST)
        sheet.paste(picture, (x, y))
        draw.text((x, y + _CELL - 2), _shortened(label, font), fill="black", font=font)
        draw.text(
            (x, y + _CELL + line - 2), _shortened(f"-> {other}", font), fill="red" if differs else "black", font=font
        )
    return sheet
