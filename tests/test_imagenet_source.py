"""ImageNet in every layout: the same samples in the same order, and every kind of damage named."""

import hashlib
import io
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import real
from PIL import Image
from scipy.io import savemat

from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec, imagenet, open_source
from pipelines.sources.base import fingerprint_files
from pipelines.sources.imagenet import TRAIN_TAR, VAL_TAR
from pipelines.sources.imagenet_truth import CAFFE, CAFFE_CLASSES, DEVKIT, KAGGLE, MAP, META, NUMBERS, SYNSET_LABELS
from pipelines.sources.tars import index_tar

WNIDS = ["n01440764", "n02105855", "n15075141"]
RNG = np.random.default_rng(0)


def encoded(kind="JPEG", mode="RGB", size=(9, 7)):
    pixels = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


# What the real set holds beside plain JPEG, and names that tar stores in other ways, one of them not UTF-8.
TRAIN = {
    "n01440764": {
        "n01440764_10.JPEG": encoded(),
        "n01440764_2.JPEG": encoded(mode="L"),
        "a b (1)'ü\udcff.JPEG": encoded(),
    },
    "n02105855": {"n02105855_2933.JPEG": encoded("PNG"), "n02105855_1.JPEG": encoded(mode="CMYK")},
    "n15075141": {"x" * 180 + ".JPEG": encoded(), "n15075141_5.JPEG": encoded(size=(1, 1))},
}
VAL_NAMES = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 6)]
VAL = {name: encoded() for name in VAL_NAMES}
VAL_WNIDS = ["n15075141", "n01440764", "n15075141", "n02105855", "n01440764"]


def tar_of(files, format=tarfile.GNU_FORMAT):
    """A tar of {name: bytes}, in the order given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def train_tar(train=TRAIN, **options):
    """As image-net.org has it: neither the classes nor their files are sorted."""
    return tar_of(
        {f"{w}.tar": tar_of(dict(reversed(files.items())), **options) for w, files in reversed(train.items())},
        **options,
    )


def in_folders(root):
    for wnid, files in TRAIN.items():
        (root / "train" / wnid).mkdir(parents=True)
        for name, data in files.items():
            (root / "train" / wnid / name).write_bytes(data)
        (root / "train" / wnid / f"._{next(iter(files))}").write_bytes(b"left by macOS")
    for wnid, (name, data) in zip(VAL_WNIDS, VAL.items(), strict=True):
        (root / "val" / wnid).mkdir(parents=True, exist_ok=True)
        (root / "val" / wnid / name).write_bytes(data)
    return root


def in_tars(root, **options):
    root.mkdir(exist_ok=True)
    (root / TRAIN_TAR).write_bytes(train_tar(**options))
    (root / VAL_TAR).write_bytes(
        tar_of({"._" + VAL_NAMES[0]: b"left by macOS", **dict(reversed(VAL.items()))}, **options)
    )
    (root / SYNSET_LABELS).write_text("\n".join(VAL_WNIDS) + "\n")
    return root


def devkit(root):
    """The kit's files as far as they are read: classes under ids of their own, and an inner node of the hierarchy."""
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children"]
    ids = {1: "n15075141", 2: "n01440764", 3: "n02105855"}
    rows = [(i, wnid, f"word {i}, other", "gloss", 0, 0.0) for i, wnid in ids.items()]
    rows.append((4, "n00001740", "entity", "gloss", 3, np.array([1.0, 2.0, 3.0])))
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=[(name, object) for name in fields]).reshape(-1, 1)})
    number = {wnid: i for i, wnid in ids.items()}
    truth = "".join(f"{number[wnid]}\n" for wnid in VAL_WNIDS)
    data = f"{DEVKIT.removesuffix('.tar.gz')}/data"
    files = {
        f"{data}/{META}": meta.getvalue(),
        f"{data}/{NUMBERS}": truth.encode(),
        f"{data}/._meta.mat": b"left by macOS",
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (root / DEVKIT).write_bytes(out.getvalue())


def opened(root, split="train"):
    return open_source(SourceSpec("imagenet", str(root)), split)


def file_names(split):
    return [split.file_name(index) for index in range(len(split))]


def assert_same(one, other):
    assert one.class_names == other.class_names
    assert np.array_equal(one.labels, other.labels) and one.labels.dtype == np.int64
    assert [one.read(i) for i in range(len(one))] == [other.read(i) for i in range(len(other))]
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_folder_and_tar_hold_the_same_samples(tmp_path, monkeypatch, format):
    if format == tarfile.USTAR_FORMAT:  # has no names of 186 characters
        monkeypatch.setitem(TRAIN, "n15075141", {"n15075141_4.JPEG": encoded(), "n15075141_5.JPEG": encoded()})
    folders, tars = in_folders(tmp_path / "folders"), in_tars(tmp_path / "tars", format=format)
    for split in ("train", "val"):
        folder, tar = opened(folders, split), opened(tars, split)
        assert_same(folder, tar)
        assert_same(tar, opened(tars, split))  # from the kept index
    train, val = opened(tars), opened(tars, "val")
    expected = [(label, name) for label, wnid in enumerate(WNIDS) for name in sorted(TRAIN[wnid])]
    assert list(zip(train.labels, file_names(train), strict=True)) == expected
    assert [train.read(i) for i in range(len(train))] == [TRAIN[WNIDS[label]][name] for label, name in expected]
    by_class = sorted(zip(VAL_WNIDS, VAL_NAMES, strict=True))
    assert [(WNIDS[label], name) for label, name in zip(val.labels, file_names(val), strict=True)] == by_class
    assert [val.read(i) for i in range(len(val))] == [VAL[name] for _, name in by_class]
    paths = [folders / "train" / WNIDS[label] / name for label, name in expected]
    unnamed = imagenet.open_split(SourceSpec("imagenet", str(folders)), "train")
    assert unnamed.fingerprint == fingerprint_files(folders / "train", paths)  # the rule of every other source


@pytest.mark.parametrize("make", [in_folders, in_tars])
def test_every_kind_of_image_becomes_rgb(tmp_path, make):
    """Gray, CMYK, and PNG under a JPEG's name, as in the real set."""
    source = opened(make(tmp_path / "set"))
    images = [source.image(index) for index in range(len(source))]
    assert all(image.dtype == np.uint8 for image in images)
    assert [image.shape for image in images] == [(7, 9, 3)] * 5 + [(1, 1, 3), (7, 9, 3)]


def test_baked_from_either_layout_it_is_one_set(tmp_path):
    spec = BakeSpec(resolution=4, square=True)
    folders, tars = in_folders(tmp_path / "folders"), in_tars(tmp_path / "tars")
    baked = [
        bake(SourceSpec("imagenet", str(root)), LabelSpec(), PixelSpec(), spec, tmp_path / name)
        for root, name in ((folders, "one"), (tars, "two"))
    ]
    assert baked[0].path.name == baked[1].path.name
    for split in ("train", "val"):
        one, two = ((b.path / f"{split}.beton").read_bytes() for b in baked)
        assert one == two


def test_training_split_alone(tmp_path):
    train = in_folders(tmp_path) / "train"
    assert_same(opened(train), opened(tmp_path))
    assert opened(train, "val") is None
    (tmp_path / "bare").mkdir()
    shutil.copytree(train / WNIDS[0], tmp_path / "bare" / WNIDS[0])
    (tmp_path / "bare" / "notes").mkdir()  # the data set's own folder may hold anything else
    assert opened(tmp_path / "bare").class_names == WNIDS[:1]


def test_truth_from_every_place(tmp_path):
    expected = opened(in_folders(tmp_path / "folders"), "val")
    tars = in_tars(tmp_path / "tars")
    (tars / SYNSET_LABELS).unlink()
    with pytest.raises(UserError, match=f"put {SYNSET_LABELS}.* or {DEVKIT}"):
        opened(tars, "val")
    devkit(tars)
    assert_same(opened(tars, "val"), expected)
    with tarfile.open(tars / DEVKIT) as kit:
        kit.extractall(tars, filter="data")
    (tars / DEVKIT).unlink()
    assert_same(opened(tars, "val"), expected)

    flat = tmp_path / "flat"
    shutil.copytree(tmp_path / "folders" / "train", flat / "train")
    (flat / "val").mkdir()
    for name, data in VAL.items():
        (flat / "val" / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{SYNSET_LABELS}.* or {DEVKIT}"):
        opened(flat, "val")
    (flat / "val" / SYNSET_LABELS).write_text("\n".join(VAL_WNIDS))
    assert_same(opened(flat, "val"), expected)


def test_devkit_as_torchvision_reads_it(tmp_path, monkeypatch):
    import torch
    from torchvision.datasets import imagenet

    devkit(tmp_path)
    monkeypatch.setattr(imagenet, "check_integrity", lambda *a: True)  # compares with the real kit's MD5
    imagenet.parse_devkit_archive(str(tmp_path))
    assert torch.load(tmp_path / imagenet.META_FILE)[1] == VAL_WNIDS


def test_damaged_devkit(tmp_path):
    root = in_tars(tmp_path)
    (root / SYNSET_LABELS).unlink()
    devkit(root)
    whole = (root / DEVKIT).read_bytes()
    for bad in (b"", b"no archive", whole[: len(whole) // 2], tar_of({"data/other.txt": b""})):
        (root / DEVKIT).write_bytes(bad)
        with pytest.raises(UserError, match=f"{DEVKIT}: cannot be read.*{SYNSET_LABELS}"):
            opened(root, "val")


@pytest.mark.parametrize(
    "lines, error",
    [
        (VAL_WNIDS[:4], "ILSVRC2012_val_00000005 is none of the 4 photographs whose classes"),
        ([*VAL_WNIDS, "n01440764"], r"ILSVRC2012_val_00000006 is missing \(1 of the 6 photographs whose classes"),
        ([*VAL_WNIDS[:4], "n99999999"], "n99999999 does not exist in the training split"),
    ],
)
def test_truth_that_does_not_fit(tmp_path, lines, error):
    root = in_tars(tmp_path)
    (root / SYNSET_LABELS).write_text("\n".join(lines))
    with pytest.raises(UserError, match=error):
        opened(root, "val")


PLACES = np.searchsorted(WNIDS, VAL_WNIDS)  # of the classes, sorted
IDS = [{"n15075141": 1, "n01440764": 2, "n02105855": 3}[wnid] for wnid in VAL_WNIDS]  # of the development kit
BOXES = [f"{name[:-5]},{wnid} 1 2 3 4 {wnid} 5 6 7 8 " for name, wnid in zip(VAL_NAMES, VAL_WNIDS, strict=True)]
TRUTHS = {
    "Kaggle's": {KAGGLE: "\n".join(["ImageId,PredictionString", *reversed(BOXES)])},
    "Caffe's": {CAFFE: "\n".join(f"{name} {place}" for name, place in zip(VAL_NAMES, PLACES, strict=True))},
    "Caffe's with paths, out of order, and its own classes": {
        CAFFE: "".join(f"val/{VAL_NAMES[i]} {WNIDS[::-1].index(VAL_WNIDS[i])}\n" for i in (3, 1, 0, 4, 2)),
        CAFFE_CLASSES: "\n".join(WNIDS[::-1]),
    },
    "bare": {
        NUMBERS: "\n".join(map(str, IDS)),
        MAP: "n15075141 1 toilet_tissue\nn01440764 2 tench\nn02105855 3 Shetland_sheepdog\n",
    },
    "wnids": {SYNSET_LABELS: "\n".join(VAL_WNIDS)},
}


def flat(root, truth):
    """Class folders for training, a flat val/, and a ground truth beside."""
    shutil.copytree(in_folders(root / "all") / "train", root / "train")
    (root / "val").mkdir()
    for name, data in VAL.items():
        (root / "val" / name).write_bytes(data)
    for name, text in truth.items():
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("name", TRUTHS)
def test_validation_files_are_matched_by_name(name, tmp_path):
    root = flat(tmp_path, TRUTHS[name])
    expected = opened(root / "all", "val")
    assert_same(opened(root, "val"), expected)
    moved = root / "val" / VAL_NAMES[1]
    stray = root / "val" / "A_photograph.JPEG"
    moved.rename(stray)  # the first by name: all others would move on by one
    with pytest.raises(UserError, match="val: A_photograph is none of the 5 photographs whose classes .* says"):
        opened(root, "val")
    stray.unlink()
    with pytest.raises(UserError, match=r"val: ILSVRC2012_val_00000002 is missing \(1 of the 5 .*download the images"):
        opened(root, "val")
    moved.write_bytes(VAL[VAL_NAMES[1]])
    moved.with_suffix(".png").write_bytes(b"")
    with pytest.raises(UserError, match="ILSVRC2012_val_00000002 is there 2 times"):
        opened(root, "val")


@pytest.mark.parametrize("below", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_layout(below, tmp_path):
    inner = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    inner.mkdir(parents=True)
    flat(inner, {})
    (tmp_path / KAGGLE).write_text(TRUTHS["Kaggle's"][KAGGLE])
    for split in ("train", "val"):
        assert_same(opened(tmp_path / below, split), opened(inner / "all", split))


@pytest.mark.parametrize(
    "truth, words",
    [
        ({NUMBERS: "1\n2"}, f"{NUMBERS}: counts the classes in ILSVRC's own order.*put {META}.*or {MAP} beside it"),
        ({NUMBERS: "1\n9", MAP: "n01440764 1 tench"}, f"{NUMBERS}: cannot be read as ImageNet's ground truth .*9"),
        ({NUMBERS: "1\nx", MAP: "n01440764 1 tench"}, f"{NUMBERS}: cannot be read as ImageNet's ground truth"),
        ({NUMBERS: "1", MAP: "tench"}, f"{NUMBERS}: cannot be read"),
        ({CAFFE: f"{VAL_NAMES[0]} 3"}, f"{CAFFE}: class 3 is not among 3 classes; put {CAFFE_CLASSES}"),
        ({CAFFE: VAL_NAMES[0]}, f"{CAFFE}: cannot be read as ImageNet's ground truth"),
        ({CAFFE: "tench.JPEG 1"}, f"{CAFFE}: tench is no validation photograph's name"),
        ({KAGGLE: "a,b\nc,d\n"}, f"{KAGGLE}: cannot be read as ImageNet's ground truth"),
        ({KAGGLE: "ImageId,PredictionString\nILSVRC2012_val_00000001\n"}, f"{KAGGLE}: cannot be read"),
        ({KAGGLE: "ImageId,PredictionString\nILSVRC2012_val_00000001,n99999999 1 2 3 4\n"}, "n99999999 does not exist"),
    ],
)
def test_truths_that_cannot_be_read(truth, words, tmp_path):
    with pytest.raises(UserError, match=words):
        opened(flat(tmp_path, truth), "val")


def test_folders_that_are_no_classes(tmp_path):
    root = in_folders(tmp_path)
    (root / "val" / "n99999999").mkdir()
    with pytest.raises(UserError, match="n99999999 does not exist in the training split"):
        opened(root, "val")
    (root / "val" / "n99999999").rename(root / "val" / "goldfish")
    with pytest.raises(UserError, match="goldfish is not named by a wnid"):
        opened(root, "val")
    (root / "val" / "goldfish").rmdir()
    (root / "val" / "stray.JPEG").write_bytes(encoded())
    with pytest.raises(UserError, match=r"stray\.JPEG lies outside of the class folders"):
        opened(root, "val")
    (root / "train" / "n00000001").mkdir()
    with pytest.raises(UserError, match="class n00000001 has no image files"):
        opened(root)


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("gone"), lambda p: p.symlink_to(p.name)]
)
def test_what_is_no_file_is_named(make, tmp_path):
    odd = in_folders(tmp_path) / "train" / WNIDS[1] / "odd.JPEG"
    make(odd)
    with pytest.raises(UserError, match=f"{odd} is no file"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "train, error",
    [
        ({**TRAIN, "n00000001": {}}, "class n00000001 has no image files"),
        ({**TRAIN, "goldfish": {"1.JPEG": b"x"}}, "goldfish.tar, which is named by no wnid"),
        ({}, "no class archives"),
    ],
)
def test_archives_that_are_no_classes(tmp_path, train, error):
    (tmp_path / TRAIN_TAR).write_bytes(train_tar(train))
    with pytest.raises(UserError, match=error):
        opened(tmp_path)


def test_every_truncation_is_noticed(tmp_path):
    """Also at the end of a member or of an inner archive, where the rest looks whole; and zeros instead of data."""
    path, whole = tmp_path / TRAIN_TAR, train_tar()
    kept = index_tar_names(path, whole)
    end = whole.rstrip(b"\0")
    for length in range(0, len(end), 512):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=f"{TRAIN_TAR}.*(truncated|damaged).*Copy or download the archive again"):
            opened(tmp_path)
    path.write_bytes(whole + b"\0" * 500_000)  # padding is no damage
    assert index_tar(path, nested=True).names.to_pylist() == kept
    path.write_bytes(whole[:10240] + b"\0" * 2_000_000)  # a download into a file made in full beforehand
    with pytest.raises(UserError, match="end mark is at byte .* broken off"):
        opened(tmp_path)


def index_tar_names(path, data):
    path.write_bytes(data)
    return index_tar(path, nested=True).names.to_pylist()


def test_every_damaged_header_is_noticed(tmp_path):
    """tarfile alone takes one for the archive's end."""
    whole = tar_of(VAL)
    root = in_tars(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        headers = [member.offset for member in tar]
    for offset in headers:
        (root / VAL_TAR).write_bytes(whole[: offset + 100] + b"\xff" + whole[offset + 101 :])
        with pytest.raises(UserError, match=f"{VAL_TAR}: .*damaged"):
            opened(root, "val")


def test_links_are_refused(tmp_path):
    root = in_tars(tmp_path)
    with tarfile.open(root / VAL_TAR, "w") as tar:
        info = tarfile.TarInfo("linked.JPEG")
        info.type, info.linkname = tarfile.SYMTYPE, "other.JPEG"
        tar.addfile(info)
    with pytest.raises(UserError, match=r"linked\.JPEG is a link"):
        opened(root, "val")


def test_corrupt_images_are_named(tmp_path):
    root = in_tars(tmp_path)
    bad = {**TRAIN, "n02105855": {"n02105855_1.JPEG": encoded()[:300]}}
    (root / TRAIN_TAR).write_bytes(train_tar(bad))
    source = opened(root)
    with pytest.raises(UserError, match=rf"{TRAIN_TAR}: n02105855\.tar/n02105855_1\.JPEG: cannot be decoded"):
        source.image(3)
    os.truncate(root / TRAIN_TAR, 1000)
    with pytest.raises(UserError, match="shorter since it was opened"):
        source.read(3)


def test_index_follows_the_archive(tmp_path, cache):
    path = tmp_path / TRAIN_TAR
    before = index_tar_names(path, train_tar())
    (kept,) = [
        f for f in (cache / "tars").glob("*.npz") if hashlib.sha256(os.fsencode(path)).hexdigest()[:16] == f.stem
    ]
    good = kept.read_bytes()
    for position in range(0, len(good), 31):  # whatever byte of the kept index is wrong, it is made again
        kept.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        assert index_tar(path, nested=True).names.to_pylist() == before
    kept.write_bytes(good[:200])
    assert index_tar(path, nested=True).names.to_pylist() == before
    fewer = {wnid: TRAIN[wnid] for wnid in WNIDS[:2]}
    assert index_tar_names(path, train_tar(fewer)) == before[:5]
    assert not list((cache / "tars").glob(".*.npz.*"))  # nothing is left aside


def test_of_two_members_of_one_name_the_later_counts(tmp_path):
    twice = tar_of({"a.JPEG": b"old", "./a.JPEG": b"newer"})
    (tmp_path / TRAIN_TAR).write_bytes(tar_of({"n01440764.tar": twice}))
    source = opened(tmp_path)
    assert len(source) == 1 and source.read(0) == b"newer"


def test_read_from_many_threads(tmp_path):
    source = opened(in_tars(tmp_path))
    expected = [source.read(i) for i in range(len(source))]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(source.read, list(range(len(source))) * 200))
    assert got == expected * 200


def test_found_under_fastgen_data(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path))
    spec = SourceSpec("imagenet")
    with pytest.raises(UserError, match=f"no ImageNet training images in {tmp_path}/imagenet or .*set data.root"):
        open_source(spec, "train")
    other = tmp_path / "cifar10"
    other.mkdir()
    (other / "train.parquet").write_bytes(b"of another set")
    with pytest.raises(UserError, match="no ImageNet training images"):
        open_source(spec, "train")
    in_tars(tmp_path / "imagenet")
    assert len(open_source(spec, "train")) == 7
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        opened(tmp_path / "file")


def test_real_photographs(data_folder, tmp_path):
    """Forty classes of the sample, packed into a tar of tars, are read as from their folders."""
    sample = real(data_folder, "imagenet_sample")
    wnids = sorted(p.name for p in sample.iterdir())[::6][:40]
    with tarfile.open(tmp_path / TRAIN_TAR, "w") as outer:
        for wnid in reversed(wnids):
            inner = tar_of({path.name: path.read_bytes() for path in (sample / wnid).iterdir()})
            info = tarfile.TarInfo(f"{wnid}.tar")
            info.size = len(inner)
            outer.addfile(info, io.BytesIO(inner))
            shutil.copytree(sample / wnid, tmp_path / "folders" / wnid)
    tar, folder = opened(tmp_path), opened(tmp_path / "folders")
    assert_same(tar, folder)
    assert len(tar) == 40 and tar.class_names == wnids
    assert all(np.array_equal(tar.image(i), folder.image(i)) for i in range(0, 40, 8))
    whole = opened(sample)
    assert len(whole) == whole.num_classes == 250 and opened(sample, "val") is None
