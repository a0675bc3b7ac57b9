"""Which sample when: the one place that knows order, sharding and position.

The global order of an epoch is a permutation that depends on (seed, epoch) alone. A global batch is a
consecutive run of it, and every process takes its own consecutive slice of that run, so the batches, and with
them the losses, are the same for any number of processes, and a run can resume on another number of them.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.errors import UserError
from pipelines.randomness import permutation


@dataclass
class Sampler:
    """Order, shards and offset over the rows of a baked file.

    samples: rows in the file. batch_size: the global batch, over all processes and micro-batches.
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
                f"data.batch_size={self.batch_size} is larger than the training set of {self.samples} samples, so no "
                f"batch would ever be full; set data.batch_size to at most {self.samples}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch."""
        return self.samples // self.batch_size if self.shuffle else -(-self.samples // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The global order: int64 (samples,), a permutation of the rows."""
        if not self.shuffle:
            return np.arange(self.samples)
        return permutation(self.samples, self.seed, "order", epoch)

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
