"""ImageNet (ILSVRC 2012): 1,281,167 training and 50,000 validation photographs in 1000 classes, read as they lie.

Found under data.root or FASTGEN_DATA, for each split in the first of these layouts:

    train/WNID/*.JPEG, or WNID/*.JPEG           val/WNID/*.JPEG, or val/*.JPEG with ground truth
    ILSVRC/Data/CLS-LOC/ (Kaggle's), with both of these
    ILSVRC2012_img_train.tar (a tar of tars)    ILSVRC2012_img_val.tar with ground truth
    Parquet as on the Hub                       Parquet, where the training split is Parquet

What ground truth of validation files that lie flat may be, `imagenet_truth` says. A class is its wnid's place among the
sorted wnids of the training split, which is the usual order of the 1000. Samples are in the order of (wnid, file name):
the same in a folder and in a tar, and so are the fingerprints. Parquet keeps the order of its rows.
"""

import hashlib
import os
import re
from abc import abstractmethod
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.sources.base import Source, SourceSpec, fingerprint_samples
from pipelines.sources.imagenet_truth import find_truth
from pipelines.sources.layouts import find_parquet, is_image, search_folders
from pipelines.sources.parquet import ParquetSource
from pipelines.sources.tars import TarIndex, index_tar

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_KAGGLE = Path("ILSVRC/Data/CLS-LOC")
_WNID = re.compile(r"n\d{8}")


class _Split(Source):
    """A split in the order of (wnid, file name). names (binary), sizes (int64), labels: of each sample.

    place: the folder or archive with the files, by class, or (flat) all together.
    """

    def __init__(
        self, place: Path, flat: bool, class_names: list[str], labels: np.ndarray, names: pa.Array, sizes: np.ndarray
    ) -> None:
        self.place, self.flat, self.class_names = place, flat, class_names
        self.labels, self.names, self.sizes = labels.astype(np.int64), names, sizes
        self.fingerprint = fingerprint_samples(
            (
                (f"{class_names[label]}/{os.fsdecode(name.as_py())}", int(size))
                for label, name, size in zip(labels, names, sizes, strict=True)
            ),
            (hashlib.sha256(self.read(index)).digest() for index in range(len(names))),
        )

    def file_name(self, index: int) -> str:
        return os.fsdecode(self.names[index].as_py())

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The image file's bytes."""


class FolderSplit(_Split):
    """Files in class folders, or (flat) in one."""

    def _path(self, index: int) -> Path:
        group = "" if self.flat else self.class_names[self.labels[index]]
        return self.place / group / self.file_name(index)

    def read(self, index: int) -> bytes:
        try:
            return self._path(index).read_bytes()
        except OSError as error:
            raise UserError(
                f"{self._path(index)}: cannot be read ({error.strerror}); get it again, or remove it"
            ) from error

    def sample_name(self, index: int) -> str:
        return str(self._path(index))


class TarSplit(_Split):
    """Members, those of `index` in the order `order`, of a tar of class tars, or (flat) of files."""

    def __init__(
        self, place: Path, flat: bool, class_names: list[str], labels: np.ndarray, index: TarIndex, order: np.ndarray
    ) -> None:
        self.offsets = index.offsets[order]
        self._file = open(place, "rb", buffering=0)  # noqa: SIM115  # as long as the source; closed with it
        super().__init__(place, flat, class_names, labels[order], index.names.take(order), index.sizes[order])

    def read(self, index: int) -> bytes:
        size = int(self.sizes[index])
        data = os.pread(self._file.fileno(), size, int(self.offsets[index]))  # has no position: threads may share it
        if len(data) != size:
            raise UserError(f"{self.sample_name(index)}: the archive has become shorter since it was opened")
        return data

    def sample_name(self, index: int) -> str:
        group = "" if self.flat else f"{self.class_names[self.labels[index]]}.tar/"
        return f"{self.place}: {group}{self.file_name(index)}"


def open_split(spec: SourceSpec, split: str) -> Source | None:
    folders = search_folders(spec, "imagenet")
    for folder in folders:
        if not folder.is_dir():
            if spec.root is not None:
                raise UserError(f"data.root={spec.root} is a file; it should name the folder of imagenet")
            continue
        classes = _train_folder(folder)
        if classes is not None:
            if split == "train":
                return _from_class_folders(classes, None)
            return _open_val(folder if classes == folder else classes.parent, _wnids(classes))
        if (folder / TRAIN_TAR).is_file():
            train = folder / TRAIN_TAR
            return _from_train_tar(train) if split == "train" else _open_val(folder, _tar_classes(train))
        # Not in all of FASTGEN_DATA: the Parquet files of any other set lie there, too.
        files = find_parquet(folder, split) if folder == folders[0] else []
        if files:
            return ParquetSource(folder, files, training=None if split == "train" else find_parquet(folder, "train"))
        if folder == folders[0] and split == "val" and find_parquet(folder, "train"):
            return None
    looked = " or ".join(str(folder) for folder in folders)
    raise UserError(
        f"no ImageNet training images in {looked}: neither train/WNID/*.JPEG, nor {TRAIN_TAR}, nor Parquet. "
        "Get it from image-net.org (it cannot be downloaded without an account) and set data.root to its folder"
    )


def where() -> str:
    spec = SourceSpec("imagenet")
    try:
        source = open_split(spec, "train")
    except UserError as error:
        return str(error)
    assert source is not None, "a training split is there, or an error says so"
    return f"{search_folders(spec, 'imagenet')[0]}: {len(source):,} training images, {source.num_classes:,} classes"


def _open_val(root: Path, class_names: list[str]) -> Source | None:
    """The validation split, its classes fixed by the training split's; None where there are no such images."""
    folder = root / "val"
    if folder.is_dir():
        if _wnids(folder):
            return _from_class_folders(folder, class_names)
        names, sizes = _image_files(folder)
        if len(names):
            labels = _true_labels([folder, *_with_truth(root)], folder, names, class_names)
            order = np.argsort(labels, kind="stable")
            return FolderSplit(folder, True, class_names, labels[order], names.take(order), sizes[order])
    archive = root / VAL_TAR
    if not archive.is_file():
        return None
    index = index_tar(archive, nested=False)
    if not len(index.names):
        raise UserError(f"{archive}: holds no image files; remove it to go without a test split")
    labels = _true_labels(_with_truth(root), archive, index.names, class_names)
    order = np.argsort(labels, kind="stable")
    return TarSplit(archive, True, class_names, labels, index, order)


def _train_folder(root: Path) -> Path | None:
    """The folder that holds the training split's class folders, if any."""
    places = (root / "train", root, root / _KAGGLE / "train", root / Path(*_KAGGLE.parts[1:]) / "train")
    return next((folder for folder in places if folder.is_dir() and _wnids(folder)), None)


def _with_truth(root: Path) -> list[Path]:
    """The folders that may hold the ground truth of the validation images in `root`."""
    # Kaggle's lies beside its topmost folder.
    return [root, *root.absolute().parents[: len(_KAGGLE.parts)]] if root.name == _KAGGLE.name else [root]


def _true_labels(folders: list[Path], images: Path, names: pa.Array, class_names: list[str]) -> np.ndarray:
    """Labels int64 (n,) of validation files of these names (binary), which lie all together."""
    truth = find_truth(folders, images, class_names)
    _refuse_unknown(truth.file, sorted({*truth.wnids.values()}), class_names)
    return truth.labels(images, (os.fsdecode(name.as_py()) for name in names), class_names)


def _wnids(folder: Path) -> list[str]:
    """The sorted class folders."""
    return sorted(entry.name for entry in os.scandir(folder) if _WNID.fullmatch(entry.name) and entry.is_dir())


def _image_files(folder: Path) -> tuple[pa.Array, np.ndarray]:
    """Names (binary) and sizes (int64) of the image files in a folder, by name."""
    found = sorted((entry.name, _size(entry)) for entry in os.scandir(folder) if is_image(entry.name))
    names = pa.array([os.fsencode(name) for name, _ in found], pa.binary())
    return names, np.array([size for _, size in found], np.int64)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        if entry.is_file():
            return entry.stat().st_size
    except OSError:  # a link to itself
        pass
    raise UserError(f"{entry.path} is no file (a broken link, a folder or a device); mend or remove it")


def _from_class_folders(folder: Path, class_names: list[str] | None) -> FolderSplit:
    """Class folders; `class_names` fixes the classes of a test split."""
    wnids = _wnids(folder)
    if folder.name in ("train", "val"):  # a folder that is the data set's root may hold anything else
        _refuse_strays(folder)
    known = class_names if class_names is not None else wnids
    _refuse_unknown(folder, wnids, known)
    listed = [_image_files(folder / wnid) for wnid in wnids]
    counts = np.array([len(names) for names, _ in listed])
    if class_names is None:
        _refuse_empty(folder, wnids, counts)
    return FolderSplit(
        folder,
        False,
        known,
        np.repeat(np.searchsorted(known, wnids), counts),
        pa.chunked_array([names for names, _ in listed], pa.binary()).combine_chunks(),
        np.concatenate([np.zeros(0, np.int64), *(sizes for _, sizes in listed)]),
    )


def _refuse_strays(folder: Path) -> None:
    """Raises UserError for a class folder that is named by no wnid, and for images outside of the class folders."""
    for entry in os.scandir(folder):
        if entry.is_dir() and not _WNID.fullmatch(entry.name) and not entry.name.startswith((".", "__")):
            raise UserError(
                f"{entry.path} is not named by a wnid such as n01440764, and so is no class of ImageNet; "
                "rename or remove it, or set data.source=imagefolder, which takes any names"
            )
        if is_image(entry.name) and not entry.is_dir():
            raise UserError(
                f"{entry.path} lies outside of the class folders, and so has no label; move it into its class's folder "
                "or remove it"
            )


def _refuse_unknown(place: Path, wnids: list[str], known: list[str]) -> None:
    unknown = sorted(set(wnids) - set(known))
    if unknown:
        raise UserError(
            f"{place}: class {unknown[0]} does not exist in the training split, which has {len(known)} classes; "
            "complete the training split, or remove these validation images"
        )


def _refuse_empty(place: Path, wnids: list[str], counts: np.ndarray) -> None:
    empty = [wnid for wnid, count in zip(wnids, counts, strict=True) if count == 0]
    if empty:
        raise UserError(
            f"{place}: class {empty[0]} has no image files ({len(empty)} such classes); "
            "copy or download its images again, or remove the class"
        )


def _tar_classes(archive: Path) -> list[str]:
    """The wnids of a tar of class tars."""
    index = index_tar(archive, nested=True)
    odd = [group for group in index.groups if not _WNID.fullmatch(group)]
    if odd or not index.groups:
        held = f"{odd[0]}.tar, which is named by no wnid" if odd else "no class archives"
        raise UserError(
            f"{archive}: holds {held}; it should be a tar of n01440764.tar and so on, as from image-net.org"
        )
    _refuse_empty(archive, index.groups, index.counts)
    return index.groups


def _from_train_tar(archive: Path) -> TarSplit:
    wnids = _tar_classes(archive)
    index = index_tar(archive, nested=True)
    labels = np.repeat(np.arange(len(wnids)), index.counts)
    return TarSplit(archive, False, wnids, labels, index, np.arange(len(labels)))
