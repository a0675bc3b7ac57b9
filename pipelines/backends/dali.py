"""NVIDIA DALI over a baked file, fed with JPEG bytes and regions in our sampler's order.

Order, shards, position and crops are the sampler's and the view's; DALI decodes the regions alone, on a GPU with
its hardware decoder, and resizes. Its hazards that matter here, and what is done about them: its own shuffling is
local and its shards can overlap (it is given the samples, and decides nothing); a damaged image ends the pipeline
without a name (it is looked for and named).

Source: DALI's documentation of external_source, decoders.image_slice and resize.
"""

import os
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch

from pipelines.backends import Batch, check_shown
from pipelines.backends.columns import Columns
from pipelines.beton import JPEG, RAW, Beton
from pipelines.regions import View
from pipelines.registry import UserError
from pipelines.sampler import Sampler

try:
    from nvidia.dali import Pipeline, fn, types
    from nvidia.dali.plugin.pytorch.torch_utils import to_torch_tensor
except (ImportError, OSError) as error:
    raise UserError(
        f"data.backend=dali needs NVIDIA DALI, which cannot be imported here ({error}): pip install nvidia-dali-cuda130"
    ) from error

_AHEAD = 3  # batches that DALI prepares before they are asked for

Fed = tuple[list[np.ndarray], np.ndarray, np.ndarray]  # encoded images, starts and shapes of their regions


class DALIEngine:
    """A pipeline for each stream, over one mapped file."""

    def __init__(self, beton: Beton, device: torch.device, channels: int, threads: int | None) -> None:
        self._beton, self.device, self._channels = beton, device, channels
        self._jpeg = bool((beton.mode == JPEG).all())
        if not self._jpeg and not (beton.mode == RAW).all():
            raise UserError(
                f"{beton.path}: has raw and JPEG images, and data.backend=dali reads files of one kind; "
                "bake it with bake.encoding=jpeg or raw"
            )
        self._threads = threads or len(os.sched_getaffinity(0))
        self._data = np.asarray(beton.map())  # slices of a memmap cost five times as much
        self._index = beton.columns["index"]
        self._begin, self._end = beton.ptr.astype(np.int64), (beton.ptr + beton.sizes).astype(np.int64)
        self._sizes = np.stack([beton.height, beton.width], axis=1).astype(np.int32)
        self._columns = Columns(beton, device)

    def batches(self, sampler: Sampler, label: str, view: View | None = None) -> Generator[Batch]:
        rows_of_batches = sampler.batches()
        if not rows_of_batches:
            return
        check_shown(self._beton, view)
        labels_of_batches = self._columns.of(rows_of_batches, label)
        pipeline = self._pipeline(rows_of_batches, view)
        for number, labels in enumerate(labels_of_batches):
            try:
                (images,) = pipeline.run()
            except RuntimeError as error:
                raise self._explained(error, rows_of_batches[number : number + _AHEAD + 1]) from error
            # Into memory of its own, in the order of the stream that computes: DALI uses its buffers again.
            pixels = to_torch_tensor(images.as_tensor(), copy=True)
            pixels = pixels.permute(0, 3, 1, 2)
            if self._channels == 1:
                pixels = pixels[:, :1].contiguous(memory_format=torch.channels_last)
            yield Batch(pixels, *labels)

    def _pipeline(self, rows_of_batches: list[np.ndarray], view: View | None) -> Pipeline:
        gpu = self.device.type == "cuda"
        pipeline = Pipeline(
            batch_size=max(len(rows) for rows in rows_of_batches),
            num_threads=self._threads,
            device_id=torch.cuda.current_device() if gpu else None,
            prefetch_queue_depth=_AHEAD,
            seed=0,  # nothing in it is random
        )
        with pipeline:
            # The bytes are read where they lie in the mapped file.
            stored, start, shape = fn.external_source(
                source=self._feed(rows_of_batches, view),
                num_outputs=3,
                batch=True,
                no_copy=True,
                dtype=[types.DALIDataType.UINT8, types.DALIDataType.INT32, types.DALIDataType.INT32],
                ndim=[1 if self._jpeg else 3, 1, 1],
                layout=["" if self._jpeg else "HWC", "", ""],
            )
            images: Any
            if self._jpeg:
                images = fn.decoders.image_slice(
                    stored,
                    device="mixed" if gpu else "cpu",
                    start=start,
                    shape=shape,
                    axes=[0, 1],
                    output_type=types.DALIImageType.RGB,
                    adjust_orientation=False,  # as every other decoder here
                )
            else:
                images = fn.slice(stored.gpu() if gpu else stored, start=start, shape=shape, axes=[0, 1])
            if view is not None:
                linear = types.DALIInterpType.INTERP_LINEAR
                images = fn.resize(images, size=[view.size, view.size], interp_type=linear, antialias=True)
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline

    def _feed(self, rows_of_batches: list[np.ndarray], view: View | None) -> Iterator[Fed]:
        held: deque[Fed] = deque(maxlen=_AHEAD + 3)  # DALI reads them later, and holds no reference
        for rows in rows_of_batches:
            sizes = self._sizes[rows]
            if view is None:
                regions = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
            else:
                regions = view.regions(self._index[rows], sizes[:, 0], sizes[:, 1])
            stored = [
                self._data[begin:end]
                for begin, end in zip(self._begin[rows].tolist(), self._end[rows].tolist(), strict=True)
            ]
            if not self._jpeg:
                stored = [pixels.reshape(*size, 3) for pixels, size in zip(stored, sizes.tolist(), strict=True)]
            held.append((stored, regions[:, :2].copy(), regions[:, 2:].copy()))
            yield held[-1]

    def _explained(self, error: RuntimeError, rows_of_batches: list[np.ndarray]) -> Exception:
        """The UserError that names the sample which DALI could not decode, or what DALI said, with the samples."""
        rows = np.concatenate(rows_of_batches)
        for row in rows:
            self._beton.image(int(row), self._data)  # raises for a damaged image
        about = ", ".join(str(i) for i in self._index[rows[:8]])
        reason = str(error).strip().splitlines()
        return RuntimeError(
            f"{self._beton.path}: DALI failed in the batch of samples {about}, ...: {' '.join(reason)[:500]}"
        )


def open_engine(beton: Beton, device: torch.device, channels: int, threads: int | None) -> DALIEngine:
    return DALIEngine(beton, device, channels, threads)
