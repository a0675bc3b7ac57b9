"""All backends give the same samples with the same labels, exactly once, and keep nothing of what they gave."""

import io
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from whole_runs import importorskip_backend

from pipelines.backends import BACKENDS, DaliSpec, open_engine
from pipelines.baked.bake import bake
from pipelines.baked.beton import JPEG, RAW, Beton
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.writer import Writer
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sampler import Sampler
from pipelines.sources import SourceSpec
from pipelines.view.regions import View, ViewSpec

N, SIDE, CPU = 203, 24, torch.device("cpu")
RNG = np.random.default_rng(0)
# Smooth, so that two JPEG decoders differ by rounding alone.
SMOOTH = np.stack(
    [
        np.asarray(Image.fromarray(RNG.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((SIDE, SIDE), 3))
        for _ in range(N)
    ]
)
COLUMNS = {
    "clean_label": RNG.integers(0, 10, N), "index": RNG.permutation(N),
    "one": RNG.integers(0, 10, N), "two": RNG.integers(0, 10, N),
}  # fmt: skip


@pytest.fixture(params=tuple(BACKENDS))
def backend(request):
    importorskip_backend(request.param)
    return request.param


@pytest.fixture(scope="module")
def betons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("betons")
    with Writer(folder / "raw.beton", N, COLUMNS, 1 << 14) as writer:
        for image in SMOOTH:
            writer.append(image, RAW, SIDE, SIDE)
        writer.finish()
    with Writer(folder / "jpeg.beton", N, COLUMNS, 1 << 14) as writer:
        for image in SMOOTH:
            out = io.BytesIO()
            Image.fromarray(image).save(out, "JPEG", quality=95, subsampling=0)
            writer.append(out.getvalue(), JPEG, SIDE, SIDE)
        writer.finish()
    return {kind: Beton(folder / f"{kind}.beton") for kind in ("raw", "jpeg")}


def test_there_are_backends():
    assert set(BACKENDS) == {"resident", "ffcv", "dali"}


def check(batch, kind="raw", label="one", channels=3):
    """Every image and label of a batch belongs to its index."""
    assert batch.images.dtype == torch.uint8 and batch.images.is_contiguous(memory_format=torch.channels_last)
    assert all(t.dtype == torch.int64 for t in (batch.label, batch.clean_label, batch.index))
    rows = np.argsort(COLUMNS["index"])[batch.index.numpy()]
    assert np.array_equal(batch.label.numpy(), COLUMNS[label][rows])
    assert np.array_equal(batch.clean_label.numpy(), COLUMNS["clean_label"][rows])
    images = batch.images.permute(0, 2, 3, 1).numpy().astype(int)
    assert images.shape == (len(rows), SIDE, SIDE, channels)
    difference = np.abs(images - SMOOTH[rows][..., :channels])
    assert difference.max() == 0 if kind == "raw" else (difference.mean() < 2 and difference.max() < 25)


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("rows", [None, np.arange(1, N, 3)], ids=["all", "some"])
def test_every_sample_once_with_its_own_image_and_labels(backend, betons, kind, shuffle, world_size, rows):
    engine, seen, n = open_engine(backend, betons[kind], CPU), [], N if rows is None else len(rows)
    for rank in range(world_size):
        for batch in engine.batches(Sampler(n, 24, 1, shuffle, rank, world_size, rows=rows), "one"):
            check(batch, kind)
            seen += batch.index.tolist()
    assert len(seen) == len(set(seen)) == (n // 24 * 24 if shuffle else n)
    assert rows is None or set(seen) <= set(COLUMNS["index"][rows].tolist())


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_backends_agree(backend, betons, kind):
    ours, reference = (open_engine(name, betons[kind], CPU) for name in (backend, "resident"))
    sampler = Sampler(N, 32, seed=5, epoch=2)
    for a, b in zip(ours.batches(sampler, "two"), reference.batches(sampler, "two"), strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.label, b.label)
        assert torch.equal(a.clean_label, b.clean_label)
        difference = (a.images.int() - b.images.int()).abs().float()
        # Two builds of libjpeg-turbo may round the inverse transform differently (FFCV asks for the fast one).
        assert difference.max() == 0 if kind == "raw" else difference.mean() < 1.5


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_batches_belong_to_the_receiver(backend, betons, kind):
    """Who may keep them, and write into them: neither the engine nor another batch has the same memory."""
    engine = open_engine(backend, betons[kind], CPU)
    kept = list(engine.batches(Sampler(N, 10), "one"))
    for _ in range(2):
        for batch in engine.batches(Sampler(N, 10, epoch=1), "one"):
            check(batch, kind)
            batch.images.zero_()
    for batch in kept:
        check(batch, kind)
        batch.images.zero_()


def test_resume_from_every_offset(backend, betons):
    engine = open_engine(backend, betons["raw"], CPU)
    whole = [b.index.tolist() for b in engine.batches(Sampler(N, 50, seed=3), "one")]
    for step in range(len(whole) + 1):
        tail = [b.index.tolist() for b in engine.batches(Sampler(N, 50, seed=3, offset=50 * step), "one")]
        assert tail == whole[step:]


def test_streams_interleave(backend, betons):
    """Training goes on while an evaluation with another batch size and label runs."""
    engine = open_engine(backend, betons["raw"], CPU)
    training = engine.batches(Sampler(N, 20), "one")
    evaluation = engine.batches(Sampler(N, 33, shuffle=False), "two")
    seen = 0
    for batch in training:
        check(batch)
        other = next(evaluation, None)
        if other is not None:
            check(other, label="two")
            seen += len(other.index)
    assert seen == N


def test_leaving_early_frees_the_threads(backend, betons):
    engine = open_engine(backend, betons["raw"], CPU)
    list(engine.batches(Sampler(N, 2), "one"))
    before = threading.active_count()
    for taken in (1, 3, 90, 99):  # also near the end, when the reader wants to say that it is done
        stream = engine.batches(Sampler(N, 2), "one")
        for _ in range(taken):
            check(next(stream))
        stream.close()
        assert threading.active_count() == before
    assert len(list(engine.batches(Sampler(N, 2), "one"))) == N // 2


def test_a_last_batch_of_one(backend, betons):
    engine = open_engine(backend, betons["raw"], CPU)
    last = list(engine.batches(Sampler(N, 101, shuffle=False), "one"))[-1]
    assert last.label.shape == (1,) and last.images.shape == (1, 3, SIDE, SIDE)
    check(last)


def test_an_epoch_with_nothing_left(backend, betons):
    engine = open_engine(backend, betons["raw"], CPU)
    assert list(engine.batches(Sampler(N, 100, offset=200), "one")) == []


def test_one_channel(backend, betons):
    for batch in open_engine(backend, betons["raw"], CPU, channels=1).batches(Sampler(N, 50), "one"):
        check(batch, channels=1)


def test_nobody_elses_settings_change(backend, betons):
    threads = torch.get_num_threads()
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    list(open_engine(backend, betons["raw"], CPU, threads=1).batches(Sampler(N, 50), "one"))
    assert torch.get_num_threads() == threads
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_more_threads_than_cores(backend, betons):
    assert len(list(open_engine(backend, betons["raw"], CPU, threads=500).batches(Sampler(N, 50), "one"))) == 4


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Raw images of 40 different sizes."""
    path = tmp_path_factory.mktemp("mixed") / "mixed.beton"
    columns = {name: values[:40] for name, values in COLUMNS.items()} | {"index": np.arange(40)}
    with Writer(path, 40, columns, 1 << 16) as writer:
        for i in range(40):
            image = Image.fromarray(SMOOTH[i]).resize((50 + i, 90 - i), Image.Resampling.BICUBIC)
            writer.append(np.asarray(image), RAW, 50 + i, 90 - i)
        writer.finish()
    return Beton(path)


def test_images_of_different_sizes_need_a_view(backend, mixed):
    with pytest.raises(UserError, match="differ in size; resize them to one: data.view.fraction"):
        next(open_engine(backend, mixed, CPU).batches(Sampler(40, 10), "one"))


VIEWS = {
    "central": View(ViewSpec(fraction=0.875), 32),
    "squeezed": View(ViewSpec(fraction=0.875, square=False), 32),
    "area": View(ViewSpec(fraction=0.875, random="area"), 32, seed=1, epoch=2),
    "tensorflow": View(ViewSpec(fraction=0.875, random="tensorflow", area=[0.05, 1.0]), 32, seed=1, epoch=2),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("world_size", [1, 2])
def test_regions_of_images_of_any_size(backend, mixed, view, world_size):
    """Against Pillow's resizing of the region that the view names."""
    seen, view = [], VIEWS[view]
    for rank in range(world_size):
        engine = open_engine(backend, mixed, CPU)
        for batch in engine.batches(Sampler(40, 7, 1, False, rank, world_size), "one", view):
            assert batch.images.shape[1:] == (3, 32, 32)
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert np.array_equal(batch.label.numpy(), COLUMNS["one"][batch.index.numpy()])
            for index, image in zip(batch.index.tolist(), batch.images.permute(0, 2, 3, 1).numpy(), strict=True):
                whole = mixed.image(index)
                at = np.array([index])
                ((top, left, rows, columns),) = view.regions(at, np.array(whole.shape[:1]), np.array(whole.shape[1:2]))
                shown = Image.fromarray(whole[top : top + rows, left : left + columns])
                expected = np.asarray(shown.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
                # Box or triangle under a pixel, on smooth images. (FFCV's enlarging is stepwise.)
                assert np.abs(image - expected).mean() < 3
            seen += batch.index.tolist()
    assert sorted(seen) == list(range(40))


def test_a_column_that_is_not_there(backend, betons):
    with pytest.raises(UserError, match="no label column 'onne'; did you mean 'one'"):
        next(open_engine(backend, betons["raw"], CPU).batches(Sampler(N, 10), "onne"))


# Mean absolute difference in grey levels to the resident backend (Pillow's exact decoding, then an antialiased bilinear
# resize). All resize alike. DALI differs by rounding: 0.01; FFCV by libjpeg-turbo's fast transform: 0.97.
EXPLAINED = {"resident": 0.0, "dali": 0.05, "ffcv": 1.3}


@pytest.mark.parametrize("view", ["central", "area", "tensorflow"])
def test_real_photographs(backend, view, data_folder, tmp_path_factory, request):
    baked = request.getfixturevalue("photographs")
    view = replace(VIEWS[view], size=160)
    sampler = Sampler(64, 24, 3, shuffle=view.epoch is not None)
    pairs = zip(
        open_engine("resident", baked, CPU).batches(sampler, "label_true", view),
        open_engine(backend, baked, CPU).batches(sampler, "label_true", view),
        strict=True,
    )
    differences = []
    for expected, batch in pairs:
        assert torch.equal(batch.index, expected.index) and torch.equal(batch.label, expected.label)
        differences.append((batch.images.float() - expected.images.float()).abs().mean((1, 2, 3)))
    assert torch.cat(differences).mean() <= EXPLAINED[backend]
    assert torch.cat(differences).max() <= 5 * EXPLAINED[backend]  # no image is another one


@pytest.fixture(scope="module")
def photographs(data_folder, tmp_path_factory):
    source = SourceSpec("imagefolder", str(data_folder / "imagenet_sample"), limit=64)
    spec = BakeSpec(encoding="jpeg", resolution=400)
    return bake(source, LabelSpec(), PixelSpec(), spec, tmp_path_factory.mktemp("photographs")).splits["train"]


def test_a_damaged_photograph_is_named(backend, photographs, tmp_path):
    copy = tmp_path / "damaged.beton"
    data = bytearray(photographs.path.read_bytes())
    row = 5
    begin, size = int(photographs.ptr[row]), int(photographs.sizes[row])
    data[begin + 100 : begin + size] = bytes(size - 100)
    copy.write_bytes(data)
    with pytest.raises(UserError, match=f"row 5, sample {photographs.columns['index'][5]}: cannot be decoded"):
        engine = open_engine(backend, Beton(copy), CPU)
        list(engine.batches(Sampler(64, 16, shuffle=False), "label_true", VIEWS["central"]))


def test_dali_is_told_how_to_decode_on_a_gpu(tmp_path):
    """DALI itself checks the names and types of these arguments when its graph is built, which needs no GPU."""
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import Pipeline, fn

    from pipelines.backends.dali import decoder_arguments

    told = decoder_arguments(torch.device("cuda"), DaliSpec(0.25, 500, 400))
    assert told == {
        "device": "mixed",
        "hw_decoder_load": 0.25,
        "preallocate_width_hint": 500,
        "preallocate_height_hint": 400,
        "jpeg_fancy_upsampling": True,
    }
    assert decoder_arguments(CPU, DaliSpec()) == {"device": "cpu"}
    with Pipeline(batch_size=1, num_threads=1, device_id=None):
        files = fn.external_source(source=lambda: [], num_outputs=1, batch=True)
        fn.decoders.image_slice(*files, **told)
        with pytest.raises(KeyError, match="not defined for operator"):
            fn.decoders.image_slice(*files, **told, chroma=True)


@pytest.mark.parametrize("load", [0.0, 1.0])
def test_dali_takes_its_keys(betons, load):
    pytest.importorskip("nvidia.dali")
    engine = open_engine("dali", betons["jpeg"], CPU, own=DaliSpec(load))
    assert sum(len(batch.index) for batch in engine.batches(Sampler(N, 50), "one")) == N // 50 * 50


def test_unknown_backend(betons):
    with pytest.raises(UserError, match="did you mean 'ffcv'"):
        open_engine("fcv", betons["raw"], CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_on_the_gpu(backend, betons, kind):
    engine = open_engine(backend, betons[kind], torch.device("cuda"))
    kept = list(engine.batches(Sampler(N, 10), "one"))
    for batch in engine.batches(Sampler(N, 10, epoch=1), "one"):
        batch.images.zero_()
    for batch in kept:
        assert batch.images.device.type == "cuda" and batch.images.is_contiguous(memory_format=torch.channels_last)
        check(type(batch)(*(getattr(batch, name).cpu() for name in ("images", "label", "clean_label", "index"))), kind)


@pytest.mark.gpu
@pytest.mark.parametrize("view", VIEWS)
def test_photographs_on_the_gpu(backend, view, photographs):
    """Decoded by NVIDIA's decoder, resized on the GPU: against Pillow's decoder on the CPU."""
    view, kept = replace(VIEWS[view], size=160), {}
    for device in ("cpu", "cuda"):
        engine = open_engine("resident" if device == "cpu" else backend, photographs, torch.device(device))
        kept[device] = list(engine.batches(Sampler(64, 24, 3, shuffle=view.epoch is not None), "label_true", view))
    differences = []
    for expected, batch in zip(kept["cpu"], kept["cuda"], strict=True):
        assert torch.equal(batch.index.cpu(), expected.index) and torch.equal(batch.label.cpu(), expected.label)
        differences.append((batch.images.cpu().float() - expected.images.float()).abs().mean((1, 2, 3)))
    assert torch.cat(differences).mean() <= 2 and torch.cat(differences).max() <= 10
