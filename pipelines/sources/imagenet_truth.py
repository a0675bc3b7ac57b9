"""Which class each validation photograph of ImageNet is of, where they lie all in one folder.

The photographs are matched by their names, ILSVRC2012_val_00000001 and on: one that is renamed, missing or a stranger
is an error, and shifts no other's class.
"""

import csv
import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pipelines.errors import UserError

DEVKIT, SYNSET_LABELS = "ILSVRC2012_devkit_t12.tar.gz", "imagenet_2012_validation_synset_labels.txt"
KAGGLE, CAFFE, CAFFE_CLASSES = "LOC_val_solution.csv", "val.txt", "synsets.txt"
NUMBERS, META, MAP = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "map_clsloc.txt"
_UNPACKED_KIT = ("", "data", f"{DEVKIT.removesuffix('.tar.gz')}/data")  # where below a folder its files lie
_NAME = re.compile(r"ILSVRC2012_val_\d{8}")

Wnids = dict[str, str]  # by the photograph's name, without its suffix


@dataclass(frozen=True)
class Truth:
    """file: which says so. wnids: of each photograph."""

    file: Path
    wnids: Wnids

    def labels(self, images: Path, files: Iterable[str], class_names: list[str]) -> np.ndarray:
        """Labels int64 (n,) of files with these names, all in `images`. Raises UserError unless they are the ones."""
        stems = [file.rsplit(".", 1)[0] for file in files]
        odd = [stem for stem in stems if stem not in self.wnids]
        if odd:
            raise UserError(
                f"{images}: {odd[0]} is none of the {len(self.wnids):,} photographs whose classes {self.file} says "
                f"({len(odd)} such files); they are named as {next(iter(self.wnids), 'ILSVRC2012_val_00000001')}. "
                "Rename it back, or remove it"
            )
        often, times = Counter(stems).most_common(1)[0]
        if times > 1:
            raise UserError(f"{images}: {often} is there {times} times, with different suffixes; leave one")
        missing = sorted(self.wnids.keys() - set(stems))
        if missing:
            raise UserError(
                f"{images}: {missing[0]} is missing ({len(missing):,} of the {len(self.wnids):,} photographs whose "
                f"classes {self.file} says); copy or download the images again"
            )
        return np.searchsorted(class_names, [self.wnids[stem] for stem in stems]).astype(np.int64)


def find_truth(folders: list[Path], images: Path, class_names: list[str]) -> Truth:
    """What the first file that is found in `folders` says of the photographs in `images`.

    class_names: the sorted wnids of the training split. Raises UserError where there is no such file, or it is damaged.
    """
    readers: dict[str, Callable[[Path], Wnids]] = {
        SYNSET_LABELS: lambda file: _in_order(file.read_text().split()),
        KAGGLE: _kaggle,
        CAFFE: lambda file: _caffe(file, class_names),
        **{f"{place}/{NUMBERS}".lstrip("/"): lambda file: _numbers(file, folders) for place in _UNPACKED_KIT},
        DEVKIT: _devkit,
    }
    for folder in folders:
        for name, read in readers.items():
            file = folder / name
            if not file.is_file():
                continue
            try:
                wnids = read(file)
            except UserError:
                raise
            except Exception as e:  # of a damaged file, each reader raises what its parsing comes upon
                raise UserError(
                    f"{file}: cannot be read as ImageNet's ground truth ({type(e).__name__}: {e}). Get it again, or "
                    f"put {SYNSET_LABELS} beside it"
                ) from e
            odd = next((stem for stem in wnids if not _NAME.fullmatch(stem)), None)
            if odd is not None:
                raise UserError(f"{file}: {odd} is no validation photograph's name, as ILSVRC2012_val_00000001 is")
            return Truth(file, wnids)
    raise UserError(
        f"{images} has no class folders, and nothing says which class a file is of; put {SYNSET_LABELS} (a wnid a "
        f"line), {KAGGLE}, {CAFFE}, {NUMBERS} (with {META} or {MAP}) or {DEVKIT} into {folders[-1]}"
    )


def _in_order(wnids: Iterable[str]) -> Wnids:
    return {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(wnids, 1)}


def _kaggle(file: Path) -> Wnids:
    """ImageId,PredictionString: of the latter the first word is the wnid, the others are boxes."""
    with open(file, newline="") as lines:
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(lines)}


def _caffe(file: Path, class_names: list[str]) -> Wnids:
    """File name and class number a line: the place, from 0, among the sorted wnids, which synsets.txt lists."""
    listed = file.with_name(CAFFE_CLASSES)
    classes = listed.read_text().split() if listed.is_file() else class_names
    rows = [line.split() for line in file.read_text().splitlines() if line.strip()]
    numbers = [int(number) for _, number in rows]
    if not all(0 <= number < len(classes) for number in numbers):
        raise UserError(
            f"{file}: class {max(numbers)} is not among {len(classes):,} classes; put {CAFFE_CLASSES} (the wnids that "
            "it counts, a line each) beside it"
        )
    return {Path(name).stem: classes[number] for (name, _), number in zip(rows, numbers, strict=True)}


def _numbers(file: Path, folders: list[Path]) -> Wnids:
    """A number of a class a line, in an order of ILSVRC's own, which is not that of the wnids."""
    for folder in (file.parent, *folders):
        if (folder / META).is_file():
            wnid_of = _meta((folder / META).read_bytes())
            break
        if (folder / MAP).is_file():
            rows = (line.split() for line in (folder / MAP).read_text().splitlines() if line.strip())
            wnid_of = {int(row[1]): row[0] for row in rows}
            break
    else:
        raise UserError(
            f"{file}: counts the classes in ILSVRC's own order, which is not that of the wnids; put {META} (from "
            f"{DEVKIT}) or {MAP} beside it"
        )
    return _in_order(wnid_of[int(number)] for number in file.read_text().split())


def _meta(content: bytes) -> dict[int, str]:
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
    # Synsets with children are inner nodes of the hierarchy, and no classes.
    return {int(row[0]): str(row[1]) for row in (tuple(islice(s, 5)) for s in synsets) if row[4] == 0}


def _devkit(kit: Path) -> Wnids:
    with tarfile.open(kit, "r:gz") as tar:
        members = {member.name.rsplit("/", 1)[-1]: member for member in tar if member.isfile()}
        content = {}
        for name in (META, NUMBERS):
            file = tar.extractfile(members[name])
            assert file is not None
            content[name] = file.read()
    wnid_of = _meta(content[META])
    return _in_order(wnid_of[int(number)] for number in content[NUMBERS].split())
