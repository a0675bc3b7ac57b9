"""Labels and indices of batches, from a file's columns by the rows that the sampler gave."""

from collections.abc import Iterator

import numpy as np
import torch

from pipelines.baked.beton import Beton
from pipelines.baked.shards import Shards
from pipelines.errors import UserError, did_you_mean

Labels = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Columns:
    """A file's columns on the device: int64 (N,) each."""

    def __init__(self, stored: Beton | Shards, device: torch.device) -> None:
        self._path, self._device = stored.path, device
        self._columns = {name: torch.from_numpy(c).to(device) for name, c in stored.columns.items()}

    def of(self, rows_of_batches: list[np.ndarray], label: str) -> Iterator[Labels]:
        """For each batch the given label, clean label and sample index: int64 (B,) each.

        Gathered at once for all batches: three small gathers a batch cost as much as decoding one of CIFAR-10.
        Raises UserError when the file has no such label column.
        """
        if label not in self._columns:
            raise UserError(f"{self._path} has no label column '{label}'; {did_you_mean(label, self._columns)}")
        rows = torch.from_numpy(np.concatenate(rows_of_batches)).to(self._device)
        sizes = [len(batch) for batch in rows_of_batches]
        return zip(
            *(self._columns[name].index_select(0, rows).split(sizes) for name in (label, "clean_label", "index")),
            strict=True,
        )
