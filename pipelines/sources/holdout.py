"""A test split made of training samples, for a source that has none or whose own is not wanted."""

import hashlib

import numpy as np

from pipelines.errors import UserError
from pipelines.randomness import uniforms_of
from pipelines.sources.base import Part, Source, SourceSpec


def hold_out(whole: Source, spec: SourceSpec, split: str) -> Part:
    """The split "train" or "val" of a training set, of which data.holdout is the part that becomes "val".

    Raises UserError where a class has too few samples to be in both.
    """
    held = held_out(whole.labels, spec.holdout, spec.holdout_seed)
    counts = np.bincount(whole.labels, minlength=whole.num_classes)
    if (counts == 1).any():
        alone = [name for name, count in zip(whole.class_names, counts, strict=True) if count == 1]
        raise UserError(
            f"data.holdout={spec.holdout:g} takes samples of each class and leaves some, and {len(alone):,} of the "
            f"{whole.num_classes:,} classes have one alone ('{alone[0]}' is the first); add samples to them, remove "
            "them, or leave data.holdout out"
        )
    rows = np.flatnonzero(held if split == "val" else ~held)
    part = Part(whole, rows)
    part.fingerprint = hashlib.sha256(whole.fingerprint.encode() + rows.astype("<i8").tobytes()).hexdigest()
    told = (f"{held.sum():,} of {len(held):,} training samples are held out as the test split",)
    part.notes = (*whole.notes, *told) if split == "train" else ()
    return part


def held_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Which samples are held out: bool (n,), of each class the rounded fraction, at least one, and never all.

    labels: int64 (n,). A pure function: of a class's samples those with the smallest random numbers of (seed, index).
    """
    if not 0 < fraction < 1:
        raise UserError(f"data.holdout={fraction} must be above 0 and below 1 (0: nothing is held out)")
    order = np.lexsort((uniforms_of(np.arange(len(labels)), seed, "sources/holdout")[:, 0], labels))
    counts = np.bincount(labels)
    most = np.clip(np.floor(fraction * counts + 0.5).astype(np.int64), 1, np.maximum(counts - 1, 0))
    starts = np.cumsum(counts) - counts  # of each class, in that order
    classes = labels[order]
    held = np.zeros(len(labels), bool)
    held[order] = np.arange(len(labels)) - starts[classes] < most[classes]
    return held
