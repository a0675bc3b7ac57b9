"""A baked set as shards of another format, for object stores and other tools: the same samples and label columns.

WebDataset: tar files of about one size, samples in file order (a fixed shuffle). Sample k of a split has the members
KKKKKKKK.jpg (the stored bytes) or .png (raw pixels, lossless), .cls (the true label, as text) and one .NAME.i64
(little-endian int64) for each column: index, clean_label, and every labelling. Beside each tar lies the index file that
DALI's reader takes (version 1.2, as its wds2idx writes). SPLIT.parquet says where each image lies, with its size, its
CRC-32 and its columns, and manifest.json is the set's own: with them `pipelines.baked.shards` reads an export.
"""

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.baked.beton import JPEG, Beton
from pipelines.baked.manifest import MANIFEST, BakedSet
from pipelines.durable import check_room, sync, sync_folder, write_durably
from pipelines.errors import UserError
from pipelines.progress import tracked
from pipelines.registry import Registry

_BLOCK = 512  # bytes of a tar header; members are padded to a multiple of them
EXPORT = "export.json"
SCHEMA = 1


@dataclass
class Shard:
    """A file of an export."""

    file: str
    samples: int
    bytes: int
    sha256: str


def export(baked: BakedSet, to: str, output: Path, shard_bytes: int = 512 << 20) -> dict[str, list[Shard]]:
    """Write all splits of `baked` to the new folder `output` in the format `to`; returns the shards of each split.

    shard_bytes: about the size of a shard. The files are written aside and renamed when all are there, with
    export.json (the manifest's hash, the tables' and the shards'). Equal sets give equal bytes. Raises UserError when
    `output` exists, the disk is too small, or the format is unknown.
    """
    write = EXPORTS[to]
    if output.exists():
        raise UserError(f"{output} exists already; name another folder with --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    headers = {split: beton.samples * 2 * _BLOCK * (3 + len(beton.names)) for split, beton in baked.splits.items()}
    need = sum(int(beton.sizes.sum()) + headers[split] for split, beton in baked.splits.items())
    check_room(output.parent, need, "the export", "name a folder on a larger disk with --output")
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        shards = {split: write(beton, unfinished, split, shard_bytes) for split, beton in baked.splits.items()}
        about = {
            "schema": SCHEMA,
            "format": to,
            "manifest_sha256": baked.sha256,
            "class_names": baked.manifest.class_names,
            "channels": baked.manifest.channels,
            "columns": {split: beton.names for split, beton in baked.splits.items()},
            "tables_sha256": {
                split: hashlib.sha256(table_path(unfinished, split).read_bytes()).hexdigest() for split in baked.splits
            },
            "splits": {split: [asdict(shard) for shard in files] for split, files in shards.items()},
        }
        write_durably(unfinished / MANIFEST, (baked.path / MANIFEST).read_text())
        write_durably(unfinished / EXPORT, json.dumps(about, indent=1) + "\n")
        sync_folder(unfinished)
        unfinished.chmod(0o755)  # mkdtemp makes it private
        unfinished.rename(output)
        sync_folder(output.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return shards


def table_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.parquet"


def _webdataset(beton: Beton, folder: Path, split: str, shard_bytes: int) -> list[Shard]:
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
        tar.add(key, "cls", str(columns["clean_label"][row]).encode())
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


EXPORTS: Registry[Callable[[Beton, Path, str, int], list[Shard]]] = Registry("--to")
EXPORTS.add("webdataset", _webdataset)
