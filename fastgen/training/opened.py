"""An open set whose batches anyone's own loop takes: with the backends, order and preparation of a training."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fastgen.recipe.schema import Recipe
from fastgen.training.data import Data, data_of, open_engines
from pipelines.backends import Batch, Engine
from pipelines.baked.export import labellings
from pipelines.baked.manifest import BakedSet
from pipelines.baked.shards import Export
from pipelines.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Batches:
    """A plain iterable of batches: whenever it is iterated, from its position to the end of its epoch.

    Each is a `Batch` on the device, whose tensors belong to the receiver: `images` float32 (B, C, S, S) in
    channels_last memory, normalised, and augmented where the recipe says so, or with raw=True uint8 (B, C, H, W), 0 to
    255, before that; `label`, the given and possibly corrupted one, `clean_label`, the true one, and `index`, the
    sample index, int64 (B,) each. Of several processes, each gets its part of every global batch.
    """

    data: Data = field(repr=False)
    split: str
    shuffle: bool
    epoch: int
    step: int
    labels: str | None
    raw: bool

    def __len__(self) -> int:
        """Global batches that are left."""
        return self.in_epoch - self.step

    def __iter__(self) -> Generator[Batch]:
        data = replace(self.data, sampler=replace(self.data.sampler))  # several may be iterated at a time
        if self.shuffle:
            stream = data.training(self.epoch, self.step, self.labels)
        else:
            stream = data.evaluation(self.split, batch=self.step, labels=self.labels)
        with closing(stream) as batches:
            for batch in batches:
                yield batch if self.raw else replace(batch, images=self._prepared(batch))

    @property
    def in_epoch(self) -> int:
        """Global batches of the whole epoch."""
        if self.shuffle:
            return self.data.sampler.steps_per_epoch
        return -(-self.data.baked.splits[self.split].samples // self.data.eval_batch_size)

    def _prepared(self, batch: Batch) -> torch.Tensor:
        if not self.shuffle:
            return self.data.prepare_eval(batch.images, batch.index)
        return self.data.prepare(batch.images, batch.index, torch.tensor(self.epoch, device=batch.index.device))


@dataclass(frozen=True, repr=False)
class OpenSet:
    """A baked set, or an export of one, that is open and checked.

    recipe: what is said of it, with further keys. of_path: it was opened by its path, so that no recipe says which of
    its labellings is meant.
    """

    baked: BakedSet | Export
    recipe: Callable[[dict[str, Any]], Recipe]
    of_path: bool = False
    _engines: dict[tuple[str, str, int | None], dict[str, Engine]] = field(default_factory=dict)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{samples:,} {split}" for split, samples in self.samples.items())
        return f"OpenSet({self.baked.path}: {sizes}, {len(self.class_names)} classes)"

    @property
    def class_names(self) -> list[str]:
        """Of the true labels, by their numbers."""
        return self.baked.manifest.class_names

    @property
    def samples(self) -> dict[str, int]:
        """Split -> how many samples it has. The training set is "train", another one "val"."""
        return {name: stored.samples for name, stored in self.baked.splits.items()}

    def batches(
        self,
        split: str = "train",
        *,
        epoch: int = 0,
        step: int = 0,
        shuffle: bool | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        backend: str | None = None,
        workers: int | None = None,
        labels: str | None = None,
        raw: bool = False,
        device: str | torch.device = "cpu",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> Batches:
        """The batches of one epoch of a split, for your own loop.

        The order, random regions and augmentations are functions of (seed, epoch, sample), whatever the backend,
        workers and number of processes: to go on with a run, name the epoch and the step where it stood.

        Args:
            split: "train" or "val" ("test" is another word for it).
            epoch: from 0. A shuffled split has another order in each; its last incomplete batch is dropped.
            step: how many global batches of this epoch are done already.
            shuffle: None shuffles and augments the training set. Otherwise samples come in the file's order, each
                exactly once, as evaluation prepares them.
            batch_size: global, over all processes (None: the recipe's).
            seed: of order and augmentation (None: the recipe's).
            backend: "resident", "ffcv" or "dali" (None: the recipe's).
            workers: loader threads (None: the recipe's, else a thread a core).
            labels: the label column of the training set, if not the recipe's. Other splits have their true labels.
            raw: images as uint8, neither normalised nor augmented.
            device: where batches are wanted, such as "cuda".
            rank: of this process (None: as torch.distributed knows it, else 0).
            world_size: how many processes there are (None: the same, else 1).

        Raises:
            UserError: a name that is not known, a position beyond the epoch, a batch that is larger than the set, or
                images of different sizes without data.view.
        """
        split = self._named(split)
        shuffle = split == "train" if shuffle is None else shuffle
        if shuffle and split != "train":
            raise UserError(f"shuffle=True is for the split train; {split} comes in the file's order")
        given: dict[str, Any] = {"data.batch_size" if shuffle else "data.eval_batch_size": batch_size, "seed": seed}
        given |= {"data.backend": backend, "data.workers": workers}
        said = {key: value for key, value in given.items() if value is not None}
        recipe = self.recipe({**said, "train.accumulate": 1})
        if rank is None or world_size is None:
            rank, world_size = _process()
        where, threads = _device(device), recipe.data.workers
        key = str(where), recipe.data.backend, threads
        if key not in self._engines:
            self._engines[key] = open_engines(recipe.data, self.baked, where, threads)
        data = data_of(recipe, self.baked, self._engines[key], where, rank, world_size)
        column = self._column(labels)
        batches = Batches(data, split, shuffle, _whole_number("epoch", epoch), _whole_number("step", step), column, raw)
        if step > batches.in_epoch:
            raise UserError(f"step={step} is beyond the epoch's {batches.in_epoch} batches")
        return batches

    def _named(self, split: str) -> str:
        found = next((name for name in self.baked.splits if name != "train"), "val") if split == "test" else split
        if found not in self.baked.splits:
            raise UserError(f"{self.baked.path} has no split '{split}': {did_you_mean(split, self.baked.splits)}")
        return found

    def _column(self, labels: str | None) -> str | None:
        """The label column. None: the recipe's."""
        known = labellings(self.baked.splits["train"].names)
        if labels is not None and labels not in known:
            raise UserError(f"{self.baked.path} has no label column '{labels}': {did_you_mean(labels, known)}")
        if labels is None and self.of_path and len(known) > 1:
            raise UserError(f"{self.baked.path} has several labellings; name one: labels= {' or '.join(known)}")
        return labels or (known[0] if self.of_path else None)


def _process() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError):
        raise UserError(f"device={name!r} is none that PyTorch has here; use 'cpu', or 'cuda' on a GPU") from None
    return device


def _whole_number(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(f"{name}={value!r} must be a whole number from 0 on")
    return value
