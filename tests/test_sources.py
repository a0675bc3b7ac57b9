"""Every source in every layout: counts, determinism, damage, and the errors that name the remedy."""

import gzip
import io
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import real
from PIL import Image

from fastgen.recipe.load import load
from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.verify import recompute
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SOURCES, SourceSpec, SyntheticSpec, open_source
from pipelines.sources.holdout import held_out

RNG = np.random.default_rng(0)
TINY = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def cifar10_torchvision(root):
    """Files as torchvision unpacks them, with 12 images a batch; its checksums are not asked for here."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i, name in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]):
        flat = (TINY.transpose(0, 3, 1, 2).reshape(12, -1) // (i + 1)).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": flat, "labels": [j % 10 for j in range(12)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["x"] * 10}))
    return root


def mnist_torchvision(root):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, n in (("train", 12), ("t10k", 5)):
        images = struct.pack(">IIII", 2051, n, 28, 28) + TINY[:n, :28, :28, 0].tobytes()
        labels = struct.pack(">II", 2049, n) + bytes(range(n))[:n]
        labels = labels[:8] + bytes(i % 10 for i in range(n))
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
        (raw / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return root


def hub_parquet(root, image="img", groups=5):
    root.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", 12), ("test", 5)):
        cells = [{"bytes": png(TINY[i]), "path": f"{i}.png"} for i in range(n)]
        table = pa.table({image: cells, "label": [i % 10 for i in range(n)]})
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet", row_group_size=groups)
    return root


def imagefolder(root):
    for i in range(12):
        folder = root / ("train" if i < 8 else "val") / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02d}.png").write_bytes(png(TINY[i]))
    return root


def imagenet(root):
    for i in range(12):
        folder = root / ("train" if i < 8 else "val") / f"n0000000{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02d}.JPEG").write_bytes(png(TINY[i], "JPEG"))
    return root


MAKERS = {
    "cifar10": [cifar10_torchvision, hub_parquet],
    "mnist": [mnist_torchvision, hub_parquet],
    "imagenet": [imagenet, hub_parquet],
    "imagefolder": [imagefolder],
    "parquet": [hub_parquet],
}
CASES = [(source, make) for source in SOURCES for make in MAKERS.get(source, [None])]


@pytest.mark.parametrize("name, make", CASES)
def test_every_source(name, make, tmp_path, monkeypatch):
    # torchvision compares CIFAR-10's files with its checksums; ours are small
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a, **k: True)
    root = str(make(tmp_path / "set")) if make else None
    spec = SourceSpec(name, root)
    fingerprints = set()
    for split in ("train", "val"):
        source = open_source(spec, split)
        assert source is not None and len(source) > 0
        again = open_source(spec, split)
        assert again.fingerprint == source.fingerprint
        fingerprints.add(source.fingerprint)
        assert source.labels.dtype == np.int64 and source.labels.max() < source.num_classes
        for index in (0, len(source) - 1, 1):  # any order
            image = source.image(index)
            assert image.dtype == np.uint8 and image.shape[2] == 3
            assert np.array_equal(image, again.image(index))
            assert source.sample_name(index)
        if source.channels == 1 and name != "mnist":
            assert (image == image[:, :, :1]).all()
    assert len(fingerprints) == 2
    limited = open_source(SourceSpec(name, root, limit=3, limit_test=2), "train")
    assert len(limited) == 3 and np.array_equal(limited.image(2), open_source(spec, "train").image(2))
    with pytest.raises(UserError, match="data.limit=99999 is out of range"):
        open_source(SourceSpec(name, root, limit=99999), "train")


def test_values_come_through(tmp_path):
    source = open_source(SourceSpec("parquet", str(hub_parquet(tmp_path))), "train")
    assert all(np.array_equal(source.image(i), TINY[i]) for i in range(12))
    assert "row 7" in source.sample_name(7)


def test_found_under_fastgen_data(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path))
    hub_parquet(tmp_path / "cifar10")
    assert len(open_source(SourceSpec("cifar10"), "val")) == 5


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_downloaded_by_torchvision_when_nowhere_found(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path))
    asked = []

    def download(self, root, train, download):
        asked.append((root, train, download))
        raise RuntimeError("no network in this test")

    monkeypatch.setattr(f"torchvision.datasets.{name.upper()}.__init__", download)
    with pytest.raises(UserError, match="no network in this test"):
        open_source(SourceSpec(name), "train")
    assert asked == [(str(tmp_path / name), True, True)]


INCOMPLETE = {  # name: (set, maker, file below the folder, what becomes of it, words)
    "CIFAR-10 without a batch": (
        "cifar10",
        cifar10_torchvision,
        "data_batch_3",
        lambda b: None,
        "not found or corrupted",
    ),
    "CIFAR-10 without its classes": ("cifar10", cifar10_torchvision, "batches.meta", lambda b: None, "corrupted"),
    "CIFAR-10 cut off": ("cifar10", cifar10_torchvision, "data_batch_3", lambda b: b[:99], "corrupted"),
    "MNIST without labels": ("mnist", mnist_torchvision, "train-labels-idx1-ubyte", lambda b: None, "not found"),
    "MNIST cut off": ("mnist", mnist_torchvision, "train-images-idx3-ubyte", lambda b: b[:99], ""),
    "MNIST without bytes": ("mnist", mnist_torchvision, "train-images-idx3-ubyte", lambda b: b"", ""),
    "MNIST with labels of its test": (
        "mnist",
        mnist_torchvision,
        "train-labels-idx1-ubyte",
        lambda b: struct.pack(">II", 2049, 5) + b[8:13],
        "12 images and 5 labels",
    ),
    "MNIST with a label 77": (
        "mnist",
        mnist_torchvision,
        "train-labels-idx1-ubyte",
        lambda b: b[:-1] + b"M",
        "not in 0..9",
    ),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_an_incomplete_set_names_its_folder_and_parquet_beside_it_is_read(case, tmp_path, monkeypatch):
    name, make, file, change, words = INCOMPLETE[case]
    if "CIFAR" in case:  # its checksums are those of the real files
        whole = {path.name: path.read_bytes() for path in (make(tmp_path / "whole") / "cifar-10-batches-py").iterdir()}
        monkeypatch.setattr(
            "torchvision.datasets.cifar.check_integrity",
            lambda path, md5: Path(path).is_file() and Path(path).read_bytes() == whole[Path(path).name],
        )
    (path,) = make(tmp_path / "set").rglob(file)
    changed = change(path.read_bytes())
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
    spec = SourceSpec(name, str(tmp_path / "set"))
    with pytest.raises(
        UserError, match=f"{path.parent} is no whole copy of {name}'s train split .*{words}.*complete it"
    ):
        open_source(spec, "train")
    hub_parquet(tmp_path / "set")
    with pytest.warns(UserWarning, match=f"{path.parent} is no whole copy.*Parquet files beside it are read instead"):
        source = open_source(spec, "train")
    assert len(source) == 12 and np.array_equal(source.image(3), TINY[3])


def test_imagefolder_without_splits(tmp_path):
    root = imagefolder(tmp_path) / "train"
    assert len(open_source(SourceSpec("imagefolder", str(root)), "train")) == 8
    assert open_source(SourceSpec("imagefolder", str(root)), "val") is None


def test_changed_data_changes_the_fingerprint(tmp_path):
    spec = SourceSpec("imagefolder", str(imagefolder(tmp_path)))
    before = open_source(spec, "train").fingerprint
    (tmp_path / "train" / "class0" / "00.png").write_bytes(png(TINY[5]))
    assert open_source(spec, "train").fingerprint != before


@pytest.mark.parametrize("name", ["imagefolder", "parquet"])
def test_missing_root(name, tmp_path):
    with pytest.raises(UserError, match="needs data.root"):
        open_source(SourceSpec(name), "train")
    with pytest.raises(UserError, match="does not exist"):
        open_source(SourceSpec(name, str(tmp_path / "nowhere")), "train")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "header"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_image_is_named(tmp_path, damage, kind):
    good = png(TINY[0], kind)
    bad = {"truncated": good[: len(good) // 2], "empty": b"", "text": b"not an image", "header": b"x" * 20 + good[20:]}
    folder = tmp_path / "class0"
    folder.mkdir()
    (folder / "broken.jpg").write_bytes(bad[damage])
    with pytest.raises(UserError, match="broken.jpg: cannot be decoded"):
        open_source(SourceSpec("imagefolder", str(tmp_path)), "train").image(0)


@pytest.mark.parametrize("size, jpeg", [(1, False), (7, False), (33, True)])
def test_synthetic_sizes(size, jpeg):
    source = open_source(SourceSpec("synthetic", synthetic=SyntheticSpec(20, 5, size, 3, 3, jpeg)), "train")
    assert source.image(19).shape == (size, size, 3)
    assert isinstance(source.read(0), bytes) == jpeg


def test_real_cifar10(data_folder):
    source = open_source(SourceSpec("cifar10", str(real(data_folder, "cifar10"))), "train")
    assert len(source) == 50_000 and np.bincount(source.labels).tolist() == [5000] * 10
    images = np.stack([source.image(i) for i in range(0, 50_000, 25)]) / 255
    assert np.allclose(images.mean((0, 1, 2)), (0.4914, 0.4822, 0.4465), atol=0.01)


def test_real_mnist(data_folder):
    source = open_source(SourceSpec("mnist", str(real(data_folder, "mnist"))), "train")
    assert len(source) == 60_000 and source.channels == 1 and source.image(0).shape == (28, 28, 3)


def test_real_photographs(data_folder):
    source = open_source(SourceSpec("imagefolder", str(real(data_folder, "imagenet_sample"))), "train")
    assert len(source) == source.num_classes == 250
    assert source.image(0).ndim == 3


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_download_that_fails_says_what_to_do(name, tmp_path, monkeypatch):
    def download(self, root, train, download):
        raise URLError("no network")

    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path))
    monkeypatch.setattr(f"torchvision.datasets.{name.upper()}.__init__", download)
    with pytest.raises(UserError, match=f"{name} was not found below .* set FASTGEN_DATA or data.root"):
        open_source(SourceSpec(name), "train")


# ---------------------------------------------------------------- data.holdout


@pytest.mark.parametrize("name, make", CASES)
def test_every_source_can_hold_samples_out(name, make, tmp_path, monkeypatch):
    """Twelve or more samples: each is in one part, with its own image and label, and so it is in every process."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a, **k: True)
    root = str(make(tmp_path / "set")) if make else None
    whole = open_source(SourceSpec(name, root, synthetic=SyntheticSpec(samples=40, test_samples=0)), "train")
    spec = SourceSpec(name, root, holdout=0.4, synthetic=SyntheticSpec(samples=40, test_samples=0))
    if (np.bincount(whole.labels) == 1).any():
        with pytest.raises(UserError, match="data.holdout=0.4 takes samples of each class and leaves some, and .* one"):
            open_source(spec, "val")
        return
    parts = [open_source(spec, split) for split in ("train", "val")]
    assert sorted(np.concatenate([part.positions for part in parts])) == list(range(len(whole)))
    for part in parts:
        assert np.array_equal(part.labels, whole.labels[part.positions]) and part.class_names == whole.class_names
        assert np.array_equal(part.image(len(part) - 1), whole.image(int(part.positions[-1])))
        assert part.sample_name(0) == whole.sample_name(int(part.positions[0])) and part.total == len(whole)
    assert len({source.fingerprint for source in (whole, *parts)}) == 3
    assert open_source(spec, "val").fingerprint == parts[1].fingerprint


@pytest.mark.parametrize(
    ("counts", "fraction", "held"),
    [
        ([100, 50, 10], 0.1, [10, 5, 1]),
        ([5, 14, 15], 0.1, [1, 1, 2]),  # halves up, and one at least
        ([2, 3], 0.99, [1, 2]),  # and never all
        ([0, 4], 0.25, [0, 1]),
    ],
)
def test_each_class_gives_its_part(counts, fraction, held):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    masks = [held_out(labels, fraction, seed) for seed in (0, 1, 0)]
    assert all(np.bincount(labels[mask], minlength=len(counts)).tolist() == held for mask in masks)
    assert np.array_equal(masks[0], masks[2]) and not np.array_equal(masks[0], masks[1])
    assert np.flatnonzero(held_out(np.zeros(10, int), 0.2, 0)).tolist() == [2, 7]  # these two for ever


def test_what_is_held_out_belongs_to_the_set(tmp_path):
    """Another fraction or seed is another set; no fraction is the set that it always was."""
    spec = SourceSpec("digits", limit=50, limit_test=10)
    held = [replace(spec, holdout=0.2), replace(spec, holdout=0.2, holdout_seed=3), replace(spec, holdout=0.3)]
    baked = [bake(each, LabelSpec(), PixelSpec(), BakeSpec(), tmp_path) for each in (spec, *held)]
    assert len({each.path for each in baked}) == 4
    assert "holdout" not in baked[0].manifest.specification["source"]
    assert baked[2].manifest.specification["source"]["holdout_seed"] == 3
    assert bake(replace(spec, holdout_seed=9), LabelSpec(), PixelSpec(), BakeSpec(), tmp_path).path == baked[0].path
    for each in baked:
        assert [line.rpartition("; ")[2] for line in recompute(each)] == [
            "true labels and 50 images as in the source", "true labels and 10 images as in the source"
        ]  # fmt: skip


def test_a_held_out_part_is_told(tmp_path):
    said = []
    bake(SourceSpec("digits", holdout=0.1), LabelSpec(), PixelSpec(), BakeSpec(), tmp_path, said.append)
    assert "145 of 1,437 training samples are held out as the test split" in said


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5])
def test_a_fraction_that_cannot_be(fraction):
    with pytest.raises(UserError, match=f"data.holdout={fraction} must be"):
        open_source(SourceSpec("digits", holdout=fraction), "train")
    with pytest.raises(UserError, match=f"data.holdout={fraction} must be at least 0 and below 1"):
        load("quickstart", [f"data.holdout={fraction}"])
