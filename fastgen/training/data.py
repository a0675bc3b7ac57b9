"""The data of a run: its baked set or an export, one engine per split, and how batches become network inputs."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from fastgen.recipe.schema import DataSpec, Recipe
from fastgen.sets import bake_recipe
from fastgen.training.launch import everywhere, on_main, share_of_cores
from fastgen.training.network import check_network
from pipelines.backends import Batch, Engine, open_engine
from pipelines.baked.bake import check_made_as
from pipelines.baked.encoding import first_size
from pipelines.baked.manifest import BakedSet
from pipelines.baked.shards import Export
from pipelines.baked.staging import staged
from pipelines.errors import UserError
from pipelines.sampler import Sampler
from pipelines.sources import Source
from pipelines.view.augment import Preprocess
from pipelines.view.regions import View

LEFT_OUT = "left_out"  # the training samples that data.subset leaves out, as a part that is evaluated


@dataclass
class Data:
    """The data of a run on this process.

    parts: what is evaluated, by name: the file rows of each, int64. "train" and "val" are the splits, LEFT_OUT is what
    data.subset leaves of "train". image_size: side of the network's input in pixels (the largest, with
    data.progressive). sampler: of the training set. prepare, prepare_eval: (images uint8, index[, epoch, int64 scalar])
    -> network input, for training and evaluation; compiled, prepare_eval adds black images to a smaller batch.
    """

    baked: BakedSet | Export
    engines: dict[str, Engine]
    spec: DataSpec
    parts: dict[str, np.ndarray]
    image_size: int
    sampler: Sampler
    prepare: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    prepare_eval: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    @property
    def classes(self) -> int:
        """How many different labels the training set has."""
        return self.spec.labels.classes(self.baked.manifest.num_classes)

    def training(self, epoch: int, step: int = 0, labels: str | None = None) -> Generator[Batch]:
        """This process's batches of an epoch (from 0), from its optimizer step `step` (from 0) on. labels: the column
        (None: the recipe's)."""
        self.sampler.epoch, self.sampler.offset = epoch, step * self.sampler.batch_size
        view = self._view(self.spec.progressive.size(epoch, self.image_size), epoch)
        return self.engines["train"].batches(self.sampler, labels or self.spec.labels.column_name, view)

    def compile(self) -> None:
        """Fuse the preparation of training batches into few kernels, anew for each image size. Evaluation's batches,
        the last ones as well, get one size, as the network is compiled for each that it is given."""
        if not self.spec.augment.rand_ops:  # which draws on the CPU
            self.prepare = torch.compile(self.prepare, dynamic=False)
        largest = min(self.eval_batch_size, max(map(len, self.parts.values())))
        rows, plain = -(-largest // self.sampler.world_size), self.prepare_eval

        def filled(images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            prepared, missing = plain(images, index), rows - len(images)
            return F.pad(prepared, (0, 0) * 3 + (0, missing)) if missing else prepared  # of nothing, it would copy

        self.prepare_eval = filled

    @property
    def members(self) -> np.ndarray | None:
        """Whether each training sample is trained on: bool (samples,) by sample index; None: all are."""
        if LEFT_OUT not in self.parts:
            return None
        index = self.baked.splits["train"].columns["index"]
        members = np.zeros(len(index), bool)
        members[index[self.parts["train"]]] = True
        return members

    @property
    def transfer_seconds(self) -> float:
        """Seconds that this process has spent so far on moving training batches to the device."""
        return self.engines["train"].transfer_seconds

    @property
    def eval_batch_size(self) -> int:
        """Global: over all processes."""
        return self.spec.eval_batch_size or 4 * self.spec.batch_size

    def evaluation(
        self, part: str, rows: np.ndarray | None = None, batch: int = 0, labels: str | None = None
    ) -> Generator[Batch]:
        """This process's share of a whole part, from a global batch on. rows: its file rows in another order (None:
        file order). labels: as in `training`; test labels are the true ones."""
        rows, split = self.parts[part] if rows is None else rows, "train" if part == LEFT_OUT else part
        sampler = Sampler(
            len(rows),
            self.eval_batch_size,
            shuffle=False,
            rank=self.sampler.rank,
            world_size=self.sampler.world_size,
            offset=batch * self.eval_batch_size,
            rows=rows,
        )
        column = "label_true" if split != "train" else labels or self.spec.labels.column_name
        return self.engines[split].batches(sampler, column, self._view(self.spec.eval_size or self.image_size, None))

    def _view(self, size: int, epoch: int | None) -> View | None:
        return None if self.spec.view.fraction is None else View(self.spec.view, size, self.sampler.seed, epoch)


def open_data(accelerator: Accelerator, recipe: Recipe) -> Data:
    """Bake on first use (one process bakes, the others wait), then open on every process.

    data.shards: open this export instead. Raises UserError when it is not the recipe's set.
    """
    data = recipe.data

    def path_and_identity() -> tuple[Path, str]:
        found = set_of(recipe, lambda source: _check_network(recipe, source))
        return found.path, found.manifest.identity

    path, identity = on_main(accelerator, path_and_identity)
    opened: Callable[..., BakedSet | Export] = BakedSet.open if data.shards is None else Export.open
    stage = Path(data.stage) if data.stage else None
    baked = everywhere(accelerator, lambda: opened(staged(path, stage, opened) if stage else path, expect=identity))
    engines = open_engines(data, baked, accelerator.device, data.workers or share_of_cores(accelerator))
    return data_of(recipe, baked, engines, accelerator.device, accelerator.process_index, accelerator.num_processes)


def set_of(recipe: Recipe, before: Callable[[Source], None] = lambda source: None) -> BakedSet | Export:
    """The recipe's baked set, made now if it is not there, or the export that data.shards names.

    before: is called with the source of a set that is to be made, and may refuse.

    Raises UserError when that is not of the recipe's set.
    """
    data = recipe.data
    if data.shards is None:
        return bake_recipe(recipe, before)
    found = Export.open(data.shards)
    check_made_as(found.manifest, found.path, data.source_spec, data.pixels, recipe.bake)
    if (column := data.labels.column_name) not in (known := found.splits["train"].names):
        raise UserError(
            f"data.shards={found.path} has no label column '{column}' but {', '.join(known)}; bake it with "
            "that labelling (bake.columns) and export the set again"
        )
    return found


def open_engines(
    data: DataSpec, baked: BakedSet | Export, device: torch.device, workers: int | None
) -> dict[str, Engine]:
    """One for each split. workers: loader threads (None: the cores that this process may use)."""
    channels, own = baked.manifest.channels, {"dali": data.dali}.get(data.backend)
    return {
        split: open_engine(data.backend, stored, device, channels, workers, own)
        for split, stored in baked.splits.items()
    }


def data_of(
    recipe: Recipe,
    baked: BakedSet | Export,
    engines: dict[str, Engine],
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Data:
    """The recipe's data on one of world_size processes. Raises UserError when the set is not fit for the recipe."""
    data = recipe.data
    image_size, crop = _sizes(baked, data)
    data.normalize.validate(baked.manifest.channels)
    parts = _parts(baked, data)
    if data.eval_batch_size is not None and data.eval_batch_size < world_size:
        raise UserError(
            f"data.eval_batch_size={data.eval_batch_size} is global, and leaves some of the {world_size} processes "
            f"without a sample; use at least {world_size}"
        )
    sampler = Sampler(
        len(parts["train"]),
        data.batch_size,
        recipe.seed,
        rank=rank,
        world_size=world_size,
        micro_batches=recipe.train.accumulate,
        rows=parts["train"],
    )
    return Data(
        baked=baked,
        engines=engines,
        spec=data,
        parts=parts,
        image_size=image_size,
        sampler=sampler,
        prepare=Preprocess(crop, data.augment, data.normalize, recipe.seed, True, device),
        prepare_eval=Preprocess(crop, data.augment, data.normalize, recipe.seed, False, device),
    )


def _parts(baked: BakedSet | Export, data: DataSpec) -> dict[str, np.ndarray]:
    """The file rows of each part, as `Data` has them."""
    parts = {split: np.arange(stored.samples) for split, stored in baked.splits.items()}
    columns = baked.splits["train"].columns
    by_index = np.argsort(columns["index"])
    members = data.subset.members(columns[data.labels.column_name][by_index])
    if members is not None:
        trained_on = members[columns["index"]]
        parts |= {"train": np.flatnonzero(trained_on), LEFT_OUT: np.flatnonzero(~trained_on)}
    return parts


def _check_network(recipe: Recipe, source: Source) -> None:
    """Raises UserError where the network cannot take such images, as far as their size is known before the bake."""
    width, height = (recipe.data.image_size,) * 2 if recipe.data.image_size else first_size(source, recipe.bake)
    if width == height:
        check_network(recipe, recipe.data.labels.classes(source.num_classes), source.channels, width)


def _sizes(baked: BakedSet | Export, data: DataSpec) -> tuple[int, int | None]:
    """Side of the network's input, and of the crop of the baked images (None: the view resizes them); pixels."""
    if data.view.fraction is not None:
        assert data.image_size is not None, "validate has seen to it"
        return data.image_size, None
    sizes = {stored.fixed_size for stored in baked.splits.values()}
    square = len(sizes) == 1 and (size := sizes.pop()) is not None and size[0] == size[1]
    if not square:
        raise UserError(
            f"{baked.path}: the baked images are not squares of one size, and networks need such; set "
            "data.view.fraction=0.875 and data.image_size, or bake.square=true and bake.resolution"
        )
    baked_size = baked.splits["train"].height[0].item()
    image_size = data.image_size or baked_size
    if image_size > baked_size:
        raise UserError(f"data.image_size={image_size} is larger than the baked images ({baked_size} pixels)")
    data.augment.check_room(baked_size, image_size)
    return image_size, image_size
