"""FFCV's compiled decoder over a baked file, run by threads of our own, in our sampler's order.

A batch is decoded in pieces by the engine's threads, some batches ahead of the receiver, into memory of its own, which
then belongs to the receiver. `ffcv_kernels` decodes and resizes; labels and indices come from the file's columns.

FFCV's own loader is not used: its batches are views of buffers that it overwrites, an exception in its thread leaves
the consumer waiting for ever, an epoch left early leaks the thread, its order depends on seed + epoch, its shards are
padded, it sets PyTorch's thread count, and it compiles for 9 to 17 seconds in each process.

Source: ffcv/loader/epoch_iterator.py and ffcv/fields/rgb_image.py of FFCV 1.0.2.
"""

import math
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from pipelines.backends import Batch, check_one_size, ffcv_kernels
from pipelines.backends.columns import Columns
from pipelines.backends.transfer import Transfer
from pipelines.baked.beton import Beton
from pipelines.prefetch import Prefetcher
from pipelines.sampler import Sampler
from pipelines.view.regions import View

# Bytes of pixels that a thread decodes at a time, at least: to copy fewer takes less time than to wake another thread.
_PIECE_BYTES = 1 << 20


class _Piece(NamedTuple):
    """Some images of a batch. batch: memory of the whole batch, uint8 (B, H, W, 3). images: a view of these images in
    it. rows: int64 (n,). regions: int32 (n, 4), or None where the images are decoded whole."""

    batch: torch.Tensor
    images: np.ndarray
    rows: np.ndarray
    regions: np.ndarray | None


class FFCVEngine:
    """Has its threads for good, as FFCV's decoder keeps memory for each thread that ever called it."""

    def __init__(self, beton: Beton, device: torch.device, channels: int, threads: int | None) -> None:
        self._beton, self.device, self._channels = beton, device, channels
        self._columns = Columns(beton, device)
        self._index = beton.columns["index"]
        self._stored = (beton.data, beton.metadata["image"], beton.sizes)
        cores = len(os.sched_getaffinity(0))
        self._threads = min(threads or cores, cores)
        self._prefetcher = Prefetcher(self._threads)
        self._transfer = Transfer(device)

    @property
    def transfer_seconds(self) -> float:
        return self._transfer.seconds

    def batches(self, sampler: Sampler, label: str, view: View | None = None) -> Generator[Batch]:
        rows_of_batches = sampler.batches()
        if not rows_of_batches:
            return
        check_one_size(self._beton, view)
        labels_of_batches = self._columns.of(rows_of_batches, label)
        with closing(self._decoded(rows_of_batches, view)) as decoded:
            for pixels, labels in zip(self._transfer(decoded), labels_of_batches, strict=True):
                images = pixels.permute(0, 3, 1, 2)
                if self._channels == 1:
                    images = images[:, :1].contiguous(memory_format=torch.channels_last)
                yield Batch(images, *labels)

    def _decoded(self, rows_of_batches: list[np.ndarray], view: View | None) -> Generator[torch.Tensor]:
        """Images of each batch: uint8 (B, H, W, 3), pinned for a GPU."""
        side = self._beton.fixed_size if view is None else (view.size, view.size)
        assert side is not None
        parts_of_batches = [self._parts(len(rows), math.prod(side) * 3) for rows in rows_of_batches]

        def pieces() -> Iterator[_Piece]:
            regions_of_batches: Iterable[np.ndarray | None] = [None] * len(rows_of_batches)
            if view is not None:
                sizes = self._beton.height, self._beton.width
                regions_of_batches = view.regions_of(rows_of_batches, self._index, *sizes)
            for rows, parts, regions in zip(rows_of_batches, parts_of_batches, regions_of_batches, strict=True):
                pinned = self.device.type == "cuda"
                batch = torch.empty((len(rows), *side, 3), dtype=torch.uint8, pin_memory=pinned)
                images = batch.numpy()
                for part in parts:
                    yield _Piece(batch, images[part], rows[part], None if regions is None else regions[part])

        with closing(self._prefetcher.map(self._decode, pieces())) as decoded:
            for parts in parts_of_batches:
                *_, batch = islice(decoded, len(parts))
                yield batch

    def _parts(self, samples: int, image_bytes: int) -> list[slice]:
        """How the threads divide a batch."""
        count = max(1, min(self._threads, samples, samples * image_bytes // _PIECE_BYTES))
        edges = [samples * i // count for i in range(count + 1)]
        return [slice(*pair) for pair in pairwise(edges)]

    def _decode(self, piece: _Piece) -> torch.Tensor:
        """Decode a piece into its batch's memory, which is returned."""
        fine = np.empty(len(piece.rows), np.bool_)
        if piece.regions is None:
            ffcv_kernels.decode_fixed_kernel(piece.rows, *self._stored, piece.images, fine)
        else:
            ffcv_kernels.decode_regions_kernel(piece.rows, *self._stored, piece.regions, piece.images, fine)
        for at in np.flatnonzero(~fine).tolist():
            self._decode_again(piece, at)
        return piece.batch

    def _decode_again(self, piece: _Piece, at: int) -> None:
        """Let Pillow judge an image of which FFCV's decoder complained: as in the bake, it decodes files that merely
        draw a warning (bytes too many before a marker), and raises for damaged ones."""
        image = self._beton.image(int(piece.rows[at]))
        if piece.regions is not None:
            top, left, height, width = piece.regions[at]
            region = Image.fromarray(image[top : top + height, left : left + width])
            image = np.asarray(region.resize(piece.images.shape[1:3], Image.Resampling.BILINEAR))
        piece.images[at] = image


open_engine = FFCVEngine
