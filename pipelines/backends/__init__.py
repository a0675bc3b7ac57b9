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


@dataclass
class DaliSpec:
    """How the dali backend decodes JPEG on a GPU (data.dali.*), with the defaults of DALI's fn.decoders.image_slice."""

    hw_decoder_load: float = 0.65  # share of a batch that the GPU's JPEG hardware decodes, 0..1; the cores do the rest
    preallocate_width_hint: int = 0  # pixels: that hardware's memory is set apart for images so wide (0: as they come)
    preallocate_height_hint: int = 0  # the same for their height

    def validate(self) -> None:
        if not 0 <= self.hw_decoder_load <= 1:
            raise UserError(f"data.dali.hw_decoder_load={self.hw_decoder_load} must be a share, from 0 to 1")
        for name in ("preallocate_width_hint", "preallocate_height_hint"):
            if not 0 <= (pixels := getattr(self, name)) <= 65_535:
                raise UserError(f"data.dali.{name}={pixels} must be a number of pixels, from 0 to 65535 (JPEG's most)")


class Engine(Protocol):
    """What a backend module's `open_engine(stored, device, channels, threads)` returns: its class, called. One that has
    keys of its own, data.BACKEND.*, takes them as a further argument that may be left out."""

    @property
    def transfer_seconds(self) -> float:
        """How long `batches` has been busy so far, in this process, with moving decoded batches to the device."""
        ...

    def batches(self, sampler: Sampler, label: str, view: View | None = None) -> Generator[Batch]:
        """This process's batches from the sampler's present position to the end of the epoch.

        label: name of the label column. view: what to show of each image; None shows all of it, which images of
        one size allow. The generator does not move the sampler: whoever consumes a batch does, because engines
        work ahead. Closing it ends its work and frees its buffers.
        """
        ...


def check_one_size(stored: Beton | Shards, view: View | None) -> None:
    """Raises UserError where a batch would have to hold images of different sizes."""
    if view is None and stored.fixed_size is None:
        raise UserError(
            f"{stored.path}: the images differ in size; resize them to one: data.view.fraction=0.875 "
            "data.image_size=..., or bake them to one (bake.resolution=... bake.square=true)"
        )


@dataclass(frozen=True)
class Backend:
    """What others know of a backend without importing its package.

    module: has `open_engine`. when_slow: what to do where it is the limit of a training; with large images `bake_less`
    as well. streams_exports: it reads the shards of an export, too. decodes_on_gpu: images reach the GPU as files.
    works_in_torch: it works in PyTorch's threads. package: what its module imports beside fastgen's own needs; pip's
    name for it (distribution); how to install it.
    """

    module: str
    when_slow: str
    bake_less: str = ""
    streams_exports: bool = False
    decodes_on_gpu: bool = False
    works_in_torch: bool = False
    package: str | None = None
    distribution: str | None = None
    install: str = ""


BACKENDS: Registry[Backend] = Registry("data.backend")
BACKENDS.add(
    "resident",
    Backend(
        "pipelines.backends.resident",
        when_slow="give each step more to do (data.batch_size)",
        bake_less="stream with data.backend=ffcv or dali, which decode and resize beside the training",
        works_in_torch=True,
    ),
)
BACKENDS.add(
    "ffcv",
    Backend(
        "pipelines.backends.ffcv",
        when_slow="try data.backend=dali, or give it more cores (data.workers)",
        bake_less="bake smaller (bake.resolution=400; bake.encoding=raw, at 8 times the disk, needs no decoding)",
        package="ffcv",
        distribution="ffcv",
        install="apt-get install libopencv-dev libturbojpeg0-dev pkg-config g++, then pip install ffcv setuptools",
    ),
)
BACKENDS.add(
    "dali",
    Backend(
        "pipelines.backends.dali",
        when_slow="try data.backend=ffcv, or give it more cores (data.workers)",
        bake_less="bake smaller (bake.resolution=400)",
        streams_exports=True,
        decodes_on_gpu=True,
        package="nvidia.dali",
        distribution="nvidia-dali-cuda130",
        install="pip install nvidia-dali-cuda130",
    ),
)


def open_engine(
    name: str,
    stored: Beton | Shards,
    device: torch.device,
    channels: int = 3,
    threads: int | None = None,
    own: DaliSpec | None = None,
) -> Engine:
    """Open a baked file, or a split of an export (for a backend that streams those), with the backend `name`.

    channels: 3, or 1 for sets baked from grayscale images (a .beton always stores three).
    threads: loader threads (None: the cores this process may use). Of all cores of a CPU, dali runs two on each.
    own: the backend's own keys (None: their defaults, or it has none).
    Raises UserError for an unknown backend, one whose package is missing, or a file it cannot stream.
    """
    backend = BACKENDS[name]
    try:
        module = importlib.import_module(backend.module)
    except (ImportError, OSError) as error:  # OSError: of a library that the package loads
        if backend.package is None:
            raise
        raise UserError(
            f"data.backend={name} needs {backend.package}, which cannot be imported here ({error}): {backend.install}"
        ) from error
    engine: Engine = module.open_engine(stored, device, channels, threads, *(() if own is None else (own,)))
    return engine
