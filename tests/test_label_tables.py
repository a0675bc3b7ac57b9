"""Label tables in every form that label-noise projects give them: the right label for each sample, or one line."""

import json
import os
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from fastgen.recipe.load import load
from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.verify import recompute
from pipelines.corruptions import LabelSpec, PixelSpec, corrupt_labels
from pipelines.errors import UserError
from pipelines.sources import SourceSpec, SyntheticSpec, open_source

N, K = 60, 10
CLEAN = np.random.default_rng(0).integers(0, K, N)
NOISY = (CLEAN * 3 + 1) % K
ORDER = np.random.default_rng(1).permutation(N)
ONE_HOT = np.eye(K)[NOISY]


def write(path, content):
    """A file of the kind that its name says, of a dictionary of columns or of whatever the kind holds."""
    suffix = path.suffix
    if suffix == ".npy":
        np.save(path, content)
    elif suffix == ".npz":
        np.savez(path, **content)
    elif suffix == ".json":
        path.write_text(json.dumps(content, default=np.ndarray.tolist))
    elif suffix == ".pt":
        torch.save(content, path)
    elif isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        writer = pyarrow.csv.write_csv if suffix == ".csv" else pyarrow.parquet.write_table
        writer(pa.table({name: list(values) for name, values in content.items()}), path)
    return str(path)


def lines(values):
    return "\n".join(map(str, values)) + "\n"


SHUFFLED = {"label": NOISY[ORDER]}
READ = {  # name: (suffix, content, column, words of what is said)
    "uint8": (".npy", NOISY.astype(np.uint8), None, None),
    "int16": (".npy", NOISY.astype(np.int16), None, None),
    "uint64": (".npy", NOISY.astype(np.uint64), None, None),
    "whole floats": (".npy", NOISY.astype(np.float32), None, None),
    "a column (n, 1)": (".npy", NOISY[:, None], None, None),
    "one-hot": (".npy", ONE_HOT, None, "one-hot"),
    "one-hot of truth values": (".npz", {"y": ONE_HOT > 0}, None, "one-hot"),
    "one-hot lists": (".parquet", {"label": ONE_HOT.tolist()}, None, "one-hot"),
    "one-based": (".npy", NOISY + 1, None, "counts classes from 1"),
    "one-based CSV with clean labels": (
        ".csv",
        {"clean_label": CLEAN + 1, "label": NOISY + 1},
        None,
        "counts classes from 1",
    ),
    "JSON list": (".json", NOISY.tolist(), None, None),
    "JSON columns": (".json", {"worse": NOISY, "other": CLEAN}, "worse", None),
    "tensor": (".pt", torch.from_numpy(NOISY), None, None),
    "tensor of bytes": (".pt", torch.from_numpy(NOISY.astype(np.uint8)), None, None),
    "array in .pt": (".pt", NOISY, None, None),
    "list in .pt": (".pt", NOISY.tolist(), None, None),
    "tensors in .pt": (".pt", {"a": torch.from_numpy(NOISY), "b": torch.from_numpy(CLEAN)}, "a", None),
    "beside other arrays": (".npz", {"label": NOISY, "clean_label": CLEAN, "seed": np.array(3)}, None, None),
    "chosen beside a matrix": (".npz", {"label": NOISY, "transition": np.eye(K)}, "label", None),
    "CSV without a header": (".csv", lines(NOISY), None, None),
    "CSV": (".csv", {"label": NOISY}, None, None),
    "index in CSV": (".csv", {"index": ORDER, **SHUFFLED}, None, None),
    "Index in Parquet": (".parquet", {**SHUFFLED, "Index": ORDER}, None, None),
    "index from 1": (".csv", {"index": ORDER + 1, **SHUFFLED}, None, "counted from 1"),
    "index in .npz": (".npz", {"index": ORDER.astype(float), **SHUFFLED}, None, None),
    "unnamed index in CSV": (
        ".csv",
        ",label\n" + lines(f"{i},{y}" for i, y in zip(ORDER, NOISY[ORDER], strict=True)),
        None,
        None,
    ),
    "pandas' name for one": (".csv", {"Unnamed: 0": ORDER, **SHUFFLED}, None, None),
    "unnamed index in Parquet": (".parquet", {**SHUFFLED, "__index_level_0__": ORDER}, None, None),
    "a named index beside an unnamed": (".csv", {"Unnamed: 0": np.arange(N), "index": ORDER, **SHUFFLED}, None, None),
    "clean labels in the index's order": (
        ".parquet",
        {"index": ORDER, "clean_label": CLEAN[ORDER], **SHUFFLED},
        None,
        None,
    ),
    "fastgen's labels.parquet": (
        ".parquet",
        {"index": ORDER, "given_label": NOISY[ORDER], "true_label": CLEAN[ORDER]},
        None,
        None,
    ),
    "names in their order": (".csv", {"file": [f"{i:03}.png" for i in range(N)], "label": NOISY}, "label", None),
}


@pytest.mark.parametrize("name", READ)
def test_read_rightly(name, tmp_path, recwarn):
    suffix, content, column, words = READ[name]
    spec = LabelSpec("table", file=write(tmp_path / f"labels{suffix}", content), column=column)
    given = corrupt_labels(spec, CLEAN, K)
    assert given.dtype == np.int64 and np.array_equal(given, NOISY)
    said = [str(warning.message) for warning in recwarn]
    assert all(words in text and "labels." in text for text in said) if words else not said
    assert bool(said) == (words is not None)


TWICE = np.concatenate([[5], ORDER[1:]]) if ORDER[0] != 5 else np.concatenate([[6], ORDER[1:]])
REFUSED = {  # name: (suffix, content, column, words)
    "too few": (".npy", NOISY[:9], None, "9 labels for 60 training samples"),
    "too many": (".npy", np.tile(NOISY, 2), None, "120 labels for 60 training samples"),
    "none": (".npy", NOISY[:0], None, "0 labels for 60"),
    "out of range": (".npy", NOISY + 2, None, r"label 1[01] in row \d+ is not in 0..9"),
    "not annotated": (
        ".npy",
        np.where(ORDER == 7, -1, NOISY),
        None,
        f"label -1 in row {int(np.argmax(ORDER == 7))} is",
    ),
    "fractions": (".npy", NOISY + 0.5, None, "in row 0, not integers"),
    "not a number": (".parquet", {"label": [*NOISY[:-1].tolist(), None]}, None, "nan in row 59, not integers"),
    "text": (".csv", {"label": [f"c{y}" for y in NOISY]}, None, "not integers"),
    "a table of too many columns": (".npy", np.zeros((N, 3)), None, r"\(60, 3\), not integers"),
    "probabilities": (".npy", np.full((N, K), 0.1), None, "not a one and zeros"),
    "twos": (".npy", 2 * ONE_HOT, None, "not a one and zeros"),
    "which column": (
        ".npz",
        {"a": NOISY, "b": NOISY},
        None,
        "has the columns a, b; name one of them as data.labels.column",
    ),
    "unknown column": (".npz", {"a": NOISY}, "worse", "has the columns a; name one"),
    "one number": (".npy", np.array(3), None, "holds no list of labels"),
    "index with a sample twice": (
        ".csv",
        {"index": TWICE, **SHUFFLED},
        None,
        "its index does not number the samples from 0 to 59",
    ),
    "index of other samples": (".csv", {"index": ORDER + 100, **SHUFFLED}, None, "does not number the samples"),
    "unnamed column of names": (
        ".csv",
        ",label\n" + lines(f"x{i},{y}" for i, y in enumerate(NOISY)),
        None,
        "does not number",
    ),
    "index of another length": (
        ".npz",
        {"index": ORDER[:9], **SHUFFLED},
        None,
        "column 'index' has 9 rows, 'label' 60",
    ),
    "names in another order": (
        ".csv",
        {"file": [f"{i:03}.png" for i in ORDER], **SHUFFLED},
        "label",
        "column 'file' names each row",
    ),
    "numbers in another order": (
        ".parquet",
        {"id": ORDER, **SHUFFLED},
        "label",
        "column 'id' names each row.*column index",
    ),
    "clean labels in another order": (
        ".npz",
        {"clean_label": CLEAN[ORDER], **SHUFFLED},
        None,
        "true label of .*another order",
    ),
    "column twice": (".csv", "label,label\n" + lines(f"{y},{y}" for y in NOISY), None, "cannot be read"),
    "objects": (".npy", np.array([1, "a", None] * 20, object), None, "cannot be read"),
    "JSON of ragged lists": (".json", [[1], [1, 2]], None, "cannot be read"),
    "damaged": (".parquet", b"PAR1 and no more", None, "cannot be read"),
    "damaged .pt": (".csv", b"\xff\xfe", None, "cannot be read"),
    "unknown kind": (".txt", lines(NOISY), None, r"known kinds are \.npy, .*\.pt"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    suffix, content, column, words = REFUSED[name]
    path = tmp_path / f"labels{suffix}"
    if name == "objects":
        np.save(path, content, allow_pickle=True)
    else:
        write(path, content)
    with pytest.raises(UserError, match=f"labels{suffix}.*{words}"):
        corrupt_labels(LabelSpec("table", file=str(path), column=column), CLEAN, K)


def cifar_n(path, content, module="numpy.core.multiarray"):
    """As torch.save wrote CIFAR-10N's and CIFAR-100N's files, with numpy 1."""
    written = pickle.dumps(content, protocol=2).replace(b"numpy._core.multiarray", module.encode())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", written)
        archive.writestr("archive/version", "3\n")
    return str(path)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_the_published_files_of_cifar_n(module, tmp_path):
    content = {"clean_label": CLEAN, "worse_label": NOISY, "aggre_label": CLEAN, "random_label1": (CLEAN + 1) % K}
    file = cifar_n(tmp_path / "CIFAR-10_human.pt", content, module)
    with pytest.raises(UserError, match="aggre_label, clean_label, random_label1, worse_label; name one"):
        corrupt_labels(LabelSpec("table", file=file), CLEAN, K)
    for column, expected in content.items():
        assert np.array_equal(corrupt_labels(LabelSpec("table", file=file, column=column), CLEAN, K), expected)
    with pytest.raises(UserError, match="another order than this source .*torchvision's order"):
        corrupt_labels(LabelSpec("table", file=file, column="worse_label"), CLEAN[ORDER], K)


FINE = np.random.default_rng(2).integers(0, 100, N)
CIFAR_100N = {
    "clean_label": FINE, "noisy_label": (FINE + 1) % 100, "clean_coarse_label": FINE // 5,
    "noisy_coarse_label": (FINE // 5 + 1) % 20,
}  # fmt: skip


@pytest.mark.parametrize("folders", [("cifar10n", "cifar100n"), ("cifar-10-100n/data",) * 2])
def test_published_labels_by_their_names(folders, tmp_path, monkeypatch):
    """Where the user puts the files, or where the authors' repository has them."""
    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path))
    cifar_10n = {"clean_label": CLEAN, "worse_label": NOISY, "aggre_label": CLEAN, "random_label1": (CLEAN + 1) % K}
    for folder, name, content in zip(folders, ("CIFAR-10", "CIFAR-100"), (cifar_10n, CIFAR_100N), strict=True):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        cifar_n(tmp_path / folder / f"{name}_human.pt", content)
    for name, true, classes, content in (
        ("worse_label", CLEAN, 10, cifar_10n),
        ("random_label1", CLEAN, 10, cifar_10n),
        ("noisy_label", FINE, 100, CIFAR_100N),
        ("noisy_coarse_label", FINE // 5, 20, CIFAR_100N),
    ):
        spec = LabelSpec("table", name=name)
        assert np.array_equal(corrupt_labels(spec, true, classes), content[name])
        assert spec.resolved() == LabelSpec("table", column=name).resolved() == LabelSpec("table", column=name)
        named = LabelSpec("table", file=spec.table, name=name)
        assert named.column_name == spec.column_name == LabelSpec("table", file=spec.table, column=name).column_name
        with pytest.raises(UserError, match=r"human.pt: its clean_\w*label differs from the true label of 60"):
            corrupt_labels(spec, (true + 1) % classes, classes)
    with pytest.raises(UserError, match="column 'noisy_label': label .* is not in 0..9"):
        corrupt_labels(LabelSpec("table", name="noisy_label"), CLEAN, K)


@pytest.mark.parametrize(
    ("source", "name", "wanted"),
    [
        ("cifar100", "noisy_coarse_label", "cifar100_coarse"),
        ("cifar100_coarse", "noisy_label", "cifar100"),
        ("cifar100", "worse_label", "cifar10"),
        ("cifar10", "noisy_label", "cifar100"),
    ],
)
def test_published_labels_of_another_set(source, name, wanted):
    settings = [f"data.source={source}", "data.labels.kind=table", f"data.labels.name={name}"]
    with pytest.raises(UserError, match=f"name={name} has labels of data.source={wanted}, and not of {source}"):
        load("cifar10_alexnet_true", settings)
    load("cifar10_alexnet_true", [*settings, "data.labels.file=own.npy"])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (LabelSpec("table"), "needs data.labels.file=PATH .* or the data.labels.name .* one of worse_label, "),
        (LabelSpec("table", name="worst_label"), "of 'worst_label': did you mean 'worse_label'"),
        (LabelSpec("table", column="mine"), "of 'mine': known: aggre_label"),
        (LabelSpec("table", name="worse_label"), "CIFAR-10_human.pt, which is not at .*cifar10n/CIFAR-10_human.pt"),
        (LabelSpec("table", name="noisy_label"), "100n/CIFAR-100_human.pt or .*cifar-10-100n/data/CIFAR-100_"),
        (LabelSpec("random", name="worse_label"), "data.labels.name is only used with data.labels.kind=table"),
        (LabelSpec("table", file="x.pt", column="a", name="b"), "name=b and data.labels.column=a name two columns"),
    ],
)  # fmt: skip
def test_names_that_are_of_no_file(spec, words, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path))
    with pytest.raises(UserError, match=words):
        spec.column_name  # noqa: B018 (resolves and checks)


def test_a_set_with_published_labels_is_baked_named_and_verified(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path))
    source = SourceSpec("synthetic", synthetic=SyntheticSpec(samples=N, size=4))
    true = open_source(source, "train").labels
    (tmp_path / "cifar10n").mkdir()
    file = cifar_n(tmp_path / "cifar10n" / "CIFAR-10_human.pt", {"clean_label": true, "worse_label": (true + 1) % K})
    recipe = load("cifar10n_alexnet", ["data.labels.name=worse_label"])
    assert recipe.run.name == "cifar10n_alexnet-column-worse_label"
    assert recipe.data.labels == LabelSpec("table", column="worse_label")
    baked = bake(source, recipe.data.labels, PixelSpec(), BakeSpec(), tmp_path)
    columns, name = baked.splits["train"].columns, recipe.data.labels.column_name
    assert np.array_equal(columns[name], (columns["clean_label"] + 1) % K)
    assert baked.manifest.splits["train"].columns[name].spec == {"kind": "table", "seed": 0, "column": "worse_label"}
    assert recompute(baked)[0].startswith(f"train: {name} as computed again")
    cifar_n(file, {"clean_label": true, "worse_label": true})
    assert f"{name} ({file} has changed)" in recompute(baked)[0]


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_nothing_in_a_table_is_executed(tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "labels.pt"
    hidden = np.array([Exploit(marker)], object)
    for content in (Exploit(marker), {"label": Exploit(marker)}, {"label": NOISY, "more": hidden}):
        for make in (cifar_n, lambda path, content: torch.save(content, path)):
            make(path, content)
            with pytest.raises(
                UserError, match="labels.pt is damaged, or holds more than .*could execute code"
            ) as error:
                corrupt_labels(LabelSpec("table", file=str(path)), CLEAN, K)
            assert "weights_only" not in str(error.value)
    np.save(tmp_path / "labels.npy", hidden, allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        corrupt_labels(LabelSpec("table", file=str(tmp_path / "labels.npy")), CLEAN, K)
    assert not marker.exists()


@pytest.mark.parametrize("suffix, indexed", [(".npy", False), (".parquet", True)])
def test_of_a_table_for_the_whole_set_the_first_rows_are_taken(suffix, indexed, tmp_path):
    source = SourceSpec("synthetic", synthetic=SyntheticSpec(samples=N, size=4), limit=7)
    true = open_source(source, "train").whole.labels
    noisy = (true + 1) % K
    content = {"index": ORDER, "label": noisy[ORDER], "clean_label": true[ORDER]} if indexed else noisy
    labels = LabelSpec("table", file=write(tmp_path / f"labels{suffix}", content))
    baked = bake(source, labels, PixelSpec(), BakeSpec(), tmp_path)
    columns = baked.splits["train"].columns
    assert np.array_equal(columns[labels.column_name], noisy[columns["index"]]) and len(columns["index"]) == 7
    with pytest.raises(UserError, match="8 labels for 7 training samples, of 60 in all"):
        corrupt_labels(LabelSpec("table", file=write(tmp_path / "8.npy", noisy[:8])), true[:7], K, N)


def test_of_a_table_for_the_whole_set_held_out_samples_have_no_labels(tmp_path):
    source = SourceSpec("synthetic", limit=20, holdout=0.3, synthetic=SyntheticSpec(samples=N, size=4))
    part = open_source(source, "train")
    noisy = (open_source(replace(source, limit=None, holdout=0), "train").labels + 1) % K
    labels = LabelSpec("table", file=write(tmp_path / "labels.npy", noisy))
    baked = bake(source, labels, PixelSpec(), BakeSpec(), tmp_path)
    columns = baked.splits["train"].columns
    assert np.array_equal(columns[labels.column_name], noisy[part.positions[columns["index"]]])
    assert np.array_equal(columns[labels.column_name], (columns["clean_label"] + 1) % K)
    assert (
        recompute(baked)[0]
        == f"train: {labels.column_name} as computed again; true labels and 20 images as in the source"
    )


def test_a_range_of_pandas_orders_the_rows(tmp_path):
    """As `frame.iloc[::-1].to_parquet` writes it: the index is no column."""
    path = tmp_path / "labels.parquet"
    for start, stop, step in ((0, N, 1), (N - 1, -1, -1), (5, N + 5, 1)):
        index = {"kind": "range", "name": None, "start": start, "stop": stop, "step": step}
        metadata = {"pandas": json.dumps({"index_columns": [index], "columns": []})}
        pyarrow.parquet.write_table(pa.table({"label": NOISY[::step]}).replace_schema_metadata(metadata), path)
        spec = LabelSpec("table", file=str(path))
        if start == 5:
            with pytest.raises(UserError, match="does not number the samples"):
                corrupt_labels(spec, CLEAN, K)
        else:
            assert np.array_equal(corrupt_labels(spec, CLEAN, K), NOISY)


@pytest.mark.parametrize("content", ["5", '"x"', "{}", '{"0": 3}'])
def test_a_file_without_labels_says_so(content, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(UserError, match="holds no list of labels"):
        corrupt_labels(LabelSpec("table", file=str(path)), CLEAN, K)
