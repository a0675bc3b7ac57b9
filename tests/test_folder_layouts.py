"""Folders of images as others leave them: splits, classes, links, and what is no file at all."""

import io
import os
import re
import socket
import subprocess
import sys

import pytest
from PIL import Image

from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec, open_source


def png(value: int) -> bytes:
    """An image whose pixels tell which sample it is."""
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (value, value, value)).save(out, "PNG")
    return out.getvalue()


def laid(root, *files):
    """Files at these paths, each an image that says its place in the list; a path that ends in / is an empty folder."""
    for number, name in enumerate(files):
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(png(number))
    return root


def read(root, split="train", **keys):
    """(number of the image, name of its class) of each sample; None where there is no such split."""
    source = open_source(SourceSpec("imagefolder", str(root), **keys), split)
    if source is None:
        return None
    return [(int(source.image(i)[0, 0, 0]), source.class_names[source.labels[i]]) for i in range(len(source))]


PAIR = ("a/x.png", "b/x.png")
TRAIN = tuple(f"train/{name}" for name in PAIR)


@pytest.mark.parametrize(
    ("files", "keys", "train", "test"),
    [
        (PAIR, {}, "0a 1b", None),
        (TRAIN, {}, "0a 1b", None),
        *(((*TRAIN, f"{name}/b/x.png"), {}, "0a 1b", "2b")
          for name in ("val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation", "Test", "VAL")),
        (("Training/a/x.png", "Training/b/x.png"), {}, "0a 1b", None),
        (("train2017/a/x.png", "train2017/b/x.png", "val2017/a/x.png"), {}, "0a 1b", "2a"),
        ((*TRAIN, "val/a/x.png", "test/b/x.png"), {}, "0a 1b", "2a"),
        ((*TRAIN, "val/a/x.png", "test/b/x.png"), {"split_test": "test"}, "0a 1b", "3b"),
        ((*TRAIN, "test/1.png"), {"split_test": "none"}, "0a 1b", None),
        # of another name is no split: not train, not test, and no class
        ((*TRAIN, "train_old/a/y.png", "val_backup/a/y.png", "holdout/a/y.png"), {}, "0a 1b", None),
        ((*TRAIN, "train_old/c/y.png", "val/a/y.png", "val_old/b/y.png"), {}, "0a 1b", "3a"),
        (("9/a/x.png", "10/a/x.png"), {"split_train": "10"}, "1a", None),
        ((*TRAIN, "holdout/a/y.png"), {"split_test": "holdout"}, "0a 1b", "2a"),
        (("train_old/a/x.png", "val_backup/a/x.png"), {"split_train": "train_old", "split_test": "val_backup"},
         "0a", "1a"),
        (("seg_train/seg_train/a/x.png", "seg_test/seg_test/a/x.png"),
         {"split_train": "seg_train/seg_train", "split_test": "seg_test/seg_test"}, "0a", "1a"),
        (("seg/one/a/x.png", "seg/two/a/x.png", "train/b/x.png"), {"split_train": "train"}, "2b", None),
        # hidden and a system's
        ((*PAIR, ".ipynb_checkpoints/x.png", "__MACOSX/a/._x.png", "__pycache__/", "a/.hidden.png", "a/@eaDir/x.png",
          "a/.ipynb_checkpoints/x-checkpoint.png", "lost+found/"), {}, "0a 1b", None),
        ((*TRAIN, "train/.ipynb_checkpoints/", "val/a/x.png", "val/__MACOSX/x.png"), {}, "0a 1b", "3a"),
        # within a class, folders are looked through
        (("a/deep/er/x.png", "a/y.png", "b/z.PGM"), {}, "0a 1a 2b", None),
        ((*TRAIN, "val/b/images/x.png"), {}, "0a 1b", "2b"),
        (("10/x.png", "9/x.png", "1/x.png"), {}, "21 010 19", None),
        (("bullet_train/x.png", "car/x.png"), {}, "0bullet_train 1car", None),
        (("x.jpg/x.png", "y.jpg/x.png"), {}, "0x.jpg 1y.jpg", None),
        # a folder without any file is no class
        ((*PAIR, "aa/", "c/deep/", "d/.DS_Store"), {}, "0a 1b", None),
        ((*TRAIN, "train/c/", "val/a/", "val/b/x.png", "val/c/"), {}, "0a 1b", "4b"),
        # a part of the training split in place of what lies beside it
        ((*TRAIN, "train/a/y.png", "train/b/y.png", "val/a/x.png"), {"holdout": 0.5}, "2a 3b", "0a 1b"),
        ((*PAIR, "a/y.png", "b/y.png"), {"holdout": 0.5, "split_test": "none"}, "2a 3b", "0a 1b"),
    ],
)  # fmt: skip
def test_what_is_read(tmp_path, files, keys, train, test):
    def told(samples):
        return samples and " ".join(f"{number}{name}" for number, name in samples)

    laid(tmp_path, *files)
    assert (told(read(tmp_path, "train", **keys)), told(read(tmp_path, "val", **keys))) == (train, test)


@pytest.mark.parametrize(
    ("files", "keys", "text"),
    [
        ((*PAIR, "c/x.txt"), {}, r"class 'c' has no image files \(of the other files .txt 1\); copy"),
        ((*PAIR, "a/x.txt", "c/x.gif", "c/y.avif"), {}, r"class 'c' has no .*\(of the other files .avif 1, .gif 1\)"),
        ((*TRAIN, "val/a/x.txt"), {}, "class 'a' has no image files"),
        ((*TRAIN, "val/a/"), {}, "val: no image files in class folders"),
        (("a/", "b/"), {}, "no image files in class folders"),
        ((*TRAIN, "train/c/", "val/c/x.png"), {}, "class folder 'c' does not exist in the training split"),
        ((*PAIR, "a/y.png"), {"holdout": 0.1}, r"1 of the 2 classes have one alone \('b' is the first\)"),
        ((*TRAIN, "val/a/x.png"), {"holdout": 0.1, "split_test": "val"}, "data.split_test=val names another"),
        ((*TRAIN, "val/c/x.png"), {}, "class folder 'c' does not exist in the training split"),
        ((*TRAIN, "test/images/x.png"), {}, "class folder 'images' does not exist .* data.split_test"),
        ((*TRAIN, "test/x.png"), {}, "no image files in class folders .* data.split_test=none"),
        (("train/x.png", "test/y.png"), {}, "train: no image files in class folders"),
        (("x.png",), {}, "no image files in class folders"),
        (("train_old/a/x.png", "val_backup/a/x.png"), {}, "is called train .* data.split_train=NAME"),
        (("val/a/x.png", "others/a/x.png"), {}, "none of its folders is called train"),
        ((*TRAIN, "Train/a/x.png"), {}, "Train and train are both named as a train split"),
        ((*TRAIN, "val/a/x.png", "dev/a/x.png"), {}, "dev and val are both named as a validation split"),
        (TRAIN, {"split_train": "trian"}, "data.split_train=trian is no split in .* did you mean 'train'"),
        (("set_1/a/x.png", "set_2/a/x.png"), {"split_train": "set"}, "data.split_train=set may be set_1 or set_2"),
        (TRAIN, {"split_test": "holdout"}, "data.split_test=holdout is no split in"),
        (("set/train/a/x.png", "set/val/a/x.png"), {}, "would be a class, and holds all images in folders"),
        ((*PAIR, "backup/a/x.png"), {}, "backup would be a class, and holds a folder 'a'"),
        ((*PAIR, "a/x.jpg/"), {}, "a/x.jpg is a folder, and only regular files are read"),
        ((*PAIR, "a/x.jpg/y.png"), {}, "a/x.jpg is a folder, and only regular files are read"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, files, keys, text):
    laid(tmp_path, *files)
    with pytest.raises(UserError, match=text):
        read(tmp_path, **keys)
        read(tmp_path, "val", **keys)


ODD = {
    "a FIFO": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a broken link": lambda path: path.symlink_to("nowhere"),
    "a broken link, a circle": lambda path: path.symlink_to(path.name),
    "a folder": lambda path: path.symlink_to(path.parent),
    "a socket": lambda path: bound(path),
}


def bound(path):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has 108 bytes at most
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("place", ["a/y.png", "train/a/y.png", "val/b/y.png", "a/deep/y.png", "val/images/y.png"])
def test_only_regular_files_are_opened(tmp_path, kind, place):
    others = [
        name for name in ("a/x.png", "b/x.png", "train/a/x.png", "train/b/x.png") if name.count("/") == place.count("/")
    ]
    laid(tmp_path, *(others if place != "a/deep/y.png" else PAIR), f"{place.rpartition('/')[0]}/")
    if "images" in place:
        (tmp_path / "val" / "val_annotations.txt").write_text("")
    ODD[kind](tmp_path / place)
    with pytest.raises(UserError, match=f"{place} is {kind.partition(',')[0]}"):
        read(tmp_path)
        read(tmp_path, "val")


@pytest.mark.parametrize("place", ["c", "train", "a/notes"])
def test_a_broken_link_may_have_been_a_folder(tmp_path, place):
    laid(tmp_path, *PAIR)
    (tmp_path / place).symlink_to("nowhere")
    with pytest.raises(UserError, match=f"{place} is a broken link"):
        read(tmp_path)


def test_what_is_no_image_by_its_name_is_never_opened(tmp_path):
    os.mkfifo(laid(tmp_path, *PAIR) / "a" / "pipe")
    assert read(tmp_path) == [(0, "a"), (1, "b")]


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path):
    source = open_source(SourceSpec("imagefolder", str(laid(tmp_path, *PAIR))), "train")
    (tmp_path / "a" / "x.png").unlink()
    with pytest.raises(UserError, match="a/x.png: cannot be read"):
        source.read(0)
    os.mkfifo(tmp_path / "a" / "x.png")
    with pytest.raises(UserError, match="a/x.png is no regular file"):
        source.read(0)


def test_links_are_followed(tmp_path):
    """A class, a folder within one, and a file may lie elsewhere; the same file may count for two classes."""
    elsewhere = laid(tmp_path / "elsewhere", "c/u.png", "inner/v.png", "w.png")
    root = laid(tmp_path / "root", "a/.x", "b/.x")
    (root / "c").symlink_to(elsewhere / "c")
    (root / "a" / "more").symlink_to(elsewhere / "inner")
    (root / "a" / "w.png").symlink_to(elsewhere / "w.png")
    (root / "b" / "w.png").symlink_to(elsewhere / "w.png")
    assert read(root) == [(1, "a"), (2, "a"), (2, "b"), (0, "c")]


@pytest.mark.parametrize(
    ("link", "target", "text"),
    [
        ("a/loop", ".", "a/loop is by links the same folder as .*/a:"),
        ("a/deep/loop", "../..", "a/deep/loop/deep is by links the same folder|a/deep/loop.* is by links"),
        ("c", "a", "c is by links the same folder as .*/a:"),
        ("a/other", "../b", "b is by links the same folder as .*/a/other"),
    ],
)
def test_a_folder_is_read_once(tmp_path, link, target, text):
    laid(tmp_path, *PAIR, "a/deep/y.png")
    (tmp_path / link).symlink_to(target)
    with pytest.raises(UserError, match=text):
        read(tmp_path)


def test_many_links_to_each_other_take_no_time(tmp_path):
    """Forty folders, each with two links to the next: 2 to the 40 ways, if all were gone."""
    laid(tmp_path, *PAIR, *(f".far/{i}/{i}.png" for i in range(40)))
    for i in range(39):
        for name in ("l", "r"):
            (tmp_path / ".far" / str(i) / name).symlink_to(f"../{i + 1}")
    (tmp_path / "a" / "far").symlink_to("../.far/0")
    with pytest.raises(UserError, match="is by links the same folder as"):
        read(tmp_path)


def test_a_deep_tree(tmp_path):
    folders = [str(laid(tmp_path, *PAIR) / "a")]
    for _ in range(1100):
        folders.append(f"{folders[-1]}/d")
        os.mkdir(folders[-1])
    with open(f"{folders[-1]}/y.png", "wb") as file:
        file.write(png(7))
    assert read(tmp_path) == [(7, "a"), (0, "a"), (1, "b")]
    os.unlink(f"{folders[-1]}/y.png")
    for folder in folders[:0:-1]:  # pytest removes folders recursively
        os.rmdir(folder)


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    laid(tmp_path, *PAIR, "a/deep/x.png")
    real = os.scandir

    def refused(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match="a/deep: cannot be listed \\(Permission denied\\)"):
        read(tmp_path)


TINY = {"val_0.JPEG": "n02", "val_1.JPEG": "n01", "val_2.JPEG": "n02"}


def tiny_imagenet(root, annotations):
    laid(root, "train/n01/images/n01_0.JPEG", "train/n02/images/n02_0.JPEG", "test/images/test_0.JPEG")
    for name in ("n01", "n02"):
        (root / "train" / name / f"{name}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t1\t1\n")
    (root / "val" / "images").mkdir(parents=True)
    for number, name in enumerate(TINY):
        (root / "val" / "images" / name).write_bytes(png(10 + number))
    (root / "val" / "val_annotations.txt").write_bytes(annotations)
    return root


def annotated(names):
    return "".join(f"{name}\t{wnid}\t0\t0\t63\t63\n" for name, wnid in names.items()).encode()


def test_tiny_imagenet(tmp_path):
    root = tiny_imagenet(tmp_path, annotated(dict(reversed(TINY.items()))))
    assert read(root) == [(0, "n01"), (1, "n02")]
    assert read(root, "val") == [(11, "n01"), (10, "n02"), (12, "n02")]
    others, suffixes = open_source(SourceSpec("imagefolder", str(root)), "train").notes
    assert others.endswith("these are not read: test") and suffixes.endswith("not read: .txt 2")


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        (annotated({**TINY, "val_3.JPEG": "n01"}), "val_annotations.txt line 4: not a file of images/"),
        (annotated({**TINY, "val_1.JPEG": "n03"}), "line 2: not"),
        (annotated(TINY) + annotated({"val_0.JPEG": "n01"}), "line 4: not a file of images/, named once"),
        (annotated({"val_0.JPEG": "n02", "val_2.JPEG": "n02"}), "says no class for val_1.JPEG"),
        (b"val_0.JPEG n02\n", "line 1: not"),
        (b"\xff\xfe\n", "val_annotations.txt: is no text"),
        (b"", "says no class for val_0.JPEG"),
    ],
)
def test_tiny_imagenet_that_does_not_fit_together(tmp_path, annotations, text):
    with pytest.raises(UserError, match=text):
        read(tiny_imagenet(tmp_path, annotations), "val")


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (("10/x.png", "9/x.png"), "classes are in the order of their names as text, as torchvision's: 10, 9"),
        ((*PAIR, "a/y.gif", "b/z", "b/Z.GIF"), "no images by their suffix are not read: .gif 2, no suffix 1"),
        ((*PAIR, "stray.png"), "1 image files outside of the class folders are not read"),
        ((*TRAIN, "train_old/a/x.png", "val/a/x.png"), "of its folders these are not read: train_old"),
        ((*PAIR, "Thumbs.db", "a/Thumbs.db", "a/.DS_Store", "notes.txt"), None),
        (("0/x.png", "1/x.png"), None),
        ((*PAIR, "c/", "d/e/"), "folders without any file are no classes: c, d"),
    ],
)
def test_what_is_not_read_is_said(tmp_path, files, note):
    notes = open_source(SourceSpec("imagefolder", str(laid(tmp_path, *files))), "train").notes
    assert (note in notes[0]) if note else notes == ()


def test_names_that_no_terminal_shows(tmp_path):
    """Latin-1, an escape sequence and a line's end in names: classes, errors and notes are text of one line."""
    root = os.fsencode(tmp_path)
    for name in (b"caf\xe9", b"red\x1b[31m", b"two\nlines"):
        os.mkdir(root + b"/" + name)
        with open(root + b"/" + name + b"/x\xe9.png", "wb") as file:
            file.write(png(0))
    source = open_source(SourceSpec("imagefolder", str(tmp_path)), "train")
    assert source.class_names == ["caf\\udce9", "red\\x1b[31m", "two\\nlines"]
    assert source.sample_name(0).endswith("/caf\\udce9/x\\udce9.png") and source.image(0).max() == 0
    said = []
    baked = bake(
        SourceSpec("imagefolder", str(tmp_path)), LabelSpec(), PixelSpec(), BakeSpec(), tmp_path / ".c", said.append
    )
    assert baked.manifest.class_names == source.class_names
    os.mkdir(root + b"/empty\xff")
    (tmp_path / os.fsdecode(b"empty\xff") / "x.txt").touch()
    script = (
        "from pipelines.sources import *\nfrom pipelines.errors import UserError\n"
        f"try: open_source(SourceSpec('imagefolder', {str(tmp_path)!r}), 'train')\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "empty\\udcff: class 'empty\\udcff' has no image files" in done.stdout and not done.stderr


def test_classes_belong_to_the_set(tmp_path):
    """Names in another order, or other labels, make another set of the same files; an empty folder makes none."""
    laid(tmp_path / "one", "train/a/x.png", "train/b/y.png", "val/b/z.png", "train/c/")
    laid(tmp_path / "two", "train/a/x.png", "train/b/y.png", "val/b/z.png", "train/c/u.png")
    digests = [
        open_source(SourceSpec("imagefolder", str(tmp_path / name)), "val").fingerprint for name in ("one", "two")
    ]
    assert digests[0] != digests[1]  # one class more, of which the test split has no image
    first, second = (
        bake(SourceSpec("imagefolder", str(tmp_path / name)), LabelSpec(), PixelSpec(), BakeSpec(), tmp_path / "cache")
        for name in ("one", "two")
    )
    assert first.path != second.path and first.manifest.class_names == ["a", "b"]
    assert second.manifest.class_names == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("limit", "note"),
    [
        (3, "data.limit=3: the first 3 samples are of 1 of the 3 classes, .* data.limit=9 is the least with all"),
        (8, "the first 8 samples are of 2 of the 3 classes"),
        (9, None),
        (None, None),
    ],
)
def test_a_limit_that_leaves_classes_out_is_said(tmp_path, limit, note):
    laid(tmp_path, *(f"{name}/{i}.png" for name in "abc" for i in range(4)))
    spec, said = SourceSpec("imagefolder", str(tmp_path), limit=limit), []
    source = open_source(spec, "train")
    assert source.class_names == ["a", "b", "c"] and len(source) == (limit or 12)
    bake(spec, LabelSpec(), PixelSpec(), BakeSpec(), tmp_path / ".cache", said.append)
    found = [text for text in said if "classes" in text]
    assert found == list(source.notes)
    assert bool(found) == (note is not None) and (note is None or re.search(note, found[0]))


@pytest.mark.parametrize("target", ["/", "../.."])
def test_a_link_to_all_above_is_not_walked(tmp_path, target):
    laid(tmp_path, *PAIR)
    (tmp_path / "a" / "all").symlink_to(target)
    with pytest.raises(UserError, match="a/all is by links the same folder as /"):
        read(tmp_path)


@pytest.mark.parametrize("root", ["~nobody_of_that_name/x", "x" * 5000, "a\0b", "nowhere"])
@pytest.mark.parametrize("source", ["imagefolder", "parquet"])
def test_a_root_that_cannot_be(source, root):
    with pytest.raises(UserError, match="does not exist"):
        open_source(SourceSpec(source, root), "train")
