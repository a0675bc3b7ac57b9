"""Where samples come from. `open_source(spec, split)` is the door; each module knows one kind of source."""

import importlib
from dataclasses import replace

from pipelines.errors import UserError
from pipelines.registry import Registry
from pipelines.sources.base import SPLITS, FirstSamples, Source, SourceSpec, SyntheticSpec

__all__ = ["SOURCES", "SPLITS", "Source", "SourceSpec", "SyntheticSpec", "open_source", "which_samples"]

_MODULES: Registry[str] = Registry("data.source")
_MODULES.add("digits", "pipelines.sources.digits")
_MODULES.add("cifar10", "pipelines.sources.cifar10")
_MODULES.add("mnist", "pipelines.sources.mnist")
_MODULES.add("imagenet", "pipelines.sources.imagenet")
_MODULES.add("imagefolder", "pipelines.sources.imagefolder")
_MODULES.add("parquet", "pipelines.sources.parquet")
_MODULES.add("synthetic", "pipelines.sources.synthetic")

SOURCES = tuple(_MODULES)


def open_source(spec: SourceSpec, split: str) -> Source | None:
    """Open one split ("train" or "val") of a source; None where the data set has no test split.

    Raises UserError for an unknown source, missing data, or a limit that is out of range.
    """
    assert split in SPLITS
    source: Source | None = importlib.import_module(_MODULES[spec.source]).open_split(spec, split)
    if source is None:
        return None
    key, limit = ("data.limit", spec.limit) if split == "train" else ("data.limit_test", spec.limit_test)
    if limit is None or limit == len(source):
        return source
    if not 1 <= limit <= len(source):
        raise UserError(
            f"{key}={limit} is out of range: {spec.source} has {len(source):,} samples in its {split} split"
        )
    return FirstSamples(source, limit)


def which_samples(spec: SourceSpec) -> SourceSpec:
    """The specification without what does not say which samples they are (the place they were found)."""
    _MODULES[spec.source]
    synthetic = spec.synthetic if spec.source == "synthetic" else SyntheticSpec()
    return replace(spec, root=None, synthetic=synthetic)
