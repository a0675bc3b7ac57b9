"""How data sets lie in folders: where a named one is looked for, and which Parquet files are which split."""

import os
import re
from pathlib import Path

from pipelines.errors import UserError
from pipelines.locations import data_root
from pipelines.sources.base import SourceSpec

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
_SPLIT_WORDS = {"train": {"train", "training"}, "val": {"val", "valid", "validation", "test"}}


def named_root(spec: SourceSpec, wanted: str) -> Path:
    """data.root as an existing path. `wanted` says what should lie there, for the error."""
    if spec.root is None:
        raise UserError(f"data.source={spec.source} needs data.root: {wanted}")
    root = Path(spec.root).expanduser()
    if not root.exists():
        raise UserError(f"data.root={spec.root} does not exist; it should name {wanted}")
    return root


def search_folders(spec: SourceSpec, name: str) -> list[Path]:
    """Where a well-known set may lie: data.root if given, else NAME/ under the data folder and that itself."""
    if spec.root is not None:
        return [named_root(spec, f"the folder of {name}")]
    return [data_root() / name, data_root()]


def is_image(name: str) -> bool:
    """Whether a file's name says it is an image. Hidden files are none: macOS leaves ._NAME.JPEG beside NAME.JPEG."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def split_of(name: str) -> str | None:
    """ "train" or "val" as the words of a file or folder name say, else None."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    for split, known in _SPLIT_WORDS.items():
        if words & known:
            return split
    return None


def find_parquet(root: Path, split: str) -> list[Path]:
    """The Parquet files of a split below `root`, in name order.

    A file belongs to the split that its own name says (train-00000-of-00002.parquet), else its folder's name, else to
    the training split. Validation files go before test files, which may come without labels on the Hub.
    """
    if root.is_file():
        return [root] if split == "train" else []
    files = sorted(root.rglob("*.parquet"))
    found = [f for f in files if (split_of(f.name) or split_of(f.parent.name) or "train") == split]
    if split == "val":
        validation = [f for f in found if "val" in f.relative_to(root).as_posix().lower()]
        return validation or found
    return found
