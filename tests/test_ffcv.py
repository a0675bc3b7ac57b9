"""What is special about FFCV: its library alone is loaded, kernels are kept across processes, failures do not hang."""

import ctypes
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ffcv")

import pipelines.backends
from pipelines.backends import ffcv as backend
from pipelines.backends import open_engine
from pipelines.backends.ffcv_kernels import resize
from pipelines.baked.beton import JPEG, RAW, Beton
from pipelines.baked.writer import Writer
from pipelines.errors import UserError
from pipelines.sampler import Sampler
from pipelines.view.regions import View, ViewSpec

CPU = torch.device("cpu")
CHECKSUM = """
import json, sys, torch
from pipelines.backends import open_engine
from pipelines.baked.beton import Beton
from pipelines.sampler import Sampler
engine = open_engine("ffcv", Beton(sys.argv[1]), torch.device("cpu"))
total = 0
for batch in engine.batches(Sampler(64, 8), "index"):
    total += int((batch.images.long() * (batch.index[:, None, None, None] + 1)).sum())
from pipelines.backends.ffcv_kernels import decode_fixed_kernel
stats = decode_fixed_kernel.stats
hits, misses = sum(stats.cache_hits.values()), sum(stats.cache_misses.values())
import numba.np.ufunc.parallel as numbas_threads
disturbed = numbas_threads._is_initialized or "ffcv" in sys.modules
print(json.dumps({"total": total, "hits": hits, "misses": misses, "disturbed": disturbed}))
"""


@pytest.fixture
def path(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    columns = {"index": np.arange(64), "clean_label": np.zeros(64, int)}
    with Writer(tmp_path / "a.beton", 64, columns) as writer:
        for image in images:
            writer.append(image, RAW, 8, 8)
        writer.finish()
    return tmp_path / "a.beton"


def start(path, **environment):
    clean = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", CHECKSUM, str(path)]
    return subprocess.Popen(command, env={**clean, **environment}, stdout=subprocess.PIPE, text=True)


def run(path, **environment):
    return finish(start(path, **environment))


def finish(process):
    text, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(text)


def test_other_processes_find_the_kernels(path, tmp_path):
    """Also where two made them at the same time. Nothing of the process is set, and FFCV's package is not imported."""
    both = [start(path, FASTGEN_CACHE=str(tmp_path / "cache")) for _ in range(2)]
    first, beside = map(finish, both)
    after = run(path, FASTGEN_CACHE=str(tmp_path / "cache"))
    assert (first["hits"], first["misses"]) == (0, 1) or (beside["hits"], beside["misses"]) == (0, 1)
    assert (after["hits"], after["misses"]) == (1, 0)
    assert first["total"] == beside["total"] == after["total"]
    assert not any(process["disturbed"] for process in (first, beside, after))  # numba's threads would slow PyTorch's
    assert [file.suffix for file in (tmp_path / "cache" / "numba").iterdir()] == [".kernel"]


DAMAGES = [lambda b: b[:100], lambda b: b[:2000] + bytes(5000) + b[7000:], lambda b: b""]


def test_damaged_kernels_and_those_of_another_user_are_compiled_again(path, tmp_path):
    first = run(path, FASTGEN_CACHE=str(tmp_path / "cache"))
    (kernel,) = (tmp_path / "cache" / "numba").rglob("*.kernel")
    caches = []
    for number, damage in enumerate(DAMAGES):
        caches.append(tmp_path / f"damaged{number}")
        shutil.copytree(tmp_path / "cache", caches[-1])
        copy = caches[-1] / kernel.relative_to(tmp_path / "cache")
        copy.write_bytes(damage(copy.read_bytes()))
    if os.geteuid() == 0:  # only root can give a file to another user
        caches.append(tmp_path / "cache")
        os.chown(kernel, 12345, 12345)
    for process in [start(path, FASTGEN_CACHE=str(cache)) for cache in caches]:
        again = finish(process)
        assert (again["hits"], again["misses"], again["total"]) == (0, 1, first["total"])
    assert kernel.stat().st_uid == os.geteuid()


def jpegs(tmp_path, damage):
    """Twenty JPEGs of a uniform gray, of which row 5 is changed by `damage`."""
    with Writer(tmp_path / "j.beton", 20, {"index": np.arange(20) + 100, "clean_label": np.zeros(20, int)}) as writer:
        for row in range(20):
            out = io.BytesIO()
            Image.fromarray(np.full((16, 16, 3), 10 * row, np.uint8)).save(out, "JPEG", quality=95)
            content = out.getvalue()
            writer.append(damage(content) if row == 5 else content, JPEG, 16, 16)
        writer.finish()
    return open_engine("ffcv", Beton(tmp_path / "j.beton"), CPU)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"\xff\xd8" + bytes(300), lambda b: b"x"])
def test_a_damaged_image_is_named_and_never_a_black_one(tmp_path, damage):
    engine = jpegs(tmp_path, damage)
    with pytest.raises(UserError, match="row 5, sample 105: cannot be decoded"):
        list(engine.batches(Sampler(20, 4), "index"))


def test_an_image_that_merely_draws_a_warning_is_decoded(tmp_path):
    """Bytes too many before a marker, as some of ImageNet's files have: the decoder complains, the image is whole."""
    engine = jpegs(tmp_path, lambda b: b[:-2] + b"\x00\x11\x22" + b[-2:])
    for batch in engine.batches(Sampler(20, 4), "index"):
        expected = (batch.index - 100)[:, None, None, None] * 10
        assert ((batch.images.int() - expected).abs() <= 2).all()


@pytest.mark.parametrize("size", [(40, 40), (24, 40)])
@pytest.mark.parametrize(
    "region", [(0, 0, 90, 70), (3, 5, 40, 60), (11, 0, 7, 9), (0, 69, 90, 1), (89, 0, 1, 70), (5, 5, 40, 40)]
)
def test_resizes_as_torch_does(region, size):
    """Regions that shrink and grow, in one direction or both, at every edge, down to a single row or column."""
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    top, left, height, width = region
    out = np.zeros((*size, 3), np.uint8)
    resize(image, *region, out)
    shown = torch.from_numpy(image[top : top + height, left : left + width]).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(shown, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    assert np.abs(out - expected.numpy()).max() <= 0.502  # rounded to the nearest


def test_numbas_own_setting_is_respected(path, tmp_path):
    run(path, FASTGEN_CACHE=str(tmp_path / "cache"), NUMBA_CACHE_DIR=str(tmp_path / "chosen"))
    assert list((tmp_path / "chosen").rglob("*.kernel")) and not (tmp_path / "cache" / "numba").exists()


def test_a_cache_that_cannot_be_written_does_not_matter(path, tmp_path):
    (tmp_path / "file").write_text("no folder can be made in here")
    assert run(path, FASTGEN_CACHE=str(tmp_path / "file"))["total"] == run(path)["total"]


@pytest.mark.parametrize("why", ["not installed", "not loadable"])
def test_without_ffcv_it_says_what_to_do(path, monkeypatch, why):
    def failing(*arguments):
        raise OSError("libturbojpeg.so.0: cannot open shared object file")

    for name in ("ffcv", "ffcv_kernels"):
        monkeypatch.delitem(sys.modules, f"pipelines.backends.{name}")
        monkeypatch.delattr(pipelines.backends, name)
    if why == "not installed":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setattr(ctypes, "CDLL", failing)
    reason = {"not installed": "no compiled library of FFCV", "not loadable": "libturbojpeg.so.0: cannot open"}[why]
    with pytest.raises(UserError, match=rf"data.backend=ffcv needs ffcv.*\({reason}.*: apt-get .* pip install ffcv"):
        open_engine("ffcv", Beton(path), CPU)


@pytest.fixture
def three_threads(monkeypatch):
    """Tests run beside each other with one core each."""
    monkeypatch.setattr(backend.os, "sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setattr(backend, "_PIECE_BYTES", 1)


@pytest.mark.parametrize("view", [None, View(ViewSpec(0.875, random="area"), 24, 0, 0)])
def test_threads_share_a_batch(tmp_path, view, three_threads):
    """Whoever decodes an image, in whatever order, with memory of its own."""
    random = np.random.default_rng(0)
    with Writer(tmp_path / "t.beton", 50, {"index": np.arange(50), "clean_label": np.zeros(50, int)}) as writer:
        for _ in range(50):
            height, width = (40, 40) if view is None else random.integers(30, 90, 2)
            pixels = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
            out = io.BytesIO()
            Image.fromarray(pixels).resize((int(width), int(height))).save(out, "JPEG")
            writer.append(out.getvalue(), JPEG, int(width), int(height))
        writer.finish()
    beton, found = Beton(tmp_path / "t.beton"), {}
    threads = set()
    for count in (1, 3):
        engine = open_engine("ffcv", beton, CPU, threads=count)
        kernel_name = "decode_fixed_kernel" if view is None else "decode_regions_kernel"
        kernel = getattr(backend.ffcv_kernels, kernel_name)

        def decode(*arguments, kernel=kernel):
            threads.add(threading.current_thread())
            time.sleep(0.001)  # long enough for all to take part
            kernel(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend.ffcv_kernels, kernel_name, decode)
            found[count] = list(engine.batches(Sampler(50, 20, shuffle=False), "index", view))
    assert len(threads) == 4  # one, and three
    streams = [engine.batches(Sampler(50, 20, shuffle=False), "index", view) for _ in range(2)]
    for alone, *both in zip(found[1], *streams, strict=True):  # and several streams the threads
        assert all(torch.equal(alone.images, batch.images) for batch in both)
    assert [len(batch.images) for batch in found[1]] == [20, 20, 10]
    for alone, together in zip(found[1], found[3], strict=True):
        assert torch.equal(alone.images, together.images) and torch.equal(alone.index, together.index)
        assert alone.images.float().std() > 10


def test_a_failure_in_a_thread_is_raised_at_its_batch(path, monkeypatch, three_threads):
    engine = open_engine("ffcv", Beton(path), CPU)
    kernel, batch_eight = backend.ffcv_kernels.decode_fixed_kernel, Sampler(64, 4).batches()[8]

    def failing(rows, *arguments):
        if batch_eight[-1] in rows:
            raise OSError("the disk is gone")
        kernel(rows, *arguments)

    received = []
    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is gone"):
        patch.setattr(backend.ffcv_kernels, "decode_fixed_kernel", failing)
        for batch in engine.batches(Sampler(64, 4), "index"):
            received.append(batch)
    assert len(received) == 8
    assert len(list(engine.batches(Sampler(64, 4), "index"))) == 16


def test_leaving_early_decodes_nothing_more(path, monkeypatch):
    engine = open_engine("ffcv", Beton(path), CPU)
    decoded = []
    kernel = backend.ffcv_kernels.decode_fixed_kernel
    counted = lambda rows, *rest: decoded.append(len(rows)) or kernel(rows, *rest)  # noqa: E731
    monkeypatch.setattr(backend.ffcv_kernels, "decode_fixed_kernel", counted)
    batches = engine.batches(Sampler(64, 1), "index")
    next(batches)
    batches.close()
    left = len(decoded)
    assert left < 10  # of 64: what it was ahead, and not the rest of the epoch
    assert sum(1 for _ in engine.batches(Sampler(64, 1), "index")) == 64
    assert len(decoded) == left + 64  # nothing went on
