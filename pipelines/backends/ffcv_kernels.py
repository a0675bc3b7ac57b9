"""The machine code that decodes a batch: our loop around the C functions of FFCV's library, cached on disk.

FFCV compiles its own loops with numba in every process (9 to 17 seconds), and numba cannot cache them: they hold
pointers of this process (ctypes) and other compiled functions in closures. This loop is a plain function of this
module and calls the library by symbol names, so numba caches it across processes; it checks this file's time
stamp, its own version and the processor before it uses what it finds.
"""

import ctypes
import os

import llvmlite.binding
import numba
import numba.typed
import numpy as np
import torch
from numba import types

from pipelines.locations import cache_root


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
for _name, _function in (("fastgen_ffcv_imdecode", lib.imdecode), ("fastgen_ffcv_memcpy", lib.my_memcpy)):
    llvmlite.binding.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)
# int imdecode(in, size, source height, width, out, crop height, width, offset x, y, scale num, denom, crop, flip)
_imdecode = types.ExternalFunction(
    "fastgen_ffcv_imdecode",
    types.int32(_I8, _U8, _U4, _U4, _I8, _U4, _U4, _U4, _U4, _U4, _U4, types.boolean, types.boolean),
)
_memcpy = types.ExternalFunction("fastgen_ffcv_memcpy", types.void(_I8, _I8, _U8))
_JPEG = 0  # ffcv.fields.rgb_image.IMAGE_MODES


def decode_fixed(rows, destination, metadata, storage):  # type: ignore[no-untyped-def]
    """Decode images of one size, in parallel, without the interpreter lock.

    rows uint64 (n,); destination uint8 (batch, H, W, 3), of which the first n are filled and returned; metadata: the
    image field's records; storage: FFCV's OSCacheContext.state (mapped file, sorted addresses, their sizes).
    """
    mapped, addresses, sizes = storage
    for i in numba.prange(len(rows)):
        record = metadata[rows[i]]
        address = record["data_ptr"]
        size = sizes[np.searchsorted(addresses, address)]
        height, width = types.uint32(record["height"]), types.uint32(record["width"])
        source = mapped.ctypes.data + types.int64(address)
        if record["mode"] == _JPEG:
            target = destination[i].ctypes.data
            _imdecode(source, size, height, width, target, height, width, 0, 0, 1, 1, False, False)
        else:
            _memcpy(source, destination[i].ctypes.data, size)
    return destination[: len(rows)]


def _compiled(function):  # type: ignore[no-untyped-def]
    """numba's dispatcher for `function`, cached under FASTGEN_CACHE unless NUMBA_CACHE_DIR says where.

    Where no folder can be written to, it is compiled in each process.
    """
    options = {"nogil": True, "parallel": True, "error_model": "numpy"}
    before = numba.config.CACHE_DIR
    if not os.environ.get("NUMBA_CACHE_DIR"):
        numba.config.CACHE_DIR = str(cache_root() / "numba")
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return numba.njit(**options)(function)
    finally:
        numba.config.CACHE_DIR = before


decode_fixed_kernel = _compiled(decode_fixed)
