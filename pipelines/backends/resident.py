"""The whole set on the device: no loader, no decoding, no copy per batch but the gather itself.

For sets that fit (CIFAR-10 takes 154 MB). JPEG files are decoded once, when the engine opens.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pipelines.backends import Batch
from pipelines.beton import RAW, Beton
from pipelines.registry import UserError
from pipelines.sampler import Sampler


class ResidentEngine:
    """Holds images uint8 (N, H, W, C) and the columns int64 (N,) on the device, in file order."""

    def __init__(self, beton: Beton, device: torch.device, channels: int, threads: int | None) -> None:
        if beton.fixed_size is None:
            raise UserError(
                f"{beton.path}: the images differ in size, so they make no one tensor for data.backend=resident; "
                "bake them to one size (bake.resolution=... bake.square=true) or use data.backend=ffcv"
            )
        images = torch.from_numpy(_pixels(beton, threads))
        if channels == 1:
            images = images[..., :1].contiguous()
        self.device = device
        self._images = images.to(device)
        self._columns = {name: torch.from_numpy(c).to(device) for name, c in beton.columns.items()}

    def batches(self, sampler: Sampler, label: str) -> Generator[Batch]:
        rows_of_batches = sampler.batches()
        if not rows_of_batches:
            return
        # One copy to the device an epoch; each batch is then a slice of it.
        rows = torch.from_numpy(np.concatenate(rows_of_batches)).to(self.device)
        label_column, clean, index = (self._columns[name] for name in (label, "clean_label", "index"))
        for mine in rows.split([len(batch) for batch in rows_of_batches]):
            yield Batch(
                self._images.index_select(0, mine).permute(0, 3, 1, 2),
                label_column.index_select(0, mine),
                clean.index_select(0, mine),
                index.index_select(0, mine),
            )


def _pixels(beton: Beton, threads: int | None) -> np.ndarray:
    """All images in file order: uint8 (N, H, W, 3)."""
    if (beton.mode == RAW).all():
        return beton.raw_images()
    assert beton.fixed_size is not None
    out = np.empty((beton.samples, *beton.fixed_size, 3), np.uint8)
    data = beton.map()

    def decode(row: int) -> None:
        out[row] = beton.image(row, data)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(decode, range(beton.samples)):
            pass
    return out


def open_engine(beton: Beton, device: torch.device, channels: int, threads: int | None) -> ResidentEngine:
    return ResidentEngine(beton, device, channels, threads)
