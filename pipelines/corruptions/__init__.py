"""Deterministic changes of labels and pixels: pure functions of (seed, operation, sample index)."""

from pipelines.corruptions.labels import LABELS, LabelSpec, corrupt_labels
from pipelines.corruptions.pixels import PIXELS, PixelSpec, Statistics, pixel_corruption

__all__ = [
    "LABELS",
    "PIXELS",
    "LabelSpec",
    "PixelSpec",
    "Statistics",
    "corrupt_labels",
    "pixel_corruption",
]
