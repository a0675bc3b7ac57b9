"""Well-known sets: found in torchvision's layout or as the Hugging Face Hub's Parquet, else downloaded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.errors import UserError
from pipelines.locations import data_root
from pipelines.sources.base import ArraySource, Source, SourceSpec, fingerprint_files
from pipelines.sources.layouts import find_parquet, search_folders
from pipelines.sources.parquet import ParquetSource


@dataclass(frozen=True)
class TorchvisionSet:
    """name: of the source, and of its folder below FASTGEN_DATA. layout: the sub-folder of torchvision's files there.

    read: (folder, whether to read the training split, whether to download it) -> images uint8 (n, H, W, 3), labels
    (n,), and the names of the files that hold them.
    """

    name: str
    layout: str
    class_names: list[str]
    read: Callable[[str, bool, bool], tuple[np.ndarray, np.ndarray, list[str]]]
    channels: int = 3

    def open_split(self, spec: SourceSpec, split: str) -> Source:
        found = self._find(spec, split)
        if found and found[1]:
            return ParquetSource(*found, class_names=self.class_names, channels=self.channels)
        if not found and spec.root is not None:
            raise UserError(
                f"data.root={spec.root} holds {self.name} neither in torchvision's layout nor as Parquet; "
                "leave data.root out to have it downloaded"
            )
        folder = found[0] if found else data_root() / self.name
        try:
            images, labels, files = self.read(str(folder), split == "train", not found)
        except (OSError, RuntimeError) as error:  # URLError; torchvision's RuntimeError for a file that is not whole
            if found:
                raise
            raise UserError(
                f"{self.name} was not found below {data_root()} and could not be downloaded to {folder} ({error}); set "
                f"FASTGEN_DATA or data.root to where it is, or download it on a machine with a network"
            ) from error
        lie_in = folder / self.layout
        digest = fingerprint_files(lie_in, [lie_in / name for name in files])
        return ArraySource(f"{self.name}/{split}", images, labels, self.class_names, digest, self.channels)

    def where(self) -> str:
        """Where the set lies on this machine, in words."""
        found = self._find(SourceSpec(self.name), "train")
        if found is None:
            return "not found: downloaded on first use"
        return f"{found[0]} (Parquet)" if found[1] else f"{found[0]} (torchvision's layout)"

    def _find(self, spec: SourceSpec, split: str) -> tuple[Path, list[Path]] | None:
        """The set's folder and the split's Parquet files in it, none of which means torchvision's files."""
        folders = search_folders(spec, self.name)
        for folder in folders:
            if (folder / self.layout).is_dir():
                return folder, []
            # Parquet files directly in the folder of all data sets may be any set's.
            if folder == folders[0] and (files := find_parquet(folder, split)):
                return folder, files
        return None
