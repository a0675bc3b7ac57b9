"""Every source in every layout: counts, determinism, damage, and the errors that name the remedy."""

import gzip
import hashlib
import io
import json
import pickle
import shutil
import struct
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torchvision
from conftest import real
from PIL import Image

from fastgen.recipe.load import load
from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.verify import recompute
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SOURCES, SourceSpec, SyntheticSpec, cifar100, found_here, open_source
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


def cifar100_torchvision(root):
    """Each image's superclass is a fifth of its class."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, n in (("train", 12), ("test", 5)):
        flat = TINY[:n].transpose(0, 3, 1, 2).reshape(n, -1)
        labels = {"fine_labels": [9 * i for i in range(n)], "coarse_labels": [9 * i // 5 for i in range(n)]}
        (folder / name).write_bytes(pickle.dumps({"data": flat, **labels}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["x"] * 100}))
    return root


def svhn_torchvision(root):
    """As published: the digit 0 is written 10, and images are the last axis."""
    root.mkdir(parents=True)
    for name, n in (("train", 12), ("test", 5)):
        labels = np.array([[i % 10 or 10] for i in range(n)], np.uint8)
        scipy.io.savemat(root / f"{name}_32x32.mat", {"X": TINY[:n].transpose(1, 2, 3, 0), "y": labels})
    return root


def fashion_mnist_torchvision(root):
    return mnist_torchvision(root, "FashionMNIST")


def mnist_torchvision(root, name="MNIST"):
    raw = root / name / "raw"
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


def hub_cifar100(root):
    """As the Hub has it, with its own spelling of a crab."""
    known = {"fine_label": cifar100._FINE, "coarse_label": cifar100._COARSE}
    names = {column: ["cra" if name == "crab" else name for name in classes] for column, classes in known.items()}
    features = {column: {"names": found, "_type": "ClassLabel"} for column, found in names.items()}
    root.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", 12), ("test", 5)):
        fine = [26, *range(1, n)]
        table = pa.table({
            "img": [{"bytes": png(TINY[i]), "path": None} for i in range(n)],
            "fine_label": fine, "coarse_label": [label // 5 for label in fine],
        })  # fmt: skip
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet")
    return root


def hub_svhn(root):
    """With the further split that the Hub has beside the two."""
    hub_parquet(root, "image")
    (root / "extra-00000-of-00002.parquet").write_bytes(b"never read")
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
    "cifar100": [cifar100_torchvision, hub_cifar100],
    "cifar100_coarse": [cifar100_torchvision, hub_cifar100],
    "svhn": [svhn_torchvision, hub_svhn],
    "mnist": [mnist_torchvision, hub_parquet],
    "fashion_mnist": [fashion_mnist_torchvision, hub_parquet],
    "imagenet": [imagenet, hub_parquet],
    "imagefolder": [imagefolder],
    "parquet": [hub_parquet],
}
CASES = [(source, make) for source in SOURCES for make in MAKERS.get(source, [None])]


def no_checksums(monkeypatch):
    """torchvision compares files of CIFAR and SVHN with its checksums; ours are small."""
    for module in ("cifar", "svhn"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *a, **k: True)


@pytest.mark.parametrize("name, make", CASES)
def test_every_source(name, make, tmp_path, monkeypatch):
    no_checksums(monkeypatch)
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
        if source.channels == 1 and "mnist" not in name:
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


VALUES = {  # (source, maker): the labels of the training images 0, 1 and 11, and the names of their classes
    ("cifar100", cifar100_torchvision): ([0, 9, 99], ["apple", "bottle", "worm"]),
    ("cifar100", hub_cifar100): ([26, 1, 11], ["crab", "aquarium_fish", "boy"]),
    ("cifar100_coarse", cifar100_torchvision): ([0, 1, 19], ["aquatic_mammals", "fish", "vehicles_2"]),
    ("cifar100_coarse", hub_cifar100): ([5, 0, 2], ["household_electrical_devices", "aquatic_mammals", "flowers"]),
    ("svhn", svhn_torchvision): ([0, 1, 1], ["0", "1", "1"]),
    ("svhn", hub_svhn): ([0, 1, 1], ["0", "1", "1"]),
    ("fashion_mnist", fashion_mnist_torchvision): ([0, 1, 1], ["T-shirt/top", "Trouser", "Trouser"]),
}


@pytest.mark.parametrize("name, make", VALUES)
def test_labels_and_pixels_of_well_known_sets(name, make, tmp_path, monkeypatch):
    no_checksums(monkeypatch)
    source = open_source(SourceSpec(name, str(make(tmp_path / "set"))), "train")
    labels, names = VALUES[name, make]
    assert source.labels[[0, 1, 11]].tolist() == labels
    assert [source.class_names[label] for label in labels] == names
    expected = np.repeat(TINY[11, :28, :28, :1], 3, axis=2) if name == "fashion_mnist" else TINY[11]
    assert np.array_equal(source.image(11), expected)


def test_the_hubs_spelling_of_a_shirt(tmp_path):
    metadata = {"info": {"features": {"label": {"names": ["Trouser", "T - shirt / top"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [png(TINY[0]), png(TINY[1])], "label": [0, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, tmp_path / "train.parquet")
    assert open_source(SourceSpec("fashion_mnist", str(tmp_path)), "train").labels.tolist() == [1, 0]


@pytest.fixture
def server(tmp_path):
    """Serves the files of a folder on this machine: the folder, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


def publish(name, made, folder, address, monkeypatch):
    """Let torchvision download the files of `made` from `folder`, with the checksums of what they hold."""

    def md5(path):
        return hashlib.md5(path.read_bytes()).hexdigest()

    if name.startswith("cifar100"):
        kind, archive = torchvision.datasets.CIFAR100, folder / "cifar-100-python.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(made / "cifar-100-python", "cifar-100-python")
        files = {path.name: md5(path) for path in (made / "cifar-100-python").iterdir()}
        changes = {"url": f"{address}{archive.name}", "tgz_md5": md5(archive)}
        changes |= {f"{split}_list": [[split, files[split]]] for split in ("train", "test")}
        changes["meta"] = {**kind.meta, "md5": files["meta"]}
    elif name == "svhn":
        kind, paths = torchvision.datasets.SVHN, {split: f"{split}_32x32.mat" for split in ("train", "test")}
        for path in paths.values():
            shutil.copy(made / path, folder)
        known = {split: [f"{address}{path}", path, md5(made / path)] for split, path in paths.items()}
        changes = {"split_list": known}
    else:
        kind, resources = torchvision.datasets.FashionMNIST, []
        for path in (made / "FashionMNIST" / "raw").glob("*ubyte"):
            zipped = folder / f"{path.name}.gz"
            zipped.write_bytes(gzip.compress(path.read_bytes()))
            resources.append((zipped.name, md5(zipped)))
        changes = {"mirrors": [address], "resources": resources}
    for key, value in changes.items():
        monkeypatch.setattr(kind, key, value)


@pytest.mark.parametrize("name", ["cifar100", "cifar100_coarse", "svhn", "fashion_mnist"])
def test_a_download_is_checked_and_read(name, tmp_path, monkeypatch, server):
    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    publish(name, MAKERS[name][0](tmp_path / "made"), *server, monkeypatch)
    train, test = (open_source(SourceSpec(name), split) for split in ("train", "val"))
    assert (len(train), len(test)) == (12, 5)
    there = open_source(SourceSpec(name, str(tmp_path / "made")), "train")
    assert train.fingerprint == there.fingerprint and np.array_equal(train.image(3), there.image(3))
    assert found_here()[name] == f"{tmp_path / 'data' / name.removesuffix('_coarse')} (torchvision's layout)"
    changed = next(path for path in (tmp_path / "data").rglob("*train*") if path.is_file() and path.suffix != ".gz")
    changed.write_bytes(changed.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"is no whole copy of {name.removesuffix('_coarse')}'s train split"):
        open_source(SourceSpec(name), "train")


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
    "CIFAR-100 cut off": ("cifar100", cifar100_torchvision, "train", lambda b: b[:99], "corrupted"),
    "CIFAR-100 without its test": ("cifar100_coarse", cifar100_torchvision, "test", lambda b: None, "not found"),
    "SVHN cut off": ("svhn", svhn_torchvision, "train_32x32.mat", lambda b: b[:99], "corrupted"),
    "SVHN without its training split": ("svhn", svhn_torchvision, "train_32x32.mat", lambda b: None, "not found"),
    "Fashion-MNIST cut off": (
        "fashion_mnist",
        fashion_mnist_torchvision,
        "train-images-idx3-ubyte",
        lambda b: b[:99],
        "",
    ),
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
    # torchvision's checksums are those of the real files
    whole = {path.name: path.read_bytes() for path in make(tmp_path / "whole").rglob("*") if path.is_file()}
    for module in ("cifar", "svhn"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity",
            lambda path, md5: Path(path).is_file() and Path(path).read_bytes() == whole[Path(path).name],
        )
    (path,) = make(tmp_path / "set").rglob(file)
    changed = change(path.read_bytes())
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
    spec = SourceSpec(name, str(tmp_path / "set"))
    with pytest.raises(
        UserError,
        match=f"{path.parent} is no whole copy of {name.removesuffix('_coarse')}'s train split .*{words}.*complete it",
    ):
        open_source(spec, "train")
    MAKERS[name][1](tmp_path / "set")
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
    no_checksums(monkeypatch)
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
