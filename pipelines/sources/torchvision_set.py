"""Well-known sets: found in torchvision's layout or as the Hugging Face Hub's Parquet, else downloaded."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.errors import Note, UserError
from pipelines.locations import data_root
from pipelines.sources.base import ArraySource, Source, SourceSpec, fingerprint_files
from pipelines.sources.layouts import find_parquet, search_folders
from pipelines.sources.parquet import ParquetSource
from pipelines.sources.parquet_labels import Classes


@dataclass(frozen=True)
class TorchvisionSet:
    """name: of the set, and of its folder below FASTGEN_DATA. layout: the sub-folder of torchvision's files there.

    read: (folder, whether to read the training split, whether to download it) -> images uint8 (n, H, W, 3), labels
    (n,), and the names of the files that hold them. shown_by: a glob pattern of what lies there where the set does
    (None: its sub-folder).

    Of the Hub's Parquet: label_column is named where it is not the usual one, spellings are other names of classes, and
    further are splits that are neither read nor missed.
    """

    name: str
    layout: str
    class_names: list[str]
    read: Callable[[str, bool, bool], tuple[np.ndarray, np.ndarray, list[str]]]
    channels: int = 3
    shown_by: str | None = None
    label_column: str | None = None
    spellings: Mapping[str, str] = field(default_factory=dict)
    further: tuple[str, ...] = ()

    def open_split(self, spec: SourceSpec, split: str) -> Source:
        folders, problem = search_folders(spec, self.name), None
        for folder in folders:
            if self._lies_in(folder):
                try:
                    return self._from_files(folder, split, download=False)
                except Exception as error:  # of files that lack a part, torchvision raises what it comes upon
                    problem = problem or self._incomplete(folder, split, error)
            # Parquet files directly in the folder of all data sets may be any set's.
            if folder == folders[0] and (files := find_parquet(folder, split, without=self.further)):
                if problem:
                    warnings.warn(f"{problem}; the Parquet files beside it are read instead", Note, stacklevel=2)
                return self._from_parquet(folder, files)
        if problem:
            raise problem
        if spec.root is not None:
            raise UserError(
                f"data.root={spec.root} holds {self.name} neither in torchvision's layout nor as Parquet; "
                "leave data.root out to have it downloaded"
            )
        folder = data_root() / self.name
        try:
            return self._from_files(folder, split, download=True)
        except (OSError, RuntimeError) as error:  # URLError; torchvision's RuntimeError for a file that is not whole
            raise UserError(
                f"{self.name} was not found below {data_root()} and could not be downloaded to {folder} ({error}); set "
                f"FASTGEN_DATA or data.root to where it is, or download it on a machine with a network"
            ) from error

    def _lies_in(self, folder: Path) -> bool:
        if self.shown_by is None:
            return (folder / self.layout).is_dir()
        return any((folder / self.layout).glob(self.shown_by))

    def _from_parquet(self, folder: Path, files: list[Path]) -> Source:
        spec = SourceSpec(label_column=self.label_column)
        known = Classes(self.class_names, np.arange(len(self.class_names)), self.spellings)
        return ParquetSource(folder, files, known=known, channels=self.channels, spec=spec)

    def _from_files(self, folder: Path, split: str, download: bool) -> Source:
        images, labels, files = self.read(str(folder), split == "train", download)
        if len(images) != len(labels):
            raise ValueError(f"{len(images):,} images and {len(labels):,} labels")
        if not len(labels) or labels.min() < 0 or labels.max() >= len(self.class_names):
            raise ValueError(f"its labels are not in 0..{len(self.class_names) - 1}")
        lie_in = folder / self.layout
        digest = fingerprint_files(lie_in, [lie_in / name for name in files])
        return ArraySource(f"{self.name}/{split}", images, labels, self.class_names, digest, self.channels)

    def _incomplete(self, folder: Path, split: str, error: Exception) -> UserError:
        what = " ".join(str(error).split()) or type(error).__name__
        return UserError(
            f"{folder / self.layout} is no whole copy of {self.name}'s {split} split ({what}); complete it, or remove "
            "it to have it downloaded"
        )

    def where(self) -> str:
        """Where the set lies on this machine, in words."""
        spec = SourceSpec(self.name)
        folders = search_folders(spec, self.name)
        for folder in folders:
            if self._lies_in(folder):
                return f"{folder} (torchvision's layout)"
            if folder == folders[0] and find_parquet(folder, "train", without=self.further):
                return f"{folder} (Parquet)"
        return "not found: downloaded on first use"
