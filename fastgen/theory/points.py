"""Data sets as arrays for the theory: read from their baked sets, so that every number has a manifest."""

from dataclasses import dataclass

import numpy as np

from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec


@dataclass(frozen=True)
class Points:
    """images, test_images: uint8 (n, height, width, channels), channels 3, or 1 for grey ones. labels, test_labels:
    int64 (n,) in [0, classes). manifest_sha256: of the baked set."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    manifest_sha256: str


def load_points(source: SourceSpec, labels: LabelSpec) -> Points:
    """Training set with the labelling `labels`, and test set with its true labels; baked on first use.

    Raises UserError for a set without test split, or whose images are not pixels of one size.
    """
    baked = bake(source, labels, PixelSpec(), BakeSpec(), say=lambda text: print(text, flush=True))
    if "val" not in baked.splits:
        raise UserError(f"data.source={source.source} has no test split, which kernel machines are tested on")
    parts: dict[str, np.ndarray] = {}
    for split, column, prefix in (("train", labels.column_name, ""), ("val", "label_true", "test_")):
        beton = baked.splits[split]
        if beton.fixed_size is None or not beton.raw.all():
            raise UserError(f"data.source={source.source}: its images differ in size; use cifar10, mnist or digits")
        parts[f"{prefix}images"] = beton.raw_images()[..., : baked.manifest.channels]
        parts[f"{prefix}labels"] = np.array(beton.columns[column], np.int64)
    return Points(**parts, classes=baked.manifest.num_classes, manifest_sha256=baked.sha256)
