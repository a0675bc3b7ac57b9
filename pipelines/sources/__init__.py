"""Where samples come from. `open_source(spec, split)` is the door; each module knows one kind of source."""

import importlib
from dataclasses import dataclass, replace

import numpy as np

from pipelines.errors import UserError
from pipelines.registry import Registry
from pipelines.sources.base import SPLITS, Part, Source, SourceSpec, SyntheticSpec, identity
from pipelines.sources.holdout import hold_out
from pipelines.sources.layouts import NO_TEST_SPLIT

__all__ = [
    "SOURCES", "SPLITS", "Source", "SourceKind", "SourceSpec", "SyntheticSpec", "found_here", "open_source",
    "which_samples",
]  # fmt: skip


@dataclass(frozen=True)
class SourceKind:
    """What others know of a source without importing it.

    module: has `open_split`. settings: fields of SourceSpec that not every source reads, and this one does.
    well_known: it is one set below FASTGEN_DATA, and its module's `where` says in words where it lies.
    """

    module: str
    settings: tuple[str, ...] = ()
    well_known: bool = False


SOURCES: Registry[SourceKind] = Registry("data.source")
SOURCES.add("digits", SourceKind("pipelines.sources.digits"))
SOURCES.add("cifar10", SourceKind("pipelines.sources.cifar10", well_known=True))
SOURCES.add("cifar100", SourceKind("pipelines.sources.cifar100", well_known=True))
SOURCES.add("cifar100_coarse", SourceKind("pipelines.sources.cifar100_coarse", well_known=True))
SOURCES.add("svhn", SourceKind("pipelines.sources.svhn", well_known=True))
SOURCES.add("mnist", SourceKind("pipelines.sources.mnist", well_known=True))
SOURCES.add("fashion_mnist", SourceKind("pipelines.sources.fashion_mnist", well_known=True))
SOURCES.add("imagenet", SourceKind("pipelines.sources.imagenet", well_known=True))
_SPLIT_NAMES = ("split_train", "split_test")
SOURCES.add("imagefolder", SourceKind("pipelines.sources.imagefolder", _SPLIT_NAMES))
_COLUMNS = ("image_column", "label_column")
SOURCES.add("parquet", SourceKind("pipelines.sources.parquet", (*_SPLIT_NAMES, *_COLUMNS)))
SOURCES.add("synthetic", SourceKind("pipelines.sources.synthetic", settings=("synthetic",)))


def open_source(spec: SourceSpec, split: str) -> Source | None:
    """Open one split ("train" or "val") of a source; None where the data set has no test split.

    With data.holdout "val" is a part of the training split, and the source's own test split is not read. The
    fingerprint is the `identity`. Raises UserError for an unknown source, missing data, a setting that only other
    sources read, a limit that is out of range, or a class with too few samples to hold some out.
    """
    assert split in SPLITS
    for name in (*_SPLIT_NAMES, *_COLUMNS):
        if getattr(spec, name) is not None and name not in SOURCES[spec.source].settings:
            able = " and ".join(other for other, kind in SOURCES.items() if name in kind.settings)
            raise UserError(f"data.{name} is read by data.source={able} alone, and data.source={spec.source}")
    source = _opened(spec, split)
    if source is None:
        return None
    source.fingerprint = identity(source)
    key, limit = ("data.limit", spec.limit) if split == "train" else ("data.limit_test", spec.limit_test)
    if limit is None or limit == len(source):
        return source
    if not 1 <= limit <= len(source):
        raise UserError(
            f"{key}={limit} is out of range: {spec.source} has {len(source):,} samples in its {split} split"
        )
    first = Part(source, np.arange(limit))
    first.notes += _missing_classes(source, limit, key)
    return first


def _opened(spec: SourceSpec, split: str) -> Source | None:
    """One split without a limit."""
    module = importlib.import_module(SOURCES[spec.source].module)
    if not spec.holdout:
        source: Source | None = module.open_split(spec, split)
        return source
    if spec.split_test not in (None, NO_TEST_SPLIT):
        raise UserError(
            f"data.holdout={spec.holdout:g} makes a test split of training samples, and data.split_test="
            f"{spec.split_test} names another; leave one of the two out"
        )
    return hold_out(module.open_split(replace(spec, split_test=NO_TEST_SPLIT), "train"), spec, split)


def _missing_classes(whole: Source, limit: int, key: str) -> tuple[str, ...]:
    """What is to be said where the first samples are not of all classes: most folders and files are sorted by class."""
    every, first = np.unique(whole.labels, return_index=True)
    held = int((first < limit).sum())
    if held == len(every):
        return ()
    return (
        f"{key}={limit}: the first {limit:,} samples are of {held} of the {len(every)} classes, as in data sorted by "
        f"class; {key}={first.max() + 1} is the least with all",
    )


def which_samples(spec: SourceSpec) -> SourceSpec:
    """The specification without the place where the samples were found, and without settings that decide nothing: those
    of other sources, and data.holdout_seed where nothing is held out."""
    own = SOURCES[spec.source].settings
    others = {name for kind in SOURCES.values() for name in kind.settings if name not in own}
    others |= set() if spec.holdout else {"holdout_seed"}
    return replace(spec, root=None, **{name: getattr(SourceSpec(), name) for name in others})


def found_here() -> dict[str, str]:
    """Each well-known set's name, and in words where it lies below FASTGEN_DATA or what follows from its absence."""
    return {name: _where(kind.module) for name, kind in SOURCES.items() if kind.well_known}


def _where(module: str) -> str:
    try:
        return str(importlib.import_module(module).where())
    except UserError as error:
        return str(error)
