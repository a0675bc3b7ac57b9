"""A folder of class folders of image files, as torchvision's ImageFolder reads it.

Either ROOT/train/CLASS/* with ROOT/val (or test, validation), or ROOT/CLASS/*, which has no test split.
Classes are the sorted folder names, samples the sorted paths.
"""

import os
from pathlib import Path

import numpy as np

from pipelines.errors import UserError
from pipelines.sources.base import Source, SourceSpec, fingerprint_files
from pipelines.sources.layouts import IMAGE_SUFFIXES, is_image, named_root, split_of


class ImageFolderSource(Source):
    """The image files below `folder`, a sub-folder for each class. class_names: those of the training split."""

    def __init__(self, folder: Path, class_names: list[str] | None = None) -> None:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        self.class_names = class_names or found
        unknown = sorted(set(found) - set(self.class_names))
        if unknown:
            raise UserError(f"{folder}: class folder '{unknown[0]}' does not exist in the training split")
        self.paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            if (folder / name).is_dir():
                files = sorted(p for p in (folder / name).rglob("*") if is_image(p.name))
                self.paths += files
                labels += [label] * len(files)
        if not self.paths:
            raise UserError(f"{folder}: no image files in class folders ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self.labels = np.asarray(labels, dtype=np.int64)
        self.fingerprint = fingerprint_files(folder, self.paths)

    def read(self, index: int) -> bytes:
        return self.paths[index].read_bytes()

    def sample_name(self, index: int) -> str:
        return str(self.paths[index])


def open_split(spec: SourceSpec, split: str) -> ImageFolderSource | None:
    root = named_root(spec, "a folder of class folders, or of train/ and val/")
    if not root.is_dir():
        raise UserError(f"data.root={spec.root} is a file; data.source=imagefolder reads a folder")
    splits: dict[str, Path] = {}
    for name in sorted((e.name for e in os.scandir(root) if e.is_dir()), reverse=True):  # val before test
        said = split_of(name)
        if said is not None:
            splits.setdefault(said, root / name)
    if "train" not in splits:
        return ImageFolderSource(root) if split == "train" else None
    if split not in splits:
        return None
    train_classes = sorted(entry.name for entry in os.scandir(splits["train"]) if entry.is_dir())
    return ImageFolderSource(splits[split], train_classes)
