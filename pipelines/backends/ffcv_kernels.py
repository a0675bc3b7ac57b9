"""The machine code that decodes a batch: our loops around the C functions of FFCV's library, cached on disk.

FFCV compiles its own loops with numba in every process (9 to 17 seconds), and numba cannot cache them: they hold
pointers of this process (ctypes) and other compiled functions in closures. These loops are plain functions of this
module and call the library by symbol names, so that numba can cache them across processes.
"""

import ctypes
import hashlib
import importlib.util
import logging
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numba.typed
import numpy as np
import torch
from numba import types
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

from pipelines.locations import cache_root

log = logging.getLogger(__name__)
if "NUMBA_THREADING_LAYER" not in os.environ and importlib.util.find_spec("numba.np.ufunc.omppool"):
    # numba prefers TBB where it finds it (OpenCV's Debian packages bring it), and TBB can hang a process at its end.
    numba.config.THREADING_LAYER = "omp"


def _import_without_compiling() -> None:
    """`import ffcv.loader`, in less than a second instead of nine.

    FFCV keeps two constants in a numba.typed.Dict, and making one compiles for seconds. They are only read by Python
    code, so a plain dict does; numba gets its own back at once. The import also sets PyTorch's thread count to one.
    """
    typed_dict, threads = numba.typed.Dict, torch.get_num_threads()
    numba.typed.Dict = dict
    try:
        import ffcv.fields.rgb_image
        import ffcv.loader  # noqa: F401
    finally:
        numba.typed.Dict = typed_dict
        torch.set_num_threads(threads)


_import_without_compiling()
from ffcv.libffcv import lib  # noqa: E402

# Names of our own, so that no other library's symbol of the same name can be taken for them.
_I8, _U4, _U8 = types.int64, types.uint32, types.uint64
for _name, _function in (
    ("fastgen_ffcv_imdecode", lib.imdecode),
    ("fastgen_ffcv_memcpy", lib.my_memcpy),
    ("fastgen_ffcv_resize", lib.resize),
):
    llvmlite.binding.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)
# int imdecode(in, size, source height, width, out, crop height, width, offset x, y, scale num, denom, crop, flip)
_imdecode = types.ExternalFunction(
    "fastgen_ffcv_imdecode",
    types.int32(_I8, _U8, _U4, _U4, _I8, _U4, _U4, _U4, _U4, _U4, _U4, types.boolean, types.boolean),
)
_memcpy = types.ExternalFunction("fastgen_ffcv_memcpy", types.void(_I8, _I8, _U8))
# void resize(unused, in, source height, width, first row, end row, first column, end column, out, height, width)
_resize = types.ExternalFunction("fastgen_ffcv_resize", types.void(*[_I8] * 11))
_JPEG = 0  # ffcv.fields.rgb_image.IMAGE_MODES


def decode_fixed(rows, memory, metadata, storage):  # type: ignore[no-untyped-def]
    """Decode images of one size, in parallel, without the interpreter lock.

    rows uint64 (n,); memory: uint8 (batch, H, W, 3) for the images and uint8 (batch,) for what became of them;
    metadata: the image field's records; storage: FFCV's OSCacheContext.state (mapped file, sorted addresses, their
    sizes). Returns the first n of both; 0 marks an image at which the decoder complained.
    """
    destination, fine = memory
    mapped, addresses, sizes = storage
    for i in numba.prange(len(rows)):
        record = metadata[rows[i]]
        address = record["data_ptr"]
        size = sizes[np.searchsorted(addresses, address)]
        height, width = types.uint32(record["height"]), types.uint32(record["width"])
        source = mapped.ctypes.data + types.int64(address)
        if record["mode"] == _JPEG:
            target = destination[i].ctypes.data
            failed = _imdecode(source, size, height, width, target, height, width, 0, 0, 1, 1, False, False)
            fine[i] = failed == 0
        else:
            _memcpy(source, destination[i].ctypes.data, size)  # `Beton` has checked the size
            fine[i] = True
    return destination[: len(rows)], fine[: len(rows)]


def decode_regions(rows, regions, scratch, memory, metadata, storage):  # type: ignore[no-untyped-def]
    """Decode images of any size and resize a region of each (OpenCV's INTER_AREA), in parallel, without the
    interpreter lock.

    regions: int32 (n, 4): top, left, height, width; scratch: uint8 (threads, bytes of the largest image); memory:
    uint8 (batch, size, size, 3) and uint8 (batch,). The others, and what is returned, as in `decode_fixed`.
    """
    destination, fine = memory
    mapped, addresses, sizes = storage
    for i in numba.prange(len(rows)):
        record = metadata[rows[i]]
        address = record["data_ptr"]
        size = sizes[np.searchsorted(addresses, address)]
        height, width = types.uint32(record["height"]), types.uint32(record["width"])
        pixels = mapped.ctypes.data + types.int64(address)
        fine[i] = True
        if record["mode"] == _JPEG:
            whole = scratch[numba.get_thread_id()].ctypes.data
            failed = _imdecode(pixels, size, height, width, whole, height, width, 0, 0, 1, 1, False, False)
            fine[i] = failed == 0
            pixels = whole
        top, left, shown_rows, shown_columns = regions[i]
        shown = destination[i]
        target = shown.ctypes.data
        _resize(
            0, pixels, height, width, top, top + shown_rows, left, left + shown_columns,
            target, shown.shape[0], shown.shape[1],
        )  # fmt: skip
    return destination[: len(rows)], fine[: len(rows)]


class _KernelFiles:
    """numba's cache files (numba.core.caching.IndexDataCacheFile), with one file for a kernel and a checksum in it.

    numba's own are an index and a data file: a damaged one ends the process, and two processes that write at once
    can leave an index that names the other's kernel. A file here is named by all that determines the machine code
    (signature, processor, bytecode, source file's stamp, numba's version); what cannot be read or written is compiled.
    """

    def __init__(self, folder: str, name: str, stamp: Any) -> None:
        self._folder, self._name, self._stamp = Path(folder), name, stamp

    def _path(self, key: Any) -> Path:
        identity = hashlib.sha256(repr((key, self._stamp, numba.__version__)).encode()).hexdigest()[:32]
        return self._folder / f"{self._name}.{identity}.kernel"

    def load(self, key: Any) -> Any:
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        return pickle.loads(content[32:])

    def save(self, key: Any, data: Any) -> None:
        content = dumps(data)
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(file.name, self._path(key))
        except OSError as error:
            log.warning("the compiled kernel is not kept for the next process: %s", error)

    def flush(self) -> None:
        for path in self._folder.glob(f"{self._name}.*.kernel"):
            path.unlink(missing_ok=True)


def _compiled(function):  # type: ignore[no-untyped-def]
    """numba's dispatcher for `function`, cached under FASTGEN_CACHE unless NUMBA_CACHE_DIR says where.

    Where no folder can be written to, it is compiled in each process.
    """
    dispatcher = numba.njit(nogil=True, parallel=True, error_model="numpy")(function)
    before = numba.config.CACHE_DIR
    if not os.environ.get("NUMBA_CACHE_DIR"):
        numba.config.CACHE_DIR = str(cache_root() / "numba")
    try:
        cache = FunctionCache(function)
        cache._cache_file = _KernelFiles(
            cache.cache_path, cache._impl.filename_base, cache._impl.locator.get_source_stamp()
        )
        dispatcher._cache = cache
    except (RuntimeError, OSError, AttributeError) as error:  # no folder can be written, or numba has changed inside
        log.warning("FFCV's kernel is compiled in every process: %s", error)
    finally:
        numba.config.CACHE_DIR = before
    return dispatcher


decode_fixed_kernel = _compiled(decode_fixed)
decode_regions_kernel = _compiled(decode_regions)
