"""A folder of class folders of image files, as torchvision's ImageFolder reads it.

Either ROOT/train/CLASS/* with ROOT/val (or test, dev, ...: the Hub's words), or ROOT/CLASS/*, which has no test split.
Classes are the sorted folder names, samples the sorted paths, links are followed. Tiny ImageNet's val/images with
val/val_annotations.txt is read too.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from pipelines.errors import UserError, shown
from pipelines.sources.base import Source, SourceSpec, fingerprint_files
from pipelines.sources.layouts import (
    IMAGE_SUFFIXES,
    NO_TEST_SPLIT,
    choose,
    is_image,
    named_root,
    order_note,
    says_split,
    split_of,
)
from pipelines.sources.walk import FOLDER, Walk, folders_in, listed, read_regular

_ANNOTATIONS = "val_annotations.txt"  # of Tiny ImageNet: a line for each of images/: file name, class, and a box


class ImageFolderSource(Source):
    """Image files, with the class of each."""

    def __init__(
        self, folder: Path, paths: list[Path], labels: list[int], class_names: list[str], notes: tuple[str, ...]
    ) -> None:
        self.paths, self.class_names, self.notes = paths, class_names, notes
        self.labels = np.asarray(labels, dtype=np.int64)
        self.fingerprint = fingerprint_files(folder, paths)

    def read(self, index: int) -> bytes:
        return read_regular(self.paths[index])

    def sample_name(self, index: int) -> str:
        return shown(str(self.paths[index]))


def _from_class_folders(folder: Path, class_names: list[str] | None, notes: tuple[str, ...] = ()) -> ImageFolderSource:
    """The image files below `folder`, a sub-folder for each class. class_names: those of the training split.

    A folder without any file is no class, which is said. Raises UserError for one that has files and no images, and for
    folders that hold classes in place of images.
    """
    found = _class_folders(folder)
    if empty := [shown(name) for name in folders_in(folder) if name not in found]:
        notes += (f"{folder}: folders without any file are no classes: {', '.join(empty)}",)
    names = [shown(name) for name in found]
    if len(set(names)) < len(names):
        raise UserError(f"{folder}: two class folders have names that cannot be told apart once shown; rename one")
    known = class_names or names
    place = {name: label for label, name in enumerate(known)}
    for name in names:
        if name not in place:
            raise UserError(
                f"{folder}: class folder '{name}' does not exist in the training split; remove it or add it there, or "
                "choose the test split by data.split_test (none for none)"
            )
    walk = Walk(is_image)
    paths: list[Path] = []
    labels: list[int] = []
    for entry, name in zip(found, names, strict=True):
        before = walk.unread.copy()
        files = walk.files(folder / entry)
        if not files:
            others = _by_suffix(walk.unread - before)
            held = f" (of the other files {others})" if others else ""
            raise UserError(
                f"{folder / entry}: class '{name}' has no image files{held}; copy its images ({_suffixes()}) again, or "
                "remove the folder"
            )
        _refuse_inner_classes(folder / entry, files, found, alone=len(known) == 1)
        paths += files
        labels += [place[name]] * len(files)
    if not paths:
        raise UserError(
            f"{folder}: no image files in class folders ({_suffixes()}); sort them into a folder a class, or set "
            "data.split_test=none for a test split without labels"
        )
    outside = sum(kind is not FOLDER and is_image(name) for name, kind in listed(folder))
    if outside:
        notes += (f"{folder}: {outside:,} image files outside of the class folders are not read",)
    if walk.unread:
        notes += (f"{folder}: files that are no images by their suffix are not read: {_by_suffix(walk.unread)}",)
    if class_names is None:
        notes += order_note(names)
    return ImageFolderSource(folder, paths, labels, known, notes)


def _class_folders(folder: Path) -> list[str]:
    """The folders in `folder` that hold a file, however deep."""
    return [name for name in folders_in(folder) if Walk(is_image).any_file(folder / name)]


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _by_suffix(counts: Counter[str]) -> str:
    return ", ".join(f"{suffix} {count:,}" for suffix, count in sorted(counts.items()))


def _refuse_inner_classes(folder: Path, files: list[Path], classes: list[str], alone: bool) -> None:
    """Raises UserError for a folder that is no class but holds some: a second copy, or (alone) an outer one."""
    inner = sorted({path.relative_to(folder).parts[0] for path in files if path.parent != folder})
    copies = [name for name in inner if name in classes]
    only = alone and all(path.parent != folder for path in files)
    if copies or only:
        told = (
            f"a folder '{copies[0]}', as there is a class"
            if copies
            else f"all images in folders ({', '.join(inner[:3])})"
        )
        raise UserError(
            f"{folder} would be a class, and holds {told}; remove it, or set data.root to the folder of the classes"
        )


def _from_annotations(folder: Path, class_names: list[str]) -> ImageFolderSource:
    """Tiny ImageNet's validation split: images in one folder, and a file that names the class of each."""
    said = folder / _ANNOTATIONS
    try:
        lines = [line.split("\t") for line in read_regular(said).decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{said}: is no text ({error}); copy or download it again") from error
    walk = Walk(is_image)
    paths = {path.name: path for path in walk.files(folder / "images")}
    place = {name: label for label, name in enumerate(class_names)}
    label_of: dict[str, int] = {}
    for number, fields in enumerate(lines, 1):
        if len(fields) < 2 or fields[0] not in paths or fields[0] in label_of or fields[1] not in place:
            raise UserError(
                f"{said} line {number}: not a file of images/, named once, and a class of the training split; copy or "
                "download the validation split again"
            )
        label_of[fields[0]] = place[fields[1]]
    without = sorted(set(paths) - set(label_of))
    if without or not paths:
        raise UserError(f"{said}: says no class for {without[0] if paths else 'any image'}; copy or download it again")
    samples = sorted((label, paths[name]) for name, label in label_of.items())
    labels, ordered = [label for label, _ in samples], [path for _, path in samples]
    return ImageFolderSource(folder, ordered, labels, class_names, ())


def _train_folder(root: Path, spec: SourceSpec, folders: list[str]) -> str | None:
    """The folder of the training split, None where `root` holds the classes themselves.

    Raises UserError where the names say neither: a train_old is not the training split, and no class either.
    """
    train = choose(folders, "train", spec.split_train, spec.split_test, str(root))
    if train is not None:
        return train
    splits = [name for name in folders if split_of(name) is not None]
    if (
        splits
        or spec.split_test not in (None, NO_TEST_SPLIT)
        or (folders and all(says_split(name) for name in folders))
    ):
        raise UserError(
            f"{root}: none of its folders is called train ({', '.join(map(shown, folders[:5]))}); rename the one with "
            "the training images, or choose by data.split_train=NAME and data.split_test=NAME (or none)"
        )
    return None


def open_split(spec: SourceSpec, split: str) -> ImageFolderSource | None:
    root = named_root(spec, "a folder of class folders, or of train/ and val/")
    if not root.is_dir():
        raise UserError(f"data.root={spec.root} is a file; data.source=imagefolder reads a folder")
    folders = folders_in(root)
    folders += [
        name for name in (spec.split_train, spec.split_test) if name and "/" in name and os.path.isdir(root / name)
    ]
    train = _train_folder(root, spec, folders)
    if train is None:
        return _from_class_folders(root, None) if split == "train" else None
    test = choose(folders, "val", spec.split_train, spec.split_test, str(root))
    if split == "train":
        read = {Path(name).parts[0] for name in (train, test) if name}
        others = [shown(name) for name in folders if Path(name).parts[0] not in read]
        notes = (f"{root}: of its folders these are not read: {', '.join(others)}",) if others else ()
        return _from_class_folders(root / train, None, notes)
    if test is None:
        return None
    class_names = [shown(name) for name in _class_folders(root / train)]
    if (root / test / _ANNOTATIONS).is_file():
        return _from_annotations(root / test, class_names)
    return _from_class_folders(root / test, class_names)
