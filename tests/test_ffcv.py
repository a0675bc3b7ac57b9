"""What is special about FFCV: kernels cached across processes, and failures that do not hang."""

import io
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from plain_ffcv import KEPT

pytest.importorskip("ffcv")

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
started = numbas_threads._is_initialized
print(json.dumps({"total": total, "hits": hits, "misses": misses, "numbas_threads": started}))
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


def run(path, **environment):
    clean = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", CHECKSUM, str(path)]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_second_process_finds_the_kernels(path, tmp_path):
    first = run(path, FASTGEN_CACHE=str(tmp_path / "cache"))
    second = run(path, FASTGEN_CACHE=str(tmp_path / "cache"))
    assert (first["hits"], first["misses"]) == (0, 1)
    assert (second["hits"], second["misses"]) == (1, 0)
    assert first["total"] == second["total"]
    assert not first["numbas_threads"]  # they would slow PyTorch's down
    assert list((tmp_path / "cache" / "numba").rglob("*.kernel"))


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b[:2000] + bytes(5000) + b[7000:], lambda b: b""])
def test_a_damaged_kernel_is_compiled_again(path, tmp_path, damage):
    first = run(path, FASTGEN_CACHE=str(tmp_path / "cache"))
    (kernel,) = (tmp_path / "cache" / "numba").rglob("*.kernel")
    kernel.write_bytes(damage(kernel.read_bytes()))
    again = run(path, FASTGEN_CACHE=str(tmp_path / "cache"))
    assert (again["hits"], again["misses"], again["total"]) == (0, 1, first["total"])


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


def test_a_failure_in_the_reader_is_raised_and_not_waited_for(path, monkeypatch):
    engine = open_engine("ffcv", Beton(path), CPU)
    calls = []

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return original(self, *arguments)

    original = backend._Reader.run_pipeline
    monkeypatch.setattr(backend._Reader, "run_pipeline", failing)
    received = []
    with pytest.raises(RuntimeError, match="the disk is gone"):
        for batch in engine.batches(Sampler(64, 4), "index"):
            received.append(batch)
    assert len(received) == 2
    monkeypatch.undo()
    assert len(list(engine.batches(Sampler(64, 4), "index"))) == 16


@pytest.fixture
def three_threads(monkeypatch):
    """Tests run beside each other with one core each."""
    monkeypatch.setattr(backend.os, "sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setattr(backend, "_LITTLE", 0)


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
            threads.add(threading.current_thread().name)
            time.sleep(0.001)  # long enough for all to take part
            kernel(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend.ffcv_kernels, kernel_name, decode)
            found[count] = list(engine.batches(Sampler(50, 20, shuffle=False), "index", view))
    assert len(threads) == 4  # two readers and two helpers
    streams = [engine.batches(Sampler(50, 20, shuffle=False), "index", view) for _ in range(2)]
    for alone, *both in zip(found[1], *streams, strict=True):  # and several streams the helpers
        assert all(torch.equal(alone.images, batch.images) for batch in both)
    assert [len(batch.images) for batch in found[1]] == [20, 20, 10]
    for alone, together in zip(found[1], found[3], strict=True):
        assert torch.equal(alone.images, together.images) and torch.equal(alone.index, together.index)
        assert alone.images.float().std() > 10


def test_a_failure_in_a_helper_is_raised(path, monkeypatch, three_threads):
    kernel = backend.ffcv_kernels.decode_fixed_kernel

    def failing(*arguments):
        if isinstance(threading.current_thread(), backend._Reader):
            time.sleep(0.01)
            return kernel(*arguments)
        raise OSError("the disk is gone")

    monkeypatch.setattr(backend.ffcv_kernels, "decode_fixed_kernel", failing)
    engine = open_engine("ffcv", Beton(path), CPU)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(engine.batches(Sampler(64, 32), "index"))


def test_leaving_early_decodes_nothing_more(path, monkeypatch):
    engine = open_engine("ffcv", Beton(path), CPU)
    decoded = []
    kernel = backend.ffcv_kernels.decode_fixed_kernel
    counted = lambda first, stop, *rest: decoded.append(stop - first) or kernel(first, stop, *rest)  # noqa: E731
    monkeypatch.setattr(backend.ffcv_kernels, "decode_fixed_kernel", counted)
    batches = engine.batches(Sampler(64, 1), "index")
    next(batches)
    batches.close()
    assert len(decoded) < 10  # of 64: what it was ahead, and not the rest of the epoch
    assert sum(1 for _ in engine.batches(Sampler(64, 1), "index")) == 64


def test_other_users_of_ffcv_are_not_disturbed(path):
    """After our import FFCV's own decoders still compile and work."""
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader
    from ffcv.pipeline.compiler import Compiler

    open_engine("ffcv", Beton(path), CPU)
    assert Compiler.is_enabled
    pipelines = {"image": [SimpleRGBImageDecoder()], "index": [IntDecoder()], "clean_label": None}
    plain = Loader(str(path), batch_size=8, num_workers=1, pipelines=pipelines)
    KEPT.append(plain)
    index = np.concatenate([i[:, 0].copy() for _, i in plain])
    assert index.tolist() == list(range(64))
