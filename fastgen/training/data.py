"""The data of a run: its baked set, one engine per file, and how batches become network inputs."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from fastgen.recipe import Recipe
from fastgen.training.launch import on_main
from pipelines.augment import Preprocess
from pipelines.backends import Batch, Engine, open_engine
from pipelines.bake import bake
from pipelines.manifest import BakedSet
from pipelines.registry import UserError
from pipelines.sampler import Sampler


@dataclass
class Data:
    """image_size: side of the network's input in pixels. sampler: of the training set, on this process.

    prepare, prepare_eval: (images uint8, index[, epoch]) -> network input, for training and evaluation.
    """

    baked: BakedSet
    engines: dict[str, Engine]
    image_size: int
    label: str
    eval_batch_size: int
    sampler: Sampler
    prepare: Preprocess
    prepare_eval: Preprocess

    def in_order(self, split: str) -> Generator[Batch]:
        """This process's share of a whole split, for evaluation. Test labels are the true ones."""
        sampler = Sampler(
            self.baked.betons[split].samples,
            self.eval_batch_size,
            shuffle=False,
            rank=self.sampler.rank,
            world_size=self.sampler.world_size,
        )
        return self.engines[split].batches(sampler, self.label if split == "train" else "label_true")


def bake_recipe(recipe: Recipe) -> BakedSet:
    """The recipe's baked set, made now if it is not there yet."""
    data = recipe.data
    return bake(data.source_spec, data.labels, data.pixels, recipe.bake, say=lambda text: print(text, flush=True))


def open_data(accelerator: Accelerator, recipe: Recipe) -> Data:
    """Bake on first use (one process bakes, the others wait), then open on every process."""
    data = recipe.data

    def path_and_hash() -> tuple[Path, str]:
        baked = bake_recipe(recipe)
        return baked.path, baked.sha256

    path, sha256 = on_main(accelerator, path_and_hash)
    baked = BakedSet.open(path, expect=sha256)
    sizes = {beton.fixed_size for beton in baked.betons.values()}
    square = len(sizes) == 1 and (size := sizes.pop()) is not None and size[0] == size[1]
    if not square:
        raise UserError(
            f"{path}: the baked images are not squares of one size, and networks need such; "
            "set bake.square=true and bake.resolution"
        )
    baked_size = baked.betons["train"].height[0].item()
    image_size = data.image_size or baked_size
    if image_size > baked_size:
        raise UserError(f"data.image_size={image_size} is larger than the baked images ({baked_size} pixels)")
    data.augment.check_room(baked_size, image_size)
    data.normalize.validate(baked.channels)
    sampler = Sampler(
        baked.betons["train"].samples,
        data.batch_size,
        recipe.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        micro_batches=recipe.train.accumulate,
    )
    device: torch.device = accelerator.device
    return Data(
        baked=baked,
        engines={
            split: open_engine(data.backend, beton, device, baked.channels, data.workers)
            for split, beton in baked.betons.items()
        },
        image_size=image_size,
        label=data.labels.column_name,
        eval_batch_size=data.eval_batch_size or 4 * data.batch_size,
        sampler=sampler,
        prepare=Preprocess(image_size, data.augment, data.normalize, recipe.seed, train=True),
        prepare_eval=Preprocess(image_size, data.augment, data.normalize, recipe.seed, train=False),
    )
