"""NVIDIA DALI over a baked file or the shards of an export, fed with image files and regions in our sampler's order.

The sampler and the view decide order, shards, position and crops; DALI only decodes the regions, on a GPU with its
hardware decoder, and resizes them. Its own shuffling is local and its shards can overlap, so it is given the samples
and decides nothing. A damaged image ends its pipeline without a name, so it is looked for and named.

Source: DALI's documentation of external_source, decoders.image_slice and resize.
"""

import os
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types
from nvidia.dali.plugin.pytorch.torch_utils import to_torch_tensor

from pipelines.backends import Batch, DaliSpec, check_one_size
from pipelines.backends.columns import Columns
from pipelines.baked.beton import Beton
from pipelines.baked.shards import Shards
from pipelines.errors import UserError
from pipelines.sampler import Sampler
from pipelines.view.regions import View

_AHEAD = 3  # batches that DALI prepares before they are asked for
# Threads for each core, where DALI has all cores of a CPU. It decodes a whole batch before it resizes it, and this
# process computes on the same cores: with one thread for each, they waited for the last image 7 to 10 % of the time.
_THREADS_A_CORE = 2

Fed = tuple[list[np.ndarray], np.ndarray, np.ndarray]  # encoded images, starts and shapes of their regions


class DALIEngine:
    """A pipeline for each stream, over one file or the shards of a split."""

    transfer_seconds = 0.0  # DALI copies the encoded images, in threads and streams of its own

    def __init__(
        self,
        stored: Beton | Shards,
        device: torch.device,
        channels: int,
        threads: int | None,
        spec: DaliSpec | None = None,
    ) -> None:
        self._stored, self.device, self._channels = stored, device, channels
        self._decoder = decoder_arguments(device, spec or DaliSpec())
        self._raw = bool(stored.raw.all())
        if not self._raw and stored.raw.any():
            raise UserError(
                f"{stored.path}: has raw and JPEG images, and data.backend=dali reads files of one kind; "
                "bake it with bake.encoding=jpeg or raw"
            )
        cores = len(os.sched_getaffinity(0))
        self._threads = threads or cores
        if device.type == "cpu" and self._threads == cores:
            self._threads *= _THREADS_A_CORE
        self._index = stored.columns["index"]
        self._sizes = np.stack([stored.height, stored.width], axis=1).astype(np.int32)
        self._columns = Columns(stored, device)

    def batches(self, sampler: Sampler, label: str, view: View | None = None) -> Generator[Batch]:
        rows_of_batches = sampler.batches()
        if not rows_of_batches:
            return
        check_one_size(self._stored, view)
        labels_of_batches = self._columns.of(rows_of_batches, label)
        held: deque[Fed] = deque(maxlen=_AHEAD + 3)  # DALI reads these and holds no reference to them

        def fed() -> Iterator[Fed]:
            for batch in self.feed(rows_of_batches, view):
                held.append(batch)
                yield batch

        pipeline = self._pipeline(fed(), max(len(rows) for rows in rows_of_batches), view)
        try:
            for number, labels in enumerate(labels_of_batches):
                try:
                    (images,) = pipeline.run()
                except RuntimeError as error:
                    raise self._explained(error, rows_of_batches[number : number + _AHEAD + 1]) from error
                # The dynamic executor does not use an output again. On a GPU: in the order of the stream that computes.
                pixels = to_torch_tensor(images.as_tensor(), copy=self.device.type == "cuda")
                pixels = pixels.permute(0, 3, 1, 2)
                if self._channels == 1:
                    pixels = pixels[:, :1].contiguous(memory_format=torch.channels_last)
                yield Batch(pixels, *labels)
        finally:
            del pipeline  # before `held`, which it may still be reading

    def _pipeline(self, source: Iterator[Fed], batch_size: int, view: View | None) -> Pipeline:
        gpu = self.device.type == "cuda"
        pipeline = Pipeline(
            batch_size=batch_size,
            num_threads=self._threads,
            device_id=torch.cuda.current_device() if gpu else None,
            prefetch_queue_depth=_AHEAD,
            seed=0,  # nothing in it is random
            exec_dynamic=True,
        )
        with pipeline:
            # Not copied: a mapped file's bytes are read where they lie.
            stored, start, shape = fn.external_source(
                source=source,
                num_outputs=3,
                batch=True,
                no_copy=True,
                dtype=[types.DALIDataType.UINT8, types.DALIDataType.INT32, types.DALIDataType.INT32],
                ndim=[3 if self._raw else 1, 1, 1],
                layout=["HWC" if self._raw else "", "", ""],
            )
            images: Any
            if self._raw:
                images = fn.slice(stored.gpu() if gpu else stored, start=start, shape=shape, axes=[0, 1])
            else:
                images = fn.decoders.image_slice(
                    stored,
                    **self._decoder,
                    start=start,
                    shape=shape,
                    axes=[0, 1],
                    output_type=types.DALIImageType.RGB,
                    adjust_orientation=False,  # as every other decoder here
                )
            if view is not None:
                linear = types.DALIInterpType.INTERP_LINEAR
                images = fn.resize(images, size=[view.size, view.size], interp_type=linear, antialias=True)
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline

    def feed(self, rows_of_batches: list[np.ndarray], view: View | None) -> Iterator[Fed]:
        """What DALI is given for each batch: image files (or pixels), and their regions' starts and shapes.

        DALI reads the files later and holds no reference to them: who hands them over must.
        """
        encoded = self._stored.encoded(rows_of_batches)
        for rows, stored, regions in zip(rows_of_batches, encoded, self._regions(rows_of_batches, view), strict=True):
            if self._raw:
                sizes = self._sizes[rows]
                stored = [pixels.reshape(*size, 3) for pixels, size in zip(stored, sizes.tolist(), strict=True)]
            yield stored, regions[:, :2].copy(), regions[:, 2:].copy()

    def _regions(self, rows_of_batches: list[np.ndarray], view: View | None) -> Iterator[np.ndarray]:
        """Regions of each batch: int32 (B, 4)."""
        if view is not None:
            return view.regions_of(rows_of_batches, self._index, self._sizes[:, 0], self._sizes[:, 1])
        whole = (self._sizes[rows] for rows in rows_of_batches)
        return (np.concatenate([np.zeros_like(sizes), sizes], axis=1) for sizes in whole)

    def _explained(self, error: RuntimeError, rows_of_batches: list[np.ndarray]) -> Exception:
        """The UserError that names the sample which DALI could not decode, or what DALI said, with the samples."""
        rows = np.concatenate(rows_of_batches)
        for row in rows:
            self._stored.image(int(row))  # raises for a damaged image
        about = ", ".join(str(i) for i in self._index[rows[:8]])
        reason = str(error).strip().splitlines()
        return RuntimeError(
            f"{self._stored.path}: DALI failed in the batch of samples {about}, ...: {' '.join(reason)[:500]}"
        )


def decoder_arguments(device: torch.device, spec: DaliSpec) -> dict[str, Any]:
    """What DALI's decoder is told for a device. On a GPU, too, chroma is interpolated: otherwise pixels would depend on
    the device."""
    if device.type != "cuda":
        return {"device": "cpu"}
    return {"device": "mixed", "jpeg_fancy_upsampling": True, **vars(spec)}


open_engine = DALIEngine
