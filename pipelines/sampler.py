"""Which sample when: the one place that knows order, sharding and position.

The global order of an epoch is a permutation that depends on (seed, epoch) alone. A global batch is a
consecutive run of it, and every process takes its own consecutive slice of that run, so the batches, and with
them the losses, are the same for any number of processes, and a run can resume on another number of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.errors import UserError
from pipelines.indices import read_indices
from pipelines.randomness import permutation, uniforms_of


@dataclass
class SubsetSpec:
    """Which training samples are trained on (data.subset.*): the others are only evaluated.

    They are chosen by (seed, sample index) and label alone, so that every process, and every continuation, agrees: all
    parts but one, or a fraction with an exact number of samples.
    """

    folds: int | None = None  # parts of the training set, each with its share of every class (None: there are none)
    fold: int = 0  # the part that is left out, from 0
    seed: int = 0  # says which samples are in which part, or in the fraction
    fraction: float = 1.0  # of the training samples: exactly round(fraction * n) of them are trained on
    without: str | None = None  # a .npy file of sample indices that are left out first: n counts the others

    def validate(self) -> None:
        """Raises UserError for a part that there is not, and for a fraction that is none."""
        if self.folds is not None and self.folds < 2:
            raise UserError(f"data.subset.folds={self.folds} must be at least 2, or null")
        if not 0 <= self.fold < (self.folds or 1):
            of = f"of {self.folds} from 0" if self.folds else "without data.subset.folds"
            raise UserError(f"data.subset.fold={self.fold} is no part {of}")
        if not 0 < self.fraction <= 1:
            raise UserError(f"data.subset.fraction={self.fraction} must be above 0 and at most 1")
        if self.folds is not None and (self.fraction < 1 or self.without is not None):
            other = "fraction" if self.fraction < 1 else "without"
            raise UserError(
                f"data.subset.folds and data.subset.{other} choose samples each in its own way; leave one out"
            )

    def members(self, labels: np.ndarray) -> np.ndarray | None:
        """Whether each sample is trained on: bool (n,), position = sample index; None: all are.

        labels: the given ones, int64 (n,). Raises UserError for fewer samples than parts, where nobody is left, and for
        a file of no indices.
        """
        if self.folds is None:
            return self._fraction(len(labels)) if self.fraction < 1 or self.without is not None else None
        if len(labels) < self.folds:
            raise UserError(f"data.subset.folds={self.folds} is more than there are training samples ({len(labels)})")
        # Dealt out one by one, class after class: parts differ by one sample at most, also of each class.
        order = np.lexsort((uniforms_of(np.arange(len(labels)), self.seed, "folds")[:, 0], labels))
        part = np.empty(len(labels), np.int64)
        part[order] = np.arange(len(labels)) % self.folds
        kept: np.ndarray = part != self.fold
        return kept

    def _fraction(self, samples: int) -> np.ndarray:
        """Those with the smallest random numbers, so that a smaller fraction's samples are among a larger one's."""
        left = np.ones(samples, bool)
        if self.without is not None:
            left[read_indices(Path(self.without), samples, "data.subset.without")] = False
        candidates = np.flatnonzero(left)
        size = round(self.fraction * len(candidates))
        if not len(candidates):
            raise UserError(f"data.subset.without={self.without} leaves out all of the {samples:,} training samples")
        if size == 0:
            raise UserError(
                f"data.subset.fraction={self.fraction:g} of {len(candidates):,} training samples is none; raise it, or "
                "leave fewer out"
            )
        drawn = uniforms_of(candidates, self.seed, "subset")[:, 0]
        members = np.zeros(samples, bool)
        members[candidates[np.argsort(drawn, kind="stable")[:size]]] = True
        return members


@dataclass
class Sampler:
    """Order, shards and offset over rows of a baked file.

    samples: how many rows an epoch walks. rows: which rows, int64 (samples,) (None: the first). batch_size: the global
    batch, over all processes and micro-batches.
    shuffle=True is training: a new order each epoch, and the last incomplete global batch is dropped.
    shuffle=False is evaluation: file order, every row exactly once, the last batch possibly smaller (and on
    some processes empty, in which case those yield one batch fewer).
    micro_batches: each process splits its slice of a global batch into this many (gradient accumulation).

    State: (seed, epoch, offset); offset counts the samples of this epoch's global order already consumed.
    """

    samples: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    world_size: int = 1
    micro_batches: int = 1
    epoch: int = 0
    offset: int = 0
    rows: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError("the data set is empty")
        if self.batch_size < 1:
            raise UserError(f"data.batch_size={self.batch_size} must be at least 1")
        if not 0 <= self.rank < self.world_size:
            raise UserError(f"rank {self.rank} is not below the number of processes, {self.world_size}")
        pieces = self.world_size * self.micro_batches
        if self.shuffle and self.batch_size % pieces:
            raise UserError(
                f"data.batch_size={self.batch_size} is the global batch and cannot be split evenly over "
                f"{self.world_size} processes x {self.micro_batches} accumulation steps; use a multiple of {pieces}"
            )
        if self.shuffle and self.samples < self.batch_size:
            raise UserError(
                f"data.batch_size={self.batch_size} is larger than the {self.samples} samples to train on, so no "
                f"batch would ever be full; set data.batch_size to at most {self.samples}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch."""
        return self.samples // self.batch_size if self.shuffle else -(-self.samples // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The global order: int64 (samples,), a permutation of the rows."""
        order = permutation(self.samples, self.seed, "order", epoch) if self.shuffle else np.arange(self.samples)
        if self.rows is None:
            return order
        chosen: np.ndarray = self.rows[order]
        return chosen

    def batches(self) -> list[np.ndarray]:
        """This process's batches from the present (epoch, offset) to the epoch's end: int64 row numbers."""
        order = self.order(self.epoch)
        end = self.steps_per_epoch * self.batch_size if self.shuffle else self.samples
        batches = []
        for start in range(self.offset, end, self.batch_size):
            whole = order[start : min(start + self.batch_size, end)]
            for micro in np.array_split(whole, self.micro_batches):
                mine = np.array_split(micro, self.world_size)[self.rank]
                if len(mine):
                    batches.append(mine)
        return batches
