"""A baked set as shards of another format, for object stores and other tools: the same samples and label columns.

WebDataset: tar files of about one size, samples in file order (a fixed shuffle). Sample k of a split has the members
KKKKKKKK.jpg (the stored bytes) or .png (raw pixels, lossless), .cls (the label of the chosen labelling, as text: what
readers of WebDataset train on) and one .NAME.i64 (little-endian int64) for each column: index, clean_label (the true
one), and every labelling. Beside each tar lies the index file that DALI's reader takes (version 1.2, as its wds2idx
writes). SPLIT.parquet says where each image lies, with its size, its CRC-32 and its columns, and manifest.json is the
set's own: with them `pipelines.baked.shards` reads an export.
"""

import fcntl
import hashlib
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import Field

from pipelines.baked.beton import JPEG, Beton
from pipelines.baked.manifest import MANIFEST, BakedSet
from pipelines.baked.notes import Count, Sha256, sealed
from pipelines.durable import check_room, refusals, sync, sync_folder, write_durably
from pipelines.errors import UserError, did_you_mean
from pipelines.progress import tracked
from pipelines.registry import Registry

_BLOCK = 512  # bytes of a tar header; members are padded to a multiple of them
EXPORT = "export.json"
SCHEMA: Final = 2  # 1 had the true label as .cls, and no hash of itself
_UNFINISHED = ".export-unfinished"


@dataclass
class Shard:
    """A file of an export."""

    file: Annotated[str, Field(pattern=r"^[a-z]+-[0-9]{6,}\.tar$")]
    samples: Annotated[int, Field(ge=1)]
    bytes: Count
    sha256: Sha256


@dataclass
class About:
    """export.json. labels: the column that .cls holds, of each split. columns: all of its columns. Hashes: of the files
    of these names."""

    format: Literal["webdataset"]
    manifest_sha256: Sha256
    class_names: list[str]
    channels: int
    labels: dict[str, str]
    columns: dict[str, list[str]]
    tables_sha256: dict[str, Sha256]
    splits: dict[str, list[Shard]]
    schema: Literal[2] = SCHEMA


def export(
    baked: BakedSet, to: str, output: Path, shard_bytes: int = 512 << 20, labels: str | None = None
) -> dict[str, list[Shard]]:
    """Write all splits of `baked` to the new folder `output` in the format `to`; returns the shards of each split.

    shard_bytes: about the size of a shard. labels: the column of the training set that readers are given as the label
    (None: the file's first labelling, which the set was baked with); of the test set it is the true one. The files are
    written aside and renamed when all are there, with export.json (hashes of the manifest, the tables, the shards, and
    itself). Equal sets give equal bytes. Raises UserError when `output` exists or cannot be written, the disk is too
    small, or the format or the column is unknown.
    """
    write = EXPORTS[to]
    chosen = {split: labellings(beton.names)[0] for split, beton in baked.splits.items()}
    if labels is not None and labels not in (known := labellings(baked.splits["train"].names)):
        raise UserError(f"{baked.path} has no label column '{labels}': {did_you_mean(labels, known)}")
    chosen["train"] = labels or chosen["train"]
    with refusals(output, "name a folder that can be written, on a disk with room, with --output"):
        if output.exists():
            raise UserError(f"{output} exists already; name another folder with --output")
        output.parent.mkdir(parents=True, exist_ok=True)
        headers = {split: beton.samples * 2 * _BLOCK * (3 + len(beton.names)) for split, beton in baked.splits.items()}
        need = sum(int(beton.sizes.sum()) + headers[split] for split, beton in baked.splits.items())
        check_room(output.parent, need, "the export", "name a folder on a larger disk with --output")
        with _unfinished(output) as folder:
            shards = {
                split: write(beton, folder, split, shard_bytes, chosen[split]) for split, beton in baked.splits.items()
            }
            about = About(
                format="webdataset",
                manifest_sha256=baked.sha256,
                class_names=baked.manifest.class_names,
                channels=baked.manifest.channels,
                labels=chosen,
                columns={split: beton.names for split, beton in baked.splits.items()},
                tables_sha256={
                    split: hashlib.sha256(table_path(folder, split).read_bytes()).hexdigest() for split in baked.splits
                },
                splits=shards,
            )
            write_durably(folder / MANIFEST, (baked.path / MANIFEST).read_bytes())
            write_durably(folder / EXPORT, sealed(about))
            folder.rename(output)
            sync_folder(output.parent)
    return shards


def labellings(names: list[str]) -> list[str]:
    """Of a file's columns those of labels that training may go by, in its order."""
    return [name for name in names if name not in ("clean_label", "index")]


@contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write it in, which is removed when the block fails.

    This process holds a lock on it, so that others know it from what a dead one left, which is removed first.
    """
    busy = UserError(f"another process exports to {output} now; wait for it, or name another --output")
    for left in dead_exports(output.parent):
        shutil.rmtree(left, ignore_errors=True)
    folder = output.with_name(f".{output.name}{_UNFINISHED}")
    try:
        folder.mkdir()
    except FileExistsError:
        raise busy from None
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no folders: there, nothing is known to be dead
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), folder.stat()):
            raise busy  # which took this one for dead before it was locked
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def dead_exports(folder: Path) -> list[Path]:
    """What exports into `folder` left behind whose processes have died."""
    dead = []
    for left in folder.glob(f".*{_UNFINISHED}"):
        with suppress(OSError):  # locked by a process that lives
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                dead.append(left)
            finally:
                os.close(handle)
    return dead


def table_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.parquet"


def _webdataset(beton: Beton, folder: Path, split: str, shard_bytes: int, label: str) -> list[Shard]:
    columns = beton.columns
    digits = max(8, len(str(beton.samples)))
    shards: list[Shard] = []
    places = np.zeros((beton.samples, 4), np.int64)  # number of the shard, offset, bytes, CRC-32
    tar = _Tar(folder / f"{split}-000000.tar")
    for row in tracked(range(beton.samples), beton.samples, f"exporting {split}"):
        if tar.offset >= shard_bytes:
            shards.append(tar.close())
            tar = _Tar(folder / f"{split}-{len(shards):06d}.tar")
        key = f"{row:0{digits}d}"
        tar.begin_sample()
        extension, image = _image(beton, row)
        places[row] = len(shards), tar.add(key, extension, image), len(image), zlib.crc32(image)
        tar.add(key, "cls", str(columns[label][row]).encode())
        for name, values in columns.items():
            tar.add(key, f"{name}.i64", values[row].astype("<i8").tobytes())
    shards.append(tar.close())
    files = pa.DictionaryArray.from_arrays(pa.array(places[:, 0], pa.int32()), [shard.file for shard in shards])
    table: dict[str, pa.Array | np.ndarray] = {
        "shard": files,
        "offset": places[:, 1],
        "bytes": places[:, 2],
        "crc32": places[:, 3].astype(np.uint32),
        "height": beton.height,
        "width": beton.width,
        **columns,
    }
    path = table_path(folder, split)
    pq.write_table(pa.table(table), path, compression="zstd")
    with open(path, "rb") as file:
        sync(file)
    return shards


def _image(beton: Beton, row: int) -> tuple[str, bytes]:
    """Extension and bytes of an image file."""
    if beton.mode[row] == JPEG:
        begin = int(beton.ptr[row])
        return "jpg", beton.data[begin : begin + int(beton.sizes[row])].tobytes()
    out = io.BytesIO()
    Image.fromarray(beton.image(row)).save(out, "PNG", compress_level=1)
    return "png", out.getvalue()


class _Tar:
    """A tar file and its index. Members carry no time, owner or mode of this machine, so that bytes repeat."""

    def __init__(self, path: Path) -> None:
        self._path, self.offset = path, 0
        self._file, self._hash = open(path, "wb"), hashlib.sha256()  # noqa: SIM115 (closed by close)
        self._samples: list[list[str]] = []

    def begin_sample(self) -> None:
        self._samples.append([])

    def add(self, key: str, extension: str, content: bytes) -> int:
        """Returns where in the file the content begins."""
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(content)
        self._write(member.tobuf(tarfile.USTAR_FORMAT))
        begin = self.offset
        self._samples[-1].append(f"{extension} {begin} {len(content)} {member.name}")
        self._write(content + bytes(-len(content) % _BLOCK))
        return begin

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.offset += len(data)

    def close(self) -> Shard:
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self.offset % tarfile.RECORDSIZE))
        sync(self._file)
        self._file.close()
        lines = [f"v1.2 {len(self._samples)}", *(" ".join(parts) for parts in self._samples)]
        write_durably(self._path.with_suffix(".idx"), "\n".join(lines) + "\n")
        return Shard(self._path.name, len(self._samples), self.offset, self._hash.hexdigest())


EXPORTS: Registry[Callable[[Beton, Path, str, int, str], list[Shard]]] = Registry("--to")
EXPORTS.add("webdataset", _webdataset)
