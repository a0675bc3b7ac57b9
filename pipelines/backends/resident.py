"""The whole set on the device: no loader, no decoding, no copy per batch but the gather itself.

For sets that fit (CIFAR-10 takes 154 MB). JPEG files are decoded once, when the engine opens.
"""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import torch
import torch.nn.functional as F

from pipelines.backends import Batch, check_one_size
from pipelines.backends.columns import Columns
from pipelines.baked.beton import Beton
from pipelines.errors import UserError
from pipelines.sampler import Sampler
from pipelines.view.regions import View


class ResidentEngine:
    """Holds the decoded images on the device in file order: uint8 (N, H, W, C), or one after the other as uint8
    (all pixels,) where they differ in size."""

    transfer_seconds = 0.0  # the images are on the device already

    def __init__(self, beton: Beton, device: torch.device, channels: int, threads: int | None) -> None:
        self._beton, self.device, self._channels = beton, device, channels
        self._sizes = np.stack([beton.height, beton.width], axis=1).astype(np.int64)
        # Where each image begins when they lie one after the other: int64 (N + 1,), in bytes.
        self._starts = np.concatenate([[0], np.cumsum(self._sizes.prod(1) * 3)])
        self._check_room()
        pixels = torch.from_numpy(_pixels(beton, self._starts, threads))
        if beton.fixed_size is not None:
            pixels = pixels.view(beton.samples, *beton.fixed_size, 3)
            if channels == 1:
                pixels = pixels[..., :1].contiguous()
        self._pixels = pixels.to(device)
        self._index = beton.columns["index"]
        self._columns = Columns(beton, device)

    def batches(self, sampler: Sampler, label: str, view: View | None = None) -> Generator[Batch]:
        rows_of_batches = sampler.batches()
        if not rows_of_batches:
            return
        check_one_size(self._beton, view)
        images = self._whole(rows_of_batches) if view is None else self._regions(rows_of_batches, view)
        for pixels, labels in zip(images, self._columns.of(rows_of_batches, label), strict=True):
            yield Batch(pixels, *labels)

    def _whole(self, rows_of_batches: list[np.ndarray]) -> Iterator[torch.Tensor]:
        # One copy of row numbers to the device an epoch; each batch is then a slice of it.
        rows = torch.from_numpy(np.concatenate(rows_of_batches)).to(self.device)
        for mine in rows.split([len(batch) for batch in rows_of_batches]):
            yield self._pixels.index_select(0, mine).permute(0, 3, 1, 2)

    def _regions(self, rows_of_batches: list[np.ndarray], view: View) -> Iterator[torch.Tensor]:
        all_regions = view.regions_of(rows_of_batches, self._index, *self._sizes.T)
        for rows, regions in zip(rows_of_batches, all_regions, strict=True):
            resized = [
                _resized(self._image(int(row))[None, :, top : top + height, left : left + width], view.size)
                for row, (top, left, height, width) in zip(rows, regions.tolist(), strict=True)
            ]
            yield torch.cat(resized).contiguous(memory_format=torch.channels_last)

    def _image(self, row: int) -> torch.Tensor:
        """uint8 (C, H, W), a view."""
        if self._beton.fixed_size is not None:
            return self._pixels[row].permute(2, 0, 1)
        height, width = self._sizes[row].tolist()
        begin = int(self._starts[row])
        image = self._pixels[begin : begin + height * width * 3].view(height, width, 3)
        return image.permute(2, 0, 1)[: self._channels]

    def _check_room(self) -> None:
        need = int(self._starts[-1])
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
        else:
            free = psutil.virtual_memory().available
        if need > free:
            raise UserError(
                f"{self._beton.path}: its images take {need / 1e9:.1f} GB of pixels and the {self.device.type} has "
                f"{free / 1e9:.1f} GB free; stream them with data.backend=ffcv or dali"
            )


def _resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 (B, C, H, W) -> (B, C, size, size): bilinear, averaging over what a pixel covers when it shrinks."""
    if images.shape[-2:] == (size, size):
        return images
    floats = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
    return floats.round_().clamp_(0, 255).to(torch.uint8)


def _pixels(beton: Beton, starts: np.ndarray, threads: int | None) -> np.ndarray:
    """All images in file order, one after the other: uint8 (all pixels,)."""
    if beton.fixed_size is not None and beton.raw.all():
        return beton.raw_images().reshape(-1)
    out = np.empty(int(starts[-1]), np.uint8)

    def decode(row: int) -> None:
        out[starts[row] : starts[row + 1]] = beton.image(row).reshape(-1)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(decode, range(beton.samples)):
            pass
    return out


open_engine = ResidentEngine
