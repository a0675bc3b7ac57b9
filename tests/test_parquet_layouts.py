"""Parquet as others write it: which files are which split, which column is what, and what each label means."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources import SourceSpec, open_source
from pipelines.sources.layouts import split_of


def png(value: int) -> bytes:
    """An image whose pixels tell which sample it is."""
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (value, value, value)).save(out, "PNG")
    return out.getvalue()


def cells(values):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": png(value), "path": None} for value in values], kind)


def table(labels=(0, 1), first=0, names=None, metadata=None, **columns) -> pa.Table:
    """Rows whose image says first, first + 1, ...; names: of the classes, as `datasets` writes them."""
    labels = labels if isinstance(labels, pa.Array) else pa.array(list(labels))
    made = pa.table({"image": cells(range(first, first + len(labels))), "label": labels, **columns})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        metadata = json.dumps({"info": {"features": features}})
    return made.replace_schema_metadata({"huggingface": metadata} if metadata is not None else None)


def written(root, files):
    """Files by name: a table, bytes, or a number that the first image says (two rows then, of classes 0 and 1)."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(content if isinstance(content, pa.Table) else table(first=content), path)
    return root


def read(root, split="train", **keys):
    """(number of the sample, name of its class) of each row; None where there is no such split."""
    source = open_source(SourceSpec("parquet", str(root), **keys), split)
    if source is None:
        return None
    assert source.labels.dtype == np.int64 and set(source.labels) <= set(range(source.num_classes))
    return [(int(source.image(i)[0, 0, 0]), source.class_names[source.labels[i]]) for i in range(len(source))]


def rows(*firsts):
    return [(first + at, str(at)) for first in firsts for at in (0, 1)]


HUB = {
    f"data/{split}-0000{i}-of-00002.parquet": 100 * at + 2 * i
    for at, split in enumerate(["train", "test"])
    for i in (0, 1)
}


@pytest.mark.parametrize(
    ("files", "keys", "train", "test"),
    [
        (HUB, {}, rows(0, 2), rows(100, 102)),
        ({"data/train-00000-of-00001-0a1b2c3d4e5f6a7b.parquet": 0, "README.md": b"---\n---"}, {}, rows(0), None),
        ({"default/train/0000.parquet": 0, "default/train/0001.parquet": 2, "default/validation/0000.parquet": 9}, {},
         rows(0, 2), rows(9)),
        ({"train.parquet": 0, "dev.parquet": 9}, {}, rows(0), rows(9)),
        ({"training.parquet": 0, "eval.parquet": 9}, {}, rows(0), rows(9)),
        ({"Train.parquet": 0, "testing.PARQUET": 9}, {}, rows(0), rows(9)),
        ({"train.parquet": 0, "evaluation-00000-of-00001.parquet": 9}, {}, rows(0), rows(9)),
        ({"train.parquet": 0, "valid.parquet": 9, "test.parquet": 20}, {}, rows(0), rows(9)),
        ({"train.parquet": 0, "valid.parquet": 9, "test.parquet": 20}, {"split_test": "test"}, rows(0), rows(20)),
        ({"train.parquet": 0, "test.parquet": 9}, {"split_test": "none"}, rows(0), None),
        ({"train.parquet": 0, "dev.parquet": 9, "test.parquet": 20}, {"split_test": "dev"}, rows(0), rows(9)),
        ({"train/0000.parquet": 0, "0000.parquet": 9}, {"split_train": "unnamed", "split_test": "train"},
         rows(9), rows(0)),
        ({"mnist_train.parquet": 0, "mnist_test.parquet": 9}, {}, rows(0), rows(9)),
        ({"train.snappy.parquet": 0, "test.snappy.parquet": 9}, {}, rows(0), rows(9)),
        ({"train.parquet": 0, "test.parquet": 9, "extra.parquet": 20}, {"split_train": "train"}, rows(0), rows(9)),
        ({"train.parquet": 0, "test.parquet": 9, "extra.parquet": 20}, {"split_train": "extra"}, rows(20), rows(9)),
        ({"train.parquet": 0, "holdout.parquet": 9}, {"split_test": "holdout"}, rows(0), rows(9)),
        ({"test.parquet": 9}, {"split_train": "test"}, rows(9), None),
        ({"train_clean-00000-of-00001.parquet": 0, "train_noisy-00000-of-00001.parquet": 9},
         {"split_train": "train-clean", "split_test": "train_noisy"}, rows(0), rows(9)),
        ({"cats_and_dogs.parquet": 0}, {}, rows(0), None),
        ({"0000.parquet": 0, "0001.parquet": 2}, {}, rows(0, 2), None),
        ({"train.parquet/part-00000-of-00002.snappy.parquet": 0, "train.parquet/part-00001-of-00002.snappy.parquet": 2,
          "train.parquet/_SUCCESS": b""}, {}, rows(0, 2), None),
        ({**HUB, ".cache/huggingface/train-00000-of-00002.parquet": 50, "_temporary/train-1.parquet": 52,
          "__MACOSX/data/train-00000-of-00002.parquet": b"", "cache/train.parquet": 54, "data/._train.parquet": b"x"},
         {}, rows(0, 2), rows(100, 102)),
    ],
)  # fmt: skip
def test_a_split_is_what_its_name_says(tmp_path, files, keys, train, test):
    written(tmp_path, files)
    assert (read(tmp_path, "train", **keys), read(tmp_path, "val", **keys)) == (train, test)


@pytest.mark.parametrize(
    ("files", "keys", "text"),
    [
        *(({"train.parquet": 0, f"{name}.parquet": 9}, {}, f"'{name}' is no split whose name")
          for name in ("holdout", "extra", "unlabeled", "train_old", "test_b", "part", "train_clean")),
        ({"train_clean.parquet": 0, "train_noisy.parquet": 9}, {}, "'train_clean' is no split .* data.split_train="),
        ({"train_clean-00000-of-00001.parquet": 0, "test.parquet": 9}, {}, "'train_clean' is no split"),
        ({"a/0000.parquet": 0, "b/0000.parquet": 9}, {}, "'a' is no split .* of: a, b"),
        ({"holdout.parquet": 9}, {}, "'holdout' is no split"),
        ({"train/0000.parquet": 0, "0000.parquet": 9}, {}, "'unnamed' is no split"),
        ({"test_clean.parquet": 9}, {}, "no \\*.parquet training files"),
        ({"test.parquet": 9}, {}, "holds no \\*.parquet training files"),
        ({"train.parquet": 0}, {"split_train": "trian"}, "data.split_train=trian is no split .* did you mean 'train'"),
        ({"train.parquet": 0}, {"split_test": "holdout"}, "data.split_test=holdout is no split"),
        ({"full/train.parquet": 0, "small/train.parquet": 9}, {},
         "'train' has several sets of files \\(full/train, small/train\\).*set data.root"),
        ({"full/train/0000.parquet": 0, "small/train/0000.parquet": 9}, {}, "several sets of files"),
        ({"train/cats.parquet": 0, "train/dogs.parquet": 9}, {}, "several sets of files"),
        ({"train-00000-of-00001.parquet": 0, "data/train-00000-of-00001.parquet": 0}, {}, "several sets of files"),
        ({"train.parquet": 0, "training.parquet": 0}, {}, "several sets of files"),
        ({"test/train.parquet": 0}, {}, "named after several splits, test and train"),
        ({"train-00000-of-00001.parquet": 0, "train-00000-of-00002.parquet": 0, "train-00001-of-00002.parquet": 2}, {},
         "two shardings side by side"),
        ({"train.parquet": 0, "train-00000-of-00001.parquet": 0}, {}, "two shardings side by side"),
        ({"train-00000-of-00003.parquet": 0, "train-00002-of-00003.parquet": 2}, {}, "shard 1 is missing \\(.* 2 of 3"),
        ({"train-00000-of-00003.parquet": 0}, {}, "shard 1 is missing"),
        ({"train-00000-of-999999999.parquet": 0}, {}, "shard 1 is missing"),
        ({"train-00001-of-00002.parquet": 0}, {}, "shard 0 is missing"),
        ({"train-00000-of-00001.parquet": 0, "train-00001-of-00001.parquet": 0}, {}, "shard 1 is too many"),
        ({"train-00000-of-00001-aaaa.parquet": 0, "train-00000-of-00001-bbbb.parquet": 0}, {}, "beside others"),
        ({"train/0000.parquet": 0, "train/0002.parquet": 0}, {}, "shard 1 is missing"),
        ({"0002.parquet": 0}, {}, "shard 1 is missing"),
        ({"train.parquet": 0, "train_1.parquet": 0}, {}, "train.parquet stands beside others of its name"),
        ({"test.parquet": 0, "train.parquet": 0, "test_1.parquet": 9}, {"split_train": "test"}, "stands beside others"),
    ],
)  # fmt: skip
def test_what_may_be_of_any_split_or_comes_twice_is_refused(tmp_path, files, keys, text):
    written(tmp_path, files)
    with pytest.raises(UserError, match=text):
        read(tmp_path, **keys)
        read(tmp_path, "val", **keys)


def test_split_words():
    assert split_of("train-00000-of-00002.parquet") == split_of("Training") == split_of("train2017") == "train"
    assert {split_of(name) for name in ("val", "valid", "validation", "dev")} == {"validation"}
    assert {split_of(name) for name in ("test", "testing", "eval", "evaluation")} == {"test"}
    assert {split_of(name) for name in ("n01440764", "train_old", "latest", "holdout", "-")} == {None}


CATS = ["cat", "dog", "fox"]


@pytest.mark.parametrize(
    ("train", "test", "classes", "expected"),
    [
        # names in another order between splits and between shards
        ([table([0, 1, 2], names=CATS)], table([0, 1], 9, names=["dog", "cat", "fox"]), CATS,
         ["cat", "dog", "fox", "dog", "cat"]),
        ([table([0, 1, 2], names=CATS), table([0, 1], 5, names=["fox", "dog", "cat"])], table([2], 9, names=CATS), CATS,
         ["cat", "dog", "fox", "fox", "dog", "fox"]),
        ([table([1, 0], names=["cat", "dog"])], table(["dog", "cat"], 9), ["cat", "dog"], ["dog", "cat", "dog", "cat"]),
        # a hidden folder's name without samples is no class
        ([table([0, 2], names=["cat", ".ipynb_checkpoints", "dog"])], None, ["cat", "dog"], ["cat", "dog"]),
        ([table([1, 2], names=["__MACOSX", "cat", "dog"])], table([2], 9, names=["__MACOSX", "cat", "dog"]),
         ["cat", "dog"], ["cat", "dog", "dog"]),
        # text, whichever way it is stored: sorted, over all shards
        ([table(["dog", "cat"]), table(["bee"], 5)], table(["dog"], 9), ["bee", "cat", "dog"],
         ["dog", "cat", "bee", "dog"]),
        ([table(pa.array(["dog", "cat"]).dictionary_encode())], None, ["cat", "dog"], ["dog", "cat"]),
        ([table(pa.array(["dog", "cat"], pa.large_string()))], None, ["cat", "dog"], ["dog", "cat"]),
        ([table(["dog", "cat"]), table(pa.array([], pa.string()))], None, ["cat", "dog"], ["dog", "cat"]),
        ([table(["10", "9"])], None, ["10", "9"], ["10", "9"]),
        # integers: the classes are those in use
        ([table(pa.array([3, 1, 2], pa.uint8()))], table([1, 3], 9), ["1", "2", "3"], ["3", "1", "2", "1", "3"]),
        ([table([0, 7])], None, ["0", "7"], ["0", "7"]),
        ([table(pa.array([5, 0]).dictionary_encode())], None, ["0", "5"], ["5", "0"]),
        ([table([True, False])], None, ["0", "1"], ["1", "0"]),
        ([table([0, 99_999])], None, ["0", "99999"], ["0", "99999"]),
    ],
)  # fmt: skip
def test_names_map_labels(tmp_path, train, test, classes, expected):
    shards = {f"train-{i:05}-of-{len(train):05}.parquet": shard for i, shard in enumerate(train)}
    written(tmp_path, shards | ({"test.parquet": test} if test is not None else {}))
    assert open_source(SourceSpec("parquet", str(tmp_path)), "train").class_names == classes
    assert [name for _, name in (read(tmp_path) or []) + (read(tmp_path, "val") or [])] == expected


TRAIN, TEST, SHARD, NEXT = "train.parquet", "test.parquet", "train_0.parquet", "train_1.parquet"
NULL = pa.array([1, None])


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({TRAIN: table([0, 10**9])}, "train.parquet row 1: label 1000000000 is not in 0..999999"),
        ({TRAIN: table([0, 10**7])}, "row 1: label 10000000 is not in"),
        ({TRAIN: table([0, 1, -1])}, "row 2: label -1 is not in .* data.split_test=none"),
        ({TRAIN: table(pa.array([0, 2**64 - 1], pa.uint64()))}, "train.parquet: cannot be read as Parquet"),
        ({TRAIN: table([0, 3], names=CATS)}, "row 1: label 3 is not in 0..2"),
        ({TRAIN: table(NULL)}, "train.parquet row 1: no label"),
        ({TRAIN: table(["a", None])}, "row 1: no label"),
        ({TRAIN: table(["a", ""])}, "row 1: an empty label"),
        ({TRAIN: table([0.0, 1.0])}, "column label is of type double; labels are integers or text"),
        ({TRAIN: table([[0], [1]])}, "column label is of type list"),
        ({TRAIN: table([b"a", b"b"])}, "column label is of type binary"),
        ({TRAIN: table(pa.array([0, 1]).cast(pa.timestamp("s")))}, "column label is of type timestamp"),
        ({TRAIN: table([0, 1], names=CATS)}, "class fox has no samples"),
        ({TRAIN: table([0, 1], names=["cat", ".hidden"])}, "class .hidden is named as a hidden folder"),
        ({TRAIN: table(names=CATS[:2]), TEST: table(names=["cat", "cow"])}, "row 1: label cow is none of"),
        ({TRAIN: table(names=CATS[:2]), TEST: table()}, "test.parquet: labels are integers without names"),
        ({TRAIN: table(), TEST: table(names=CATS[:2])}, "row 0: label cat is none of the 2 classes"),
        ({TRAIN: table([1, 2]), TEST: table([0])}, "test.parquet row 0: label 0 is none of the 2"),
        ({SHARD: table(names=CATS[:2]), NEXT: table(names=["cat", "cow"])}, "other classes than train_0"),
        ({SHARD: table(names=CATS[:2]), NEXT: table()}, "train_1.parquet: labels are integers without"),
        ({SHARD: table(), NEXT: table(["a", "b"])}, "train_1.parquet: labels are text, and integers"),
        ({SHARD: table(), NEXT: pa.table({"x": [1]})}, "train_1.parquet: no image column"),
        ({SHARD: table(), NEXT: table().rename_columns(["img", "label"])}, "column img.bytes stands for image.bytes"),
        ({SHARD: table(), NEXT: table().rename_columns(["image", "target"])}, "column target stands for label in"),
        ({TRAIN: table(), TEST: table().rename_columns(["image", "labels"])}, "test.parquet: column labels stands for"),
        *(({TRAIN: table(metadata=text)}, "the Hub's metadata of its features is damaged") for text in
          (b"{", b"\xff", b"[]", b'"x"', b"[" * 9999, b'{"info": {"features": 3}}',
           *(b'{"info": {"features": {"label": %s}}}' % label for label in
             (b"[1]", b'{"names": [1, 2]}', b'{"names": {"a": 1}}', b'{"names": [""]}')))),
        ({TRAIN: table(names=["cat", "cat"])}, "names a class of label twice"),
        ({TRAIN: b""}, "train.parquet: cannot be read as Parquet"),
        ({TRAIN: b"PAR1" + b"x" * 50 + b"PAR1"}, "train.parquet: cannot be read as Parquet"),
        ({TRAIN: table(pa.array([], pa.int64()))}, "train.parquet has no rows"),
        ({TRAIN: table(), TEST: table(pa.array([], pa.int64()))}, "test.parquet has no rows"),
    ],
)  # fmt: skip
def test_labels_that_say_no_class_are_refused(tmp_path, files, text):
    written(tmp_path, files)
    with pytest.raises(UserError, match=text) as caught:
        read(tmp_path)
        read(tmp_path, "val")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        ([1, 2, 3], "labels are 1 to 3, 3 of them in use: class 0 is label 1, class 2 label 3"),
        ([0, 1, 5], "labels are 0 to 5, 3 of them in use: class 0 is label 0, class 2 label 5"),
        (["0", "10", "2"], "classes are in the order of their names as text, as torchvision's: 0, 10, 2"),
        ([0, 1, 2], None),
        (["a", "b"], None),
    ],
)
def test_what_is_unusual_of_labels_is_said(tmp_path, labels, note):
    written(tmp_path, {"train.parquet": table(labels)})
    notes = open_source(SourceSpec("parquet", str(tmp_path)), "train").notes
    assert (note in notes[0]) if note else notes == ()


@pytest.mark.parametrize(
    ("names", "keys", "unread"),
    [
        ("train valid test", {}, "test"),
        ("train valid test", {"split_test": "test"}, "validation"),
        ("train test extra", {"split_train": "train", "split_test": "none"}, "extra, test"),
        ("train test", {}, None),
        ("pictures", {}, None),
    ],
)
def test_splits_that_are_not_read_are_said(tmp_path, names, keys, unread):
    written(tmp_path, {f"{name}.parquet": 0 for name in names.split()})
    notes = open_source(SourceSpec("parquet", str(tmp_path), **keys), "train").notes
    assert notes == ((f"{tmp_path}: of its splits these are not read: {unread}",) if unread else ())


def columns(**named):
    return {
        "train.parquet": pa.table(
            {name: pa.array(column) if isinstance(column, list) else column for name, column in named.items()}
        )
    }


A, B, L = cells([7, 8]), cells([17, 18]), [1, 0]
SEVEN, SEVENTEEN = [(7, "1"), (8, "0")], [(17, "1"), (18, "0")]


@pytest.mark.parametrize(
    ("files", "keys", "expected"),
    [
        (columns(mask=B, image=A, label=L), {}, SEVEN),
        (columns(mask=B, img=A, label=L), {}, SEVEN),
        (columns(image=A, mask=B, label=L), {"image_column": "mask"}, SEVENTEEN),
        (columns(image=[png(7), png(8)], label=L), {}, SEVEN),
        (columns(image=pa.array([png(7), png(8)], pa.large_binary()), label=L), {}, SEVEN),
        (columns(image=A, label=[0, 1], truth=L), {"label_column": "truth"}, SEVEN),
        (columns(image=A, fine_label=L, coarse_label=[0, 0]), {}, SEVEN),
        (columns(image=A, target=["1", "0"]), {}, SEVEN),
        (columns(x=A, y=L), {"image_column": "x", "label_column": "y"}, SEVEN),
        (columns(mask=B, label=L), {}, "no image column .* name it by data.image_column; those with bytes: mask"),
        (columns(image=["a.png", "b.png"], label=L), {}, "column image is of type string; an image is its file"),
        (columns(image=[[1, 2], [3, 4]], label=L), {}, "column image is of type list"),
        (columns(image=[{"path": "a"}, {"path": "b"}], label=L), {}, "column image is of type struct"),
        (columns(image=[{"bytes": "a"}, {"bytes": "b"}], label=L), {}, "column image is of type struct"),
        (columns(image=[{"bytes": None, "path": "a"}] * 2, label=L), {}, "column image is of type struct"),
        (columns(image=pa.array([{"bytes": b"x"}, None]), label=L), {}, "cannot be decoded"),
        (columns(image=pa.array([None, {"bytes": b"x"}]), label=L), {}, "row 0: holds no image bytes"),
        (columns(image=A, label=L), {"image_column": "img"}, "no column is called img"),
        (columns(image=A, label=L), {"label_column": "class"}, "no column is called class"),
        (columns(image=A, kind=L), {}, "no label column .* data.label_column .*, of: image, kind"),
        (columns(image=A, target=L, **{"class": L}), {}, "class and target may all hold labels"),
        ({"train.parquet": pa.Table.from_arrays([A, pa.array(L), pa.array([0, 1])], ["image", "label", "label"])}, {},
         "2 columns are called label"),
        ({"train.parquet": pa.Table.from_arrays([A, B, pa.array(L)], ["image", "image", "label"])}, {},
         "2 columns are called image"),
    ],
)  # fmt: skip
def test_columns(tmp_path, files, keys, expected):
    written(tmp_path, files)
    if isinstance(expected, list):
        assert read(tmp_path, **keys) == expected
    else:
        with pytest.raises(UserError, match=expected):
            read(tmp_path, **keys)


def test_class_labels_of_the_hub_under_a_name_of_their_own(tmp_path):
    features = {"kind": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "id": {"dtype": "int64", "_type": "Value"}}
    (files,) = columns(id=[5, 6], image=A, kind=L).values()
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    written(tmp_path, {"train.parquet": files.replace_schema_metadata(metadata)})
    assert read(tmp_path) == [(7, "dog"), (8, "cat")]


def test_well_known_sets_map_names(tmp_path):
    names = [str(digit) for digit in range(10)]
    files = {"train.parquet": table(range(10), names=names[::-1]), "test.parquet": table([0, 3], names=names)}
    written(tmp_path, files)
    train, test = (open_source(SourceSpec("mnist", str(tmp_path)), split) for split in ("train", "val"))
    assert train.labels.tolist() == list(range(9, -1, -1)) and test.labels.tolist() == [0, 3]
    written(tmp_path, {"train.parquet": table([0, 1], names=["cat", "dog"])})
    with pytest.raises(UserError, match="row 0: label cat is none of the 10 classes"):
        open_source(SourceSpec("mnist", str(tmp_path)), "train")
    written(tmp_path, {"train.parquet": table([0, 10])})
    with pytest.raises(UserError, match="row 1: label 10 is none of the 10 classes"):
        open_source(SourceSpec("mnist", str(tmp_path)), "train")
    written(tmp_path, {"train.parquet": table([0, 1], names=["a", "b"]), "test.parquet": table([0], names=["b", "a"])})
    assert open_source(SourceSpec("imagenet", str(tmp_path)), "val").labels.tolist() == [1]


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], ["a", "b", "a", "b"], [True, False, True, True]])
def test_damaged_bytes_end_in_one_line_or_in_an_image(tmp_path, labels):
    """Wherever a file is cut, and whatever bytes are changed, lost or put in."""
    pq.write_table(
        table(labels, names=CATS[:2] if labels[1] == 1 else None), tmp_path / "train.parquet", row_group_size=3
    )
    path, rng = tmp_path / "train.parquet", np.random.default_rng(0)
    good = path.read_bytes()
    for at in [*range(0, len(good), 97), len(good) - 1]:
        path.write_bytes(good[:at])
        with pytest.raises(UserError, match="train.parquet"):
            read(tmp_path)
    for _ in range(200):
        at, length = int(rng.integers(0, len(good))), int(rng.integers(0, 4))
        path.write_bytes(good[:at] + rng.bytes(int(rng.integers(0, 4))) + good[at + length :])
        try:
            read(tmp_path)
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["FIFO", "device", "broken link", "unreadable"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "train.parquet"
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "broken link": "nowhere", "unreadable": "train.parquet"}[kind])
    with pytest.raises(UserError, match="train.parquet is a "):
        read(tmp_path)


def test_links_are_followed_and_not_twice(tmp_path):
    """As the Hub's client leaves them: snapshots of links into a folder of blobs."""
    blobs = written(tmp_path / "blobs", {"0123": 0, "4567": 9})
    (tmp_path / "snapshot" / "data").mkdir(parents=True)
    for name, blob in (("train", "0123"), ("test", "4567")):
        (tmp_path / "snapshot" / "data" / f"{name}-00000-of-00001.parquet").symlink_to(blobs / blob)
    assert (read(tmp_path / "snapshot"), read(tmp_path / "snapshot", "val")) == (rows(0), rows(9))
    (tmp_path / "snapshot" / "data" / "again").symlink_to(tmp_path / "snapshot")
    with pytest.raises(UserError, match="again is by links the same folder as"):
        read(tmp_path / "snapshot")


def test_one_file_is_the_training_split(tmp_path):
    written(tmp_path, {"test.parquet": 5})
    assert (read(tmp_path / "test.parquet"), read(tmp_path / "test.parquet", "val")) == (rows(5), None)


def test_settings_that_the_source_does_not_read(tmp_path):
    with pytest.raises(UserError, match="data.split_test is read by data.source=imagefolder and parquet alone"):
        open_source(SourceSpec("digits", split_test="test"), "train")
    with pytest.raises(UserError, match="data.label_column is read by data.source=parquet alone"):
        open_source(SourceSpec("imagefolder", str(tmp_path), label_column="x"), "train")


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, 10), lambda path: path.unlink(), os.utime])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, change):
    path = written(tmp_path, {"train.parquet": table(range(6))}) / "train.parquet"
    source = open_source(SourceSpec("parquet", str(tmp_path)), "train")
    change(path)
    with pytest.raises(UserError, match="train.parquet(: cannot be read| was changed while it was read)"):
        source.read(0)


def test_no_file_stays_open(tmp_path):
    """A set of more files than a process may open at once."""
    total = 40
    written(tmp_path, {f"train-{i:05}-of-{total:05}.parquet": 2 * i for i in range(total)})
    before = os.listdir("/proc/self/fd")
    source = open_source(SourceSpec("parquet", str(tmp_path)), "train")
    assert [int(source.image(i)[0, 0, 0]) for i in range(2 * total)] == list(range(2 * total))
    assert os.listdir("/proc/self/fd") == before
