"""A recipe's baked set, and the commands that verify, show and export sets."""

import time
from pathlib import Path

from PIL import Image, ImageDraw
from rich.table import Table

from fastgen.recipe.load import parse
from fastgen.recipe.schema import Recipe
from fastgen.terminal import console
from pipelines.baked.bake import bake
from pipelines.baked.export import EXPORT, EXPORTS, export
from pipelines.baked.manifest import BakedSet
from pipelines.baked.shards import Export
from pipelines.corruptions import LabelSpec
from pipelines.errors import UserError


def bake_recipe(recipe: Recipe) -> BakedSet:
    """The recipe's baked set, made now if it is not there yet."""
    data = recipe.data
    return bake(data.source_spec, data.labels, data.pixels, recipe.bake, say=lambda text: print(text, flush=True))


_SHEET_ROWS, _SHEET_COLUMNS = 4, 8  # of the images on a sheet
_CELL = 96  # pixels, side of an image on the sheet


def _open(named: list[str], full: bool) -> BakedSet | Export:
    """named: the path of a baked set or export, or recipe=NAME key=value ... for the recipe's, baked on first use."""
    if len(named) == 1 and "=" not in named[0]:
        is_export = (Path(named[0]) / EXPORT).is_file()
        return (Export if is_export else BakedSet).open(named[0], full=full)
    return BakedSet.open(bake_recipe(parse(named)).path, full=full)


def verify(named: list[str]) -> None:
    """Hash every byte and compare with the manifest. Raises UserError naming the first difference."""
    started = time.perf_counter()
    baked = _open(named, full=True)
    shards = [shard.name for shard in sorted(baked.path.glob("*.tar"))]
    names = shards if isinstance(baked, Export) else [split.file for split in baked.manifest.splits.values()]
    size = sum((baked.path / name).stat().st_size for name in names)
    files = ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
    seconds = time.perf_counter() - started
    print(f"{baked.path}: {files} match the manifest ({size / 1e6:,.1f} MB in {seconds:.1f} s)")


def inspect(named: list[str], images: Path | None = None) -> None:
    """Print a summary, and draw the first training samples with their labels to `images`, a PNG file."""
    baked = _open(named, full=False)
    show_summary(baked)
    if images is not None:
        draw_samples(baked).save(images)
        print(f"sample images with true -> given label: {images}")


def export_set(named: list[str], to: str, output: Path | None = None, shard_mb: int = 512) -> None:
    """Write a baked set as shards of about shard_mb MB. to: one of EXPORTS. output: a folder (None: named after the
    set)."""
    EXPORTS[to]  # raises for an unknown format, before anything is baked
    baked = _open(named, full=False)
    if isinstance(baked, Export):
        raise UserError(f"{baked.path} is an export; name the baked set that it was made from")
    output = output or Path(f"{baked.path.name}-{to}")
    shards = export(baked, to, output, shard_mb << 20)
    for split, files in shards.items():
        samples, size = sum(shard.samples for shard in files), sum(shard.bytes for shard in files)
        print(f"{output}: {split}, {samples:,} samples in {len(files)} files, {size / 1e6:,.1f} MB")


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
    line = 12
    sheet = Image.new("RGB", (_SHEET_COLUMNS * _CELL, _SHEET_ROWS * (_CELL + 2 * line)), "white")
    draw = ImageDraw.Draw(sheet)
    for row in range(min(stored.samples, _SHEET_ROWS * _SHEET_COLUMNS)):
        x, y = row % _SHEET_COLUMNS * _CELL, row // _SHEET_COLUMNS * (_CELL + 2 * line)
        picture = Image.fromarray(stored.image(row))
        picture = picture.resize((_CELL - 2, _CELL - 2), Image.Resampling.NEAREST)
        sheet.paste(picture, (x, y))
        draw.text((x, y + _CELL - 2), names[clean[row]][:15], fill="black")
        color = "black" if given[row] == clean[row] or signs else "red"
        draw.text((x, y + _CELL + line - 2), f"-> {given_names[given[row]]}"[:15], fill=color)
    return sheet
