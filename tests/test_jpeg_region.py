"""Decoding of regions: the pixels of the whole decode in any region of any kind of JPEG, and no more than asked for."""

import ctypes
import hashlib
import io
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ffcv")

import pipelines.backends
from pipelines.backends import ffcv_kernels, jpeg_region, open_engine
from pipelines.baked.beton import JPEG, Beton
from pipelines.baked.writer import Writer
from pipelines.sampler import Sampler
from pipelines.view.regions import View, ViewSpec

REGIONS = jpeg_region.library()
needs_compiler = pytest.mark.skipif(REGIONS is None, reason="no C compiler, or no headers of libjpeg-turbo")

HEIGHT, WIDTH = 39, 53  # odd, and not of whole blocks
UNTOUCHED = 77


def picture(mode="RGB"):
    """Colours with edges, which smoothed chroma spreads over their neighbours."""
    coarse = np.random.default_rng(1).integers(0, 256, (HEIGHT // 3 + 1, WIDTH // 3 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((3 * (WIDTH // 3 + 1),) * 2, Image.Resampling.NEAREST).convert(mode)


def jpeg(mode="RGB", **options):
    out = io.BytesIO()
    picture(mode).crop((0, 0, WIDTH, HEIGHT)).save(out, "JPEG", quality=90, **options)
    return out.getvalue()


KINDS = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "restarts by row": {"subsampling": "4:2:0", "restart_marker_rows": 1},
    "restarts by block": {"subsampling": "4:4:4", "restart_marker_blocks": 2},
    "progressive": {"subsampling": "4:2:0", "progressive": True},
    "progressive 4:4:4": {"subsampling": "4:4:4", "progressive": True},
    "gray": {"mode": "L"},
}


def decode(content, region, height=HEIGHT, width=WIDTH):
    """What the function returned, and its image."""
    image = np.full((HEIGHT, WIDTH, 3), UNTOUCHED, np.uint8)
    sizes = [ctypes.c_uint32(int(value)) for value in (height, width, *region)]
    place = ctypes.c_void_p(image.ctypes.data)
    return REGIONS.fastgen_jpeg_region(content, ctypes.c_uint64(len(content)), *sizes, place), image


def whole(content):
    """By FFCV's function, at its settings."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    sizes = [ctypes.c_uint32(value) for value in (HEIGHT, WIDTH)]
    place, rest = ctypes.c_void_p(image.ctypes.data), [ctypes.c_uint32(v) for v in (0, 0, 1, 1, 0, 0)]
    function = ffcv_kernels._lib.imdecode
    assert function(content, ctypes.c_uint64(len(content)), *sizes, place, *sizes, *rest) == 0
    return image


def regions():
    """All spans of rows with some of columns, and all of columns with some of rows: (top, left, rows, columns)."""
    all_rows, all_columns = (list(combinations(range(side + 1), 2)) for side in (HEIGHT, WIDTH))
    some_rows, some_columns = [(0, HEIGHT), (15, 17), (38, 39)], [(0, WIDTH), (0, 1), (15, 33), (52, 53)]
    for (top, end), (left, right) in [*product(all_rows, some_columns), *product(some_rows, all_columns)]:
        yield top, left, end - top, right - left


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_any_region_has_the_pixels_of_the_whole(kind):
    content = jpeg(**KINDS[kind])
    expected = whole(content)
    for top, left, rows, columns in regions():
        code, image = decode(content, (top, left, rows, columns))
        shown = np.s_[top : top + rows, left : left + columns]
        assert code == 0 and np.array_equal(image[shown], expected[shown]), (top, left, rows, columns)
        image[top : top + rows] = UNTOUCHED
        assert (image == UNTOUCHED).all()  # no other rows


BASE = jpeg(subsampling="4:2:0")
LOWER, UPPER = (20, 0, 19, WIDTH), (0, 0, 8, WIDTH)


@needs_compiler
@pytest.mark.parametrize(
    ("content", "region", "code"),
    [
        pytest.param(BASE, LOWER, 0, id="whole"),
        pytest.param(BASE[: len(BASE) * 3 // 4], LOWER, 1, id="cut off inside"),
        pytest.param(BASE[: len(BASE) * 3 // 4], UPPER, 0, id="cut off below"),
        pytest.param(BASE[:-2] + bytes(24) + BASE[-2:], LOWER, 1, id="bytes too many"),
        pytest.param(BASE[:-2] + bytes(24) + BASE[-2:], UPPER, 0, id="bytes too many, below"),
        pytest.param(BASE[:-2], LOWER, 1, id="no end"),
        pytest.param(BASE[:700] + bytes(60) + BASE[760:], LOWER, 1, id="zeros inside"),
        pytest.param(BASE[:100], UPPER, 1, id="half a header"),
        pytest.param(b"", UPPER, 1, id="empty"),
        pytest.param(b"\xff\xd8" + bytes(300), UPPER, 1, id="zeros"),
        pytest.param(b"no picture at all", UPPER, 1, id="another file"),
        pytest.param(jpeg("CMYK"), UPPER, 1, id="CMYK"),  # which FFCV's function refuses, too
    ],
)
def test_complaints_are_returned(content, region, code):
    assert decode(content, region)[0] == code


@needs_compiler
@pytest.mark.parametrize("size", [(HEIGHT + 1, WIDTH), (HEIGHT, WIDTH - 1), (WIDTH, HEIGHT)])
def test_a_file_of_another_size_is_not_decoded(size):
    code, image = decode(BASE, (0, 0, 1, 1), *size)
    assert code == 1 and (image == UNTOUCHED).all()


@needs_compiler
def test_threads_decode_at_once_and_nothing_leaks():
    expected, cut = whole(BASE), BASE[: len(BASE) // 2]

    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def work(_):
        for _ in range(100):
            assert decode(cut, LOWER)[0] == decode(b"x", LOWER)[0] == 1
            assert np.array_equal(decode(BASE, LOWER)[1][20:], expected[20:])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
        before = resident_bytes()
        list(pool.map(work, range(40)))  # 8,000 failures: at 10 kB each, 80 MB
    assert resident_bytes() - before < 8e6


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compiled"


@needs_compiler
def test_it_is_compiled_once(cache, monkeypatch):
    assert jpeg_region.library() is not None
    (made,) = cache.iterdir()
    assert made.suffix == ".so"
    monkeypatch.setattr(jpeg_region.subprocess, "run", None)
    assert jpeg_region.library() is not None


def of_another_libjpeg(content):
    """Whole, and the loader refuses it."""
    return (other := b"needs libjpeg.so.8") + hashlib.sha256(other).digest()


@needs_compiler
@pytest.mark.parametrize("damage", [lambda b: b[:-1000], lambda b: b"", of_another_libjpeg])
def test_what_cannot_be_loaded_is_compiled_again(cache, damage):
    jpeg_region.library()
    (made,) = cache.iterdir()
    content = made.read_bytes()
    made.unlink()  # and not written into, as this process runs it
    made.write_bytes(damage(content))
    library = jpeg_region.library()
    assert library is not None and library.fastgen_jpeg_region
    assert len(made.read_bytes()) == len(content)


@pytest.mark.parametrize("compiler", ["false", "there-is-no-such-compiler", "cc -DLIBJPEG -include no_such_header.h"])
def test_without_a_compiler_images_are_decoded_whole(tmp_path, monkeypatch, caplog, compiler, cache):
    """The batches are the same, and the log says how to be faster."""
    columns = {"index": np.arange(4), "clean_label": np.zeros(4, int)}
    with Writer(tmp_path / "a.beton", 4, columns) as writer:
        for kind in ("4:4:4", "4:2:0", "progressive", "gray"):
            writer.append(jpeg(**KINDS[kind]), JPEG, WIDTH, HEIGHT)
        writer.finish()
    view = View(ViewSpec(0.875, random="area"), 24, 0, 0)

    def images():
        engine = open_engine("ffcv", Beton(tmp_path / "a.beton"), torch.device("cpu"))
        return torch.cat([batch.images for batch in engine.batches(Sampler(4, 4, shuffle=False), "index", view)])

    expected = images()
    for name in ("ffcv", "ffcv_kernels"):
        monkeypatch.delitem(sys.modules, f"pipelines.backends.{name}")
        monkeypatch.delattr(pipelines.backends, name)
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(images(), expected)
    (said,) = caplog.messages
    assert said.startswith("JPEGs are decoded whole") and "libjpeg-dev" in said
