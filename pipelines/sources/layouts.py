"""How data sets lie in folders: where a named one is looked for, and which files and folders are which split."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pipelines.errors import UserError, did_you_mean
from pipelines.locations import data_root
from pipelines.sources.base import SourceSpec
from pipelines.sources.walk import Walk, is_hidden

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
NO_TEST_SPLIT = "none"  # as data.split_test
_WORDS = {  # by which the Hub tells splits apart
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_NO_TRAINING = {"holdout", "heldout", "extra", "unlabeled", "unlabelled", "unsupervised"}
_SHARD = re.compile(r"[-_. ]?(\d+)-of-(\d+)")
_NUMBER = re.compile(r"(?<![^-_. ])\d+(?![^-_. ])")  # a word of digits alone


def named_root(spec: SourceSpec, wanted: str) -> Path:
    """data.root as an existing path. `wanted` says what should lie there, for the error."""
    if not spec.root:
        raise UserError(f"data.source={spec.source} needs data.root: {wanted}")
    root = Path(os.path.expanduser(spec.root))  # Path's own raises for an unknown user
    if not os.path.exists(root):  # and for a name that is too long
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
    """ "train", "validation" or "test" where a file's or folder's name is a word for it (numbers aside), else None."""
    words = _words(name)
    return _kind_of(words[0]) if len(words) == 1 else None


def says_split(name: str) -> bool:
    """Whether a word for a split is among the words of a name, as in train_old."""
    return any(_kind_of(word) for word in _words(name))


def order_note(names: list[str]) -> tuple[str, ...]:
    """What is to be said of the order of sorted class names: numbers are not in the order that one expects."""
    if all(name.isascii() and name.isdigit() for name in names) and names != sorted(names, key=int):
        return (f"classes are in the order of their names as text, as torchvision's: {', '.join(names[:4])}, ...",)
    return ()


def _kind_of(word: str) -> str | None:
    return _SPLIT_OF.get(word.rstrip("0123456789"))


def _alike(name: str, other: str) -> bool:
    """Whether two names say the same split: by the same words, or by words for the same."""
    same_words = _words(name) == _words(other) != ()
    return same_words or (split_of(name) is not None and split_of(name) == split_of(other))


def _words(name: str) -> tuple[str, ...]:
    """The words of a name, without its number among shards."""
    stem = _SHARD.split(name.lower().removesuffix(".parquet"))[0]
    return tuple(word for word in re.split(r"[-_. ]+", stem) if word and not word.isdecimal())


def choose(names: Iterable[str], split: str, train: str | None, test: str | None, place: str) -> str | None:
    """Which of `names` is the split "train" or "val"; None where none is.

    train, test: data.split_train and data.split_test, which go before what the names say. Of a validation and a test
    split the validation split is taken: on the Hub a test split may come without labels. Raises UserError for a choice
    that is none of `names`, and for two names of one split. place: where they lie, for the error.
    """
    names = list(names)
    key, said = ("data.split_train", train) if split == "train" else ("data.split_test", test)
    if said is not None:
        if split == "val" and said == NO_TEST_SPLIT:
            return None
        found = [name for name in names if name == said] or [name for name in names if _alike(name, said)]
        if len(found) != 1:
            told = f"may be {' or '.join(found)}" if found else "is no split"
            raise UserError(f"{key}={said} {told} in {place}; {did_you_mean(said, names)}")
        return found[0]
    taken = None if split == "train" else choose(names, "train", train, test, place)
    for kind in ("train",) if split == "train" else ("validation", "test"):
        found = [name for name in names if split_of(name) == kind and name != taken]
        if len(found) > 1:
            raise UserError(f"{place}: {' and '.join(found)} are both named as a {kind} split; choose by {key}=NAME")
        if found:
            return found[0]
    return None


def find_parquet(
    root: Path, split: str, train: str | None = None, test: str | None = None, without: tuple[str, ...] = ()
) -> list[Path]:
    """The Parquet files of the split "train" or "val" below `root`, in name order; train, test: as in `choose`.

    without: splits that a well-known set has beside them.

    A split is what the names of files (train-00000-of-00002.parquet), else those of their folders, say by the Hub's
    words. Files without any such word are the training split where there are no others. Hidden files and folders, and
    what begins with _ (as Spark's), are left out.

    Raises UserError for a split that no word is known for, since its samples could be anything; for several sets of
    files (configurations, copies, shardings) of a split, whose samples would come twice; and for a missing shard.
    """
    if root.is_file():
        if train is not None:
            raise UserError(f"data.split_train={train} is a name in a folder, and data.root={root} is a file")
        return [root] if split == "train" else []
    if not root.is_dir():
        return []
    sets = {name: files for name, files in _named(_sets_of_files(root)).items() if name not in without}
    chosen = choose(sets, split, train, test, str(root))
    if split == "train" and train is None:
        tested = choose(sets, "val", train, test, str(root)) if test is not None else None
        unknown = [name for name in sets if split_of(name) is None and name != tested]
        chosen = _only_training(root, sets, unknown) if unknown else chosen
    if chosen is None:
        return []
    if len(sets[chosen]) > 1:
        raise UserError(
            f"{root}: the split '{chosen}' has several sets of files ({', '.join(sorted(sets[chosen]))}), as of "
            "several configurations or copies; set data.root to the folder or file of one, or remove the others"
        )
    (files,) = sets[chosen].values()
    _refuse_incomplete(files)
    return files


def unread_parquet(root: Path, train: str | None, test: str | None) -> list[str]:
    """The splits below `root` that `find_parquet` gives neither for "train" nor for "val"."""
    sets = _named(_sets_of_files(root)) if root.is_dir() else {}
    read = {choose(sets, split, train, test, str(root)) for split in ("train", "val")}
    return [name for name in sets if name not in read] if len(sets) > 1 else []


def _only_training(root: Path, sets: "_Sets", unknown: list[str]) -> str:
    """The one set of files whose name says no split. Raises UserError where there are others, or the name says more."""
    (name, *more) = unknown
    if more or len(sets) > 1 or any(_kind_of(word) or word in _NO_TRAINING for word in _words(name)):
        raise UserError(
            f"{root}: '{name}' is no split whose name is known ({', '.join(_SPLIT_OF)}), so its samples may be of any; "
            "with data.source=parquet choose by data.split_train=NAME and data.split_test=NAME (or none), of: "
            f"{', '.join(sets)}"
        )
    return name


_Sets = dict[str, dict[str, list[Path]]]  # split -> folder and name -> files


def _sets_of_files(root: Path) -> _Sets:
    """The Parquet files below `root`; a split that is known is called by its kind, another as its files or folder."""
    walk = Walk(
        lambda name: name.lower().endswith(".parquet"),
        lambda name: is_hidden(name) or name.startswith("_") or name == "cache",
        folders_too=True,  # Spark writes train.parquet/part-00000-...parquet
    )
    sets: _Sets = {}
    for path in walk.files(root):
        inner = path.relative_to(root)
        names = [path.name, *reversed(inner.parent.parts)]
        kinds = sorted({kind for name in names if (kind := split_of(name))})
        if len(kinds) > 1:
            raise UserError(f"{path} is named after several splits, {' and '.join(kinds)}; set data.root to its folder")
        words = next((words for name in names if (words := _words(name))), ())
        called = kinds[0] if kinds else "_".join(words) or "unnamed"
        place = inner.parent.joinpath("_".join(_words(path.name)) or "*").as_posix()
        sets.setdefault(called, {}).setdefault(place, []).append(path)
    return sets


def _named(sets: _Sets) -> _Sets:
    """The same with splits called by one word among others that all share: mnist_train and mnist_test are train and
    test, but train_old beside train is no split."""
    rests, kinds = set(), {}
    for name in sets:
        words = _words(name)
        known = [word for word in words if _kind_of(word)]
        if len(known) == 1:
            kinds[name] = _kind_of(known[0])
            rests.add(tuple(word for word in words if word not in known))
    if len(rests) > 1:
        return sets
    renamed: _Sets = {}
    for name, places in sets.items():
        renamed.setdefault(kinds.get(name) or name, {}).update(places)
    return renamed


def _refuse_incomplete(files: list[Path]) -> None:
    """Raises UserError unless the files are one whole sharding, as far as their names say."""
    shards = [_SHARD.search(path.name) for path in files]
    pattern = f"{files[0].parent}/{'_'.join(_words(files[0].name))}"
    totals = {int(shard[2]) if shard else None for shard in shards}
    if len(totals) > 1:
        raise UserError(
            f"{pattern}*: {files[0].name} and {files[-1].name} are of two shardings side by side; remove one"
        )
    (total,) = totals
    numbers = [tuple(int(word) for word in _NUMBER.findall(path.stem)) for path in files]
    if total is not None:
        numbers = [(int(shard[1]),) for shard in shards if shard]
    elif len(files) == 1 and (_words(files[0].name) or not numbers[0]):
        return
    twice = [number for number, count in Counter(numbers).items() if count > 1]
    if twice or () in numbers:
        same = [path.name for path, number in zip(files, numbers, strict=True) if number in (*twice[:1], ())]
        raise UserError(f"{pattern}*: {same[0]} stands beside others of its name, as a copy would; leave one of them")
    if any(len(number) != 1 for number in numbers):
        return  # several numbers say no order
    have = {number for (number,) in numbers}
    first = min(1, min(have)) if total is None else int(max(have) == total)
    count = total if total is not None else max(have) + 1 - first
    missing = next((number for number in range(first, first + count) if number not in have), None)
    if missing is not None or len(have) > count:
        told = f"shard {missing} is missing" if missing is not None else f"shard {max(have)} is too many"
        raise UserError(f"{pattern}*: {told} (there are {len(have)} of {count}); copy or download the files again")
