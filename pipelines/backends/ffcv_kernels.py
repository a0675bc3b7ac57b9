"""The machine code that decodes images: our loops around C functions, of FFCV's library and our own, cached on disk.

Threads of Python run them over some images at a time, without the interpreter lock. numba's own threads would be
libgomp's, as PyTorch's are. Where both together are more than the cores, libgomp's threads no longer wait busily, and a
deep network trains a tenth slower on a CPU.

FFCV compiles its own loops with numba in every process (9 to 17 seconds), and numba cannot cache them: they hold
pointers of this process (ctypes) and other compiled functions in closures. These loops are plain functions of this
module and call the library by symbol names, so that their code can be kept. The library is loaded by itself:
importing the package that it lies in takes nine seconds, sets PyTorch's thread count and starts numba's threads.

Source: ffcv/libffcv.py and libffcv/libffcv.cpp of FFCV 1.0.2.
"""

import ctypes
import importlib.machinery
import importlib.util

import llvmlite.binding
import numba
import numpy as np
from numba import types

from pipelines.backends import jpeg_region
from pipelines.backends.kernel_cache import cached


def _library() -> ctypes.CDLL:
    """Raises ImportError where FFCV is not installed, OSError where its library cannot be loaded."""
    package = importlib.util.find_spec("ffcv")  # which does not import it
    found = package and importlib.machinery.PathFinder.find_spec("_libffcv", package.submodule_search_locations)
    if found is None or found.origin is None:
        raise ImportError("no compiled library of FFCV is installed")
    return ctypes.CDLL(found.origin)


_lib = _library()
_regions = jpeg_region.library()
# Names of our own, so that no other library's symbol of the same name can be taken for them.
_functions = {"fastgen_ffcv_imdecode": _lib.imdecode, "fastgen_ffcv_memcpy": _lib.my_memcpy}
if _regions is not None:
    _functions["fastgen_jpeg_region"] = _regions.fastgen_jpeg_region
for _name, _function in _functions.items():
    llvmlite.binding.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)
_I8, _U4, _U8 = types.int64, types.uint32, types.uint64
# int imdecode(in, size, source height, width, out, crop height, width, offset x, y, scale num, denom, crop, flip)
_imdecode = types.ExternalFunction(
    "fastgen_ffcv_imdecode",
    types.int32(_I8, _U8, _U4, _U4, _I8, _U4, _U4, _U4, _U4, _U4, _U4, types.boolean, types.boolean),
)
_memcpy = types.ExternalFunction("fastgen_ffcv_memcpy", types.void(_I8, _I8, _U8))
# int fastgen_jpeg_region(in, size, height, width, top, left, rows, columns, out)
_region = types.ExternalFunction("fastgen_jpeg_region", types.int32(_I8, _U8, _U4, _U4, _U4, _U4, _U4, _U4, _I8))
_JPEG = 0  # ffcv.fields.rgb_image.IMAGE_MODES


def decode_fixed(rows, data, records, sizes, images, fine):  # type: ignore[no-untyped-def]
    """Decode images of one size: uint8 (n, H, W, 3).

    rows: int64 (n,). Of a `Beton`: data, the image field's records, sizes. fine: bool (n,), set to False where the
    decoder complained.
    """
    for i in range(len(rows)):
        record, size = records[rows[i]], sizes[rows[i]]
        source, target = data.ctypes.data + types.int64(record["ptr"]), images[i].ctypes.data
        if record["mode"] == _JPEG:
            height, width = types.uint32(record["height"]), types.uint32(record["width"])
            fine[i] = _imdecode(source, size, height, width, target, height, width, 0, 0, 1, 1, False, False) == 0
        else:
            _memcpy(source, target, size)  # `Beton` has checked the size
            fine[i] = True


_F = np.float32
_arithmetic = numba.njit(nogil=True, error_model="numpy", fastmath=True)


@_arithmetic
def _filter(before, after, starts, weights):  # type: ignore[no-untyped-def]
    """The triangle that resizes `before` pixels to `after`, as wide as a pixel of the coarser side.

    Writes for each new pixel the start of its old ones, int32 (after,), and their weights, float32 (after, most), zero
    behind the last. Returns how many old pixels a new one has at most.
    """
    scale = before / after
    reach = max(scale, 1.0)
    most = 0
    for x in range(after):
        middle = scale * (x + 0.5)
        start, stop = max(0, int(middle - reach + 0.5)), min(before, int(middle + reach + 0.5))
        total = 0.0
        for k in range(stop - start):
            weight = max(0.0, 1.0 - abs(start + k + 0.5 - middle) / reach)
            weights[x, k] = weight
            total += weight
        for k in range(stop - start):
            weights[x, k] /= total
        weights[x, stop - start :] = 0
        starts[x] = start
        most = max(most, stop - start)
    return most


@_arithmetic
def _across(line, starts, weights, most, out):  # type: ignore[no-untyped-def]
    """Resize one row of RGB pixels, float32 (3 * pixels,), to out, which has one value more behind its pixels. Reads up
    to `most` pixels behind the row's end, with weight 0.

    Unsigned indices spare the check for negative ones, and so let the compiler use vectors, which hold four values: the
    fourth is the next pixel's to overwrite.
    """
    for x in range(len(starts)):
        at, to = np.uintp(3 * starts[x]), np.uintp(3 * x)
        red = green = blue = more = _F(0)
        for k in range(most):
            weight = weights[x, k]
            red += weight * line[at]
            green += weight * line[at + np.uintp(1)]
            blue += weight * line[at + np.uintp(2)]
            more += weight * line[at + np.uintp(3)]
            at += np.uintp(3)
        out[to], out[to + np.uintp(1)], out[to + np.uintp(2)], out[to + np.uintp(3)] = red, green, blue, more


@_arithmetic
def resize(image, top, left, height, width, out):  # type: ignore[no-untyped-def]
    """A region of uint8 (H, W, 3), resized to out, uint8 (h, w, 3): bilinear, averaging over what a pixel covers where
    it shrinks, as torch.nn.functional.interpolate with antialias=True, Pillow and DALI do it.

    Rows first where they become fewer, columns first where they become more: the second pass then has less to do.
    OpenCV's INTER_AREA, which FFCV uses, takes four times as long to shrink, as half of a photograph's random crops do.
    """
    rows, columns = out.shape[0], out.shape[1]
    reach = 2 * int(max(1.0, height / rows, width / columns)) + 3
    row_starts, row_weights = np.empty(rows, np.int32), np.empty((rows, reach), np.float32)
    column_starts, column_weights = np.empty(columns, np.int32), np.empty((columns, reach), np.float32)
    row_most = _filter(height, rows, row_starts, row_weights)
    column_most = _filter(width, columns, column_starts, column_weights)
    line = np.zeros(3 * (width + reach), np.float32)
    wide = np.zeros((2, 3 * columns + 1), np.float32)
    if height <= rows:
        done = -1  # the last row that is in `wide`, at its parity
        for y in range(rows):
            start = row_starts[y]
            for row in range(max(start, done + 1), min(start + 2, height)):
                source = image[top + row].reshape(-1)[3 * left : 3 * (left + width)]
                for j in range(3 * width):
                    line[j] = _F(source[j])
                _across(line, column_starts, column_weights, column_most, wide[row & 1])
                done = row
            first, second = row_weights[y, 0], row_weights[y, 1]
            above, below, target = wide[start & 1], wide[(start + 1) & 1], out[y].reshape(-1)
            for j in range(3 * columns):
                target[j] = np.uint8(np.int32(first * above[j] + second * below[j] + _F(0.5)))
        return
    for y in range(rows):
        for k in range(row_most):
            weight = row_weights[y, k]
            if k and weight == 0:
                continue
            source = image[top + row_starts[y] + k].reshape(-1)[3 * left : 3 * (left + width)]
            if k == 0:
                for j in range(3 * width):
                    line[j] = weight * _F(source[j])
            else:
                for j in range(3 * width):
                    line[j] += weight * _F(source[j])
        above, target = wide[0], out[y].reshape(-1)
        _across(line, column_starts, column_weights, column_most, above)
        for j in range(3 * columns):
            target[j] = np.uint8(np.int32(above[j] + _F(0.5)))


if _regions is not None:

    @_arithmetic
    def _decode_region(source, size, height, width, region, image):  # type: ignore[no-untyped-def]
        """Decode at least the region, int32 (4,), to where it lies in memory of the whole image. 0: no complaint."""
        top, left, rows, columns = region
        return _region(source, size, height, width, top, left, rows, columns, image)

else:

    @_arithmetic
    def _decode_region(source, size, height, width, region, image):  # type: ignore[no-untyped-def]
        return _imdecode(source, size, height, width, image, height, width, 0, 0, 1, 1, False, False)


def decode_regions(rows, data, records, sizes, regions, images, fine):  # type: ignore[no-untyped-def]
    """Decode images of any size, and resize a region of each: uint8 (n, size, size, 3).

    regions: int32 (n, 4): top, left, height, width. The others as in `decode_fixed`.
    """
    largest = 0
    for row in rows:
        largest = max(largest, types.int64(records[row]["height"]) * records[row]["width"] * 3)
    scratch = np.empty(largest, np.uint8)
    for i in range(len(rows)):
        record, size = records[rows[i]], sizes[rows[i]]
        begin, height, width = types.int64(record["ptr"]), types.int64(record["height"]), types.int64(record["width"])
        fine[i] = True
        if record["mode"] == _JPEG:
            pixels, source = scratch, data.ctypes.data + begin
            fine[i] = _decode_region(source, size, height, width, regions[i], pixels.ctypes.data) == 0
        else:
            pixels = data[begin:]
        top, left, region_height, region_width = regions[i]
        image = pixels[: height * width * 3].reshape((height, width, 3))
        resize(image, top, left, region_height, region_width, images[i])


decode_fixed_kernel = cached(decode_fixed)
decode_regions_kernel = cached(decode_regions, _regions is not None)
