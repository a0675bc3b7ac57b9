"""Engines that stream batches from a baked file in the sampler's order.

An engine is opened once per file and device and then asked for any number of streams: training in shuffled
order, evaluation in file order, each with its own label column. All engines give the same samples with the
same labels; they differ in where the images wait and who decodes them.
"""

from __future__ import annotations  # so that their names are known without importing PyTorch

import importlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipelines.baked.beton import Beton
from pipelines.baked.shards import Shards
from pipelines.errors import UserError
from pipelines.registry import Registry
from pipelines.sampler import Sampler
from pipelines.view.regions import View

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch on the device. images: uint8 (B, C, H, W) in channels_last memory; the others: int64 (B,).

    label is the given (possibly corrupted) label, clean_label the true one, index the sample index.
    The tensors belong to the receiver: no engine writes into them again.
    """

    images: torch.Tensor
    label: torch.Tensor
    clean_label: torch.Tensor
    index: torch.Tensor


class Engine(Protocol):
    """What a backend module's `open_engine(stored, device, channels, threads)` returns."""

    @property
    def transfer_seconds(self) -> float:
        """How long this process has been busy with moving decoded batches to the device so far, within `batches`."""
        ...

    def batches(self, sampler: Sampler, label: str, view: View | None = None) -> Generator[Batch]:
        """This process's batches from the sampler's present position to the end of the epoch.

        label: name of the label column. view: what to show of each image; None shows all of it, which images of
        one size allow. The generator does not move the sampler: whoever consumes a batch does, because engines
        work ahead. Closing it ends its work and frees its buffers.
        """
        ...


def check_shown(stored: Beton | Shards, view: View | None) -> None:
    """Raises UserError where a batch would have to hold images of different sizes."""
    if view is None and stored.fixed_size is None:
        raise UserError(
            f"{stored.path}: the images differ in size; resize them to one: data.view.fraction=0.875 "
            "data.image_size=..., or bake them to one (bake.resolution=... bake.square=true)"
        )


_MODULES: Registry[str] = Registry("data.backend")
_MODULES.add("resident", "pipelines.backends.resident")
_MODULES.add("ffcv", "pipelines.backends.ffcv")
_MODULES.add("dali", "pipelines.backends.dali")

BACKENDS = tuple(_MODULES)


def open_engine(
    name: str, stored: Beton | Shards, device: torch.device, channels: int = 3, threads: int | None = None
) -> Engine:
    """Open a baked file, or a split of an export (which the dali backend alone streams), with the backend `name`.

    channels: 3, or 1 for sets baked from grayscale images (a .beton always stores three).
    threads: loader threads (None: the cores this process may use). As many as cores: dali takes two for each on a CPU.
    Raises UserError for an unknown backend, one whose package is missing, or a file it cannot stream.
    """
    module = importlib.import_module(_MODULES[name])
    engine: Engine = module.open_engine(stored, device, channels, threads)
    return engine
