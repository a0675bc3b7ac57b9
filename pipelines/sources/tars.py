"""Image files inside tar archives, found once and then read in place: nothing is unpacked.

An index says where each file lies. Only headers are read for it (ustar, GNU and pax), and it is kept in the cache:
walking the 1.28 million of ImageNet takes minutes, and reading one afterwards a single `pread`.
"""

import contextlib
import hashlib
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.durable import aside, one_at_a_time
from pipelines.errors import UserError
from pipelines.locations import cache_root
from pipelines.sources.layouts import is_image

_VERSION = 2  # of the index files in the cache: one of another version is made again
_LONGEST_TRAILER = 1 << 20  # bytes of zeros after the end mark, at most: tar pads to its record, 10 kB by default
_NAMES = pa.schema([("name", pa.binary())])
_FILES = pa.schema([*_NAMES, ("offset", pa.int64()), ("size", pa.int64())])


@dataclass(frozen=True)
class TarIndex:
    """The places of an archive's image files, by group and then by file name.

    groups: of a tar of tars the inner archives' names without .tar, sorted; of a flat tar one, "". counts: int64
    (groups,), files in each. offsets (from the archive's start), sizes: int64 (n,). names: binary (n,), since a name
    need not be UTF-8; ImageNet's 1.28 million take 28 MB, where Python strings would take 100. Of two members of one
    name the later one counts, as after unpacking.
    """

    groups: list[str]
    counts: np.ndarray
    names: pa.Array
    offsets: np.ndarray
    sizes: np.ndarray


def index_tar(path: Path, nested: bool) -> TarIndex:
    """The index of a flat tar, or (nested) of a tar of tars: from the cache while the archive stays as it is.

    Raises UserError naming an archive that is truncated, damaged, no tar, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
    stamp = np.array([_VERSION, nested, status.st_size, status.st_mtime_ns], np.int64)
    place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    cached = cache_root() / "tars" / f"{place}.npz"
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only cache, in which no index is kept
        return _walk(path, nested)
    with one_at_a_time(cached.with_suffix(".lock"), lambda _: None) as refusal:  # one process walks the archive
        index = _load(cached, stamp)
        if index is None:
            index = _walk(path, nested)
            if refusal is None:
                with contextlib.suppress(OSError):  # a full disk: it is walked again the next time
                    _save(cached, stamp, index)
    return index


def _walk(path: Path, nested: bool) -> TarIndex:
    groups: dict[str, pa.RecordBatch] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    # Unbuffered: a buffer would read 8 kB for every header of 512 bytes.
    with (
        open(path, "rb", buffering=0) as file,
        Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar,
    ):
        size = os.fstat(file.fileno()).st_size
        if not nested:
            groups[""] = _image_files(file, str(path), 0, size)
        else:
            task = bar.add_task(f"indexing {path.name}", total=size)
            for name, offset, length in _members(file, str(path), 0, size):
                if name.endswith(".tar") and not name.startswith("."):
                    inside = f"{path}: {name}"
                    groups[name.removesuffix(".tar")] = _image_files(file, inside, offset, offset + length)
                    bar.update(task, completed=offset + length)
    listed = sorted(groups)
    files = pa.Table.from_batches([groups[group] for group in listed], _FILES)
    return TarIndex(
        listed,
        np.array([groups[group].num_rows for group in listed], np.int64),
        files["name"].combine_chunks(),
        files["offset"].to_numpy(),
        files["size"].to_numpy(),
    )


def _image_files(file: BinaryIO, archive: str, start: int, end: int) -> pa.RecordBatch:
    """The image files in the archive at [start, end) of `file`, by name."""
    found = {name: (offset, size) for name, offset, size in _members(file, archive, start, end) if is_image(name)}
    names = sorted(found)
    offsets, sizes = ([found[name][place] for name in names] for place in (0, 1))
    return pa.RecordBatch.from_pydict({"name": map(os.fsencode, names), "offset": offsets, "size": sizes}, _FILES)


def _members(file: BinaryIO, archive: str, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """(name without folders, offset, size) of the plain files of the archive at [start, end) of `file`.

    tarfile's own iteration takes a damaged header for the end of the archive, and so loses the rest in silence.
    Its parser of headers is used here, and every way to end but the end mark is an error.
    """

    def damaged(what: str) -> UserError:
        return UserError(f"{archive}: {what}; none of its samples are used. Copy or download the archive again")

    file.seek(start)
    try:
        tar = tarfile.TarFile(fileobj=file)  # reads a first header, too
    except (tarfile.TarError, OSError, ValueError) as error:
        raise damaged(f"not a tar archive, or damaged at its start ({error})") from error
    position = start
    while True:
        if position + tarfile.BLOCKSIZE > end:
            raise damaged("truncated: it ends without tar's end mark")
        file.seek(position)
        try:
            member = tarfile.TarInfo.fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lacks it
            break
        except (tarfile.TarError, OSError, ValueError) as error:
            raise damaged(f"damaged at byte {position:,} ({error})") from error
        if member.offset_data + member.size > end:
            raise damaged(f"truncated inside {member.name}")
        if tar.offset <= position:
            raise damaged(f"damaged at byte {position:,} (a member of negative size)")
        position = tar.offset
        name = member.name.rsplit("/", 1)[-1]
        if member.isreg() and not member.issparse():
            yield name, member.offset_data, member.size
        elif is_image(name) and not member.isdir():
            raise UserError(f"{archive}: {member.name} is a link or a sparse file; pack the images as plain files")
    if end - position > _LONGEST_TRAILER:
        raise damaged(f"its end mark is at byte {position:,} of {end:,}, as in a download that was broken off")


def _save(path: Path, stamp: np.ndarray, index: TarIndex) -> None:
    try:
        with open(aside(path), "wb") as file:
            np.savez(
                file,
                stamp=stamp,
                groups=np.array(index.groups, str),
                counts=index.counts,
                names=np.frombuffer(pa.record_batch([index.names], _NAMES).serialize(), np.uint8),
                offsets=index.offsets,
                sizes=index.sizes,
            )
        os.replace(aside(path), path)
    except BaseException:
        aside(path).unlink(missing_ok=True)
        raise


def _load(path: Path, stamp: np.ndarray) -> TarIndex | None:
    """The index kept at `path`; None where there is none, it is damaged, or it is of another state of the archive."""
    try:
        with np.load(path, allow_pickle=False) as kept:  # compares each array with its checksum
            if not np.array_equal(kept["stamp"], stamp):
                return None
            names = pa.ipc.read_record_batch(pa.py_buffer(kept["names"]), _NAMES)["name"]
            return TarIndex(kept["groups"].tolist(), kept["counts"], names, kept["offsets"], kept["sizes"])
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        return None
