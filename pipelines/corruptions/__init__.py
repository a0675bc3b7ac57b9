"""Deterministic changes of labels and pixels: pure functions of (seed, operation, sample index)."""

from pipelines.corruptions.labels import LABELS, LabelKind, LabelSpec, corrupt_labels
from pipelines.corruptions.pixels import PIXELS, PixelKind, PixelSpec, Statistics, pixel_corruption

__all__ = [
    "LABELS", "PIXELS", "LabelKind", "LabelSpec", "PixelKind", "PixelSpec", "Statistics", "corrupt_labels",
    "pixel_corruption",
]  # fmt: skip
