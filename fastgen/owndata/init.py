"""fastgen init: looks at a set of one's own, says what it found, and writes a recipe for it."""

import os
import shlex
from pathlib import Path

import numpy as np
from rich.table import Table

from fastgen.owndata.choose import choose, recipe_text
from fastgen.owndata.look import Look, by_suffix, look
from fastgen.recipe.load import load
from fastgen.terminal import console
from pipelines.durable import refusals, write_atomically
from pipelines.errors import UserError

_NAMED = 5  # of the files that something is wrong with; more are counted
_UNEVEN = 10  # times as many samples in the largest class as in the smallest


def init(root: Path, output: Path = Path("recipe.yaml")) -> None:
    """Look at the data in `root`, a folder or a Parquet file, and write a recipe to `output`.

    Raises UserError where `output` is there already, and for data that cannot be read.
    """
    if output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output={output} must end in .yaml, as recipe=NAME.yaml names it")
    if output.exists():
        raise UserError(f"{output} is there already, and is not overwritten; move it, or name another with --output")
    found = look(root)
    choice = choose(found, _has_gpu(), len(os.sched_getaffinity(0)))
    text = recipe_text(found, choice, output)
    with refusals(output, "name another place with --output"):
        write_atomically(output, text)
    try:
        load(str(output.resolve()))
    except UserError:  # nothing is left that no command would take
        output.unlink()
        raise
    _tell(found)
    true, random = (f"fastgen_out/{output.stem}-{kind}" for kind in ("true", "random"))
    print(f"\n{output}: {choice.network}, batches of {choice.batch}, {choice.epochs} epochs. Next:")
    for words in (
        ["bake", f"recipe={output}"],
        ["train", f"recipe={output}", f"run.dir={true}"],
        ["train", f"recipe={output}", "data.labels.kind=random", f"run.dir={random}"],
        ["suspects", true],
        ["report", true, random],
    ):
        print(f"  {shlex.join(['fastgen', *words])}")


def _has_gpu() -> bool:
    import torch  # seconds

    return torch.cuda.is_available()


def _tell(found: Look) -> None:
    screen = console()
    table = Table("split", "images", "classes", "a class has", "sides in pixels", "files")
    for name, source in found.splits.items():
        counts, seen = np.bincount(source.labels, minlength=source.num_classes), found.seen[name]
        sides = np.concatenate([seen.width, seen.height])
        sides = sides[sides > 0]
        low, high = (int(sides.min()), int(sides.max())) if len(sides) else (0, 0)
        table.add_row(
            "training" if name == "train" else "test",
            f"{len(source):,}",
            f"{(counts > 0).sum():,}",
            _range(int(counts.min()), int(counts.max())),
            _range(low, high),
            by_suffix(source),
        )
    screen.print(table)
    for line in _remarks(found):
        print(line)


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _remarks(found: Look) -> list[str]:
    lines = [f"note: {note}" for source in found.splits.values() for note in source.notes]
    counts, names = found.counts, found.splits["train"].class_names
    if found.no_test is not None:
        lines.append(f"note: the test split is not read: {found.no_test}")
    if counts.max() > _UNEVEN * counts.min():
        least, most = int(counts.argmin()), int(counts.argmax())
        lines.append(
            f"uneven classes: '{names[most]}' has {counts[most]:,} images, '{names[least]}' {counts[least]:,}; always "
            f"saying the first is right for {100 * counts[most] / counts.sum():.0f} %"
        )
    if turned := sum(seen.turned for seen in found.seen.values()):
        lines.append(f"EXIF: {turned:,} images are stored turned; a bake stores them upright")
    for kind, groups in found.copies().items():
        lines += [f"exact copies {kind}: {len(groups):,} groups", *_some(groups, found.root)]
    if broken := found.broken:
        lines += [
            f"BROKEN: {len(broken):,} images; a bake refuses them, so move them away first",
            *_some(broken, found.root),
        ]
    return lines


def _some(lines: list[str], root: Path) -> list[str]:
    """The first, with files named from `root` on."""
    more = [f"    and {len(lines) - _NAMED:,} more"] if len(lines) > _NAMED else []
    return [f"    {line.replace(f'{root}/', '')}" for line in lines[:_NAMED]] + more
