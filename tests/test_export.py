"""Exports: the same bytes, labels and order in another format, read by the tools that it is for."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from fastgen import cli
from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.export import export
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec, SyntheticSpec

SAMPLES, TEST_SAMPLES = 301, 50


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def baked(request, tmp_path_factory):
    source = SourceSpec("synthetic", synthetic=SyntheticSpec(SAMPLES, TEST_SAMPLES, 24, jpeg=request.param == "jpeg"))
    spec = BakeSpec(request.param, columns=[LabelSpec("partial", 0.25), LabelSpec()])
    return bake(source, LabelSpec("random"), PixelSpec(), spec, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def exported(baked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "out"
    export(baked, "webdataset", folder, shard_bytes=200_000)
    return folder


def check(beton, row, image, cls, columns):
    """One sample of an export against the file: what a reader trains on is the first labelling."""
    if image.startswith(b"\xff\xd8"):
        begin = int(beton.ptr[row])
        assert image == beton.data[begin : begin + int(beton.sizes[row])].tobytes()
    else:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(image))), beton.image(row))
    assert int(cls) == beton.columns[beton.names[2]][row]
    assert columns == {name: values[row] for name, values in beton.columns.items()}


def test_webdataset_reads_it(baked, exported):
    webdataset = pytest.importorskip("webdataset")
    for split, samples in (("train", SAMPLES), ("val", TEST_SAMPLES)):
        beton = baked.splits[split]
        shards = sorted(str(path) for path in exported.glob(f"{split}-*.tar"))
        assert len(shards) > 1 or split == "val"
        row = -1
        for row, sample in enumerate(webdataset.WebDataset(shards, shardshuffle=False)):
            assert sample["__key__"] == f"{row:08d}"
            columns = {
                name.removesuffix(".i64"): int.from_bytes(value, "little")
                for name, value in sample.items()
                if name.endswith(".i64")
            }
            check(beton, row, sample.get("jpg") or sample["png"], sample["cls"].decode(), columns)
        assert row + 1 == samples


def test_dali_reads_each_sample_once_over_ranks_and_epochs(baked, exported):
    """With PARTIAL and pad_last_batch, without which DALI's reader repeats and loses samples."""
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    beton = baked.splits["train"]
    tars = sorted(str(path) for path in exported.glob("train-*.tar"))
    names = ["index", beton.names[2]]

    @pipeline_def(batch_size=16, num_threads=1, device_id=None)
    def pipeline(rank: int):
        image, *columns = fn.readers.webdataset(
            paths=tars, index_paths=[path.replace(".tar", ".idx") for path in tars], name="reader",
            ext=["jpg;png", *(f"{name}.i64" for name in names)], missing_component_behavior="error",
            dtypes=[types.DALIDataType.UINT8, *[types.DALIDataType.INT64] * len(names)],
            shard_id=rank, num_shards=3, pad_last_batch=True, random_shuffle=False,
        )  # fmt: skip
        return fn.decoders.image(image), *columns

    built = [pipeline(rank) for rank in range(3)]
    iterators = [
        DALIGenericIterator(
            [one], ["image", *names], reader_name="reader", last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
        )
        for one in built
    ]
    row_of = np.argsort(beton.columns["index"])
    for _ in range(3):
        seen = []
        for iterator in iterators:
            for (batch,) in iterator:
                rows = row_of[batch["index"].flatten().numpy()]
                assert np.array_equal(beton.columns[names[1]][rows], batch[names[1]].flatten().numpy())
                for row, image in zip(rows, batch["image"].numpy(), strict=True):
                    assert np.abs(image.astype(int) - beton.image(int(row))).mean() < 2
                seen += batch["index"].flatten().tolist()
        assert sorted(seen) == list(range(SAMPLES))


def test_the_index_is_what_dalis_own_tool_writes(exported, tmp_path):
    tool = pytest.importorskip("wds2idx")
    for tar in sorted(exported.glob("*.tar")):
        with tool.IndexCreator(str(tar), str(tmp_path / "index"), verbose=False) as creator:
            creator.create_index()
        assert (tmp_path / "index").read_text() == tar.with_suffix(".idx").read_text()


def test_equal_sets_give_equal_bytes_and_hashes_are_right(baked, exported, tmp_path):
    export(baked, "webdataset", tmp_path / "again", shard_bytes=200_000)
    about = json.loads((exported / "export.json").read_text())
    assert about["manifest_sha256"] == baked.sha256 and about["class_names"] == baked.manifest.class_names
    assert about["columns"] == {split: beton.names for split, beton in baked.splits.items()}
    for shards in about["splits"].values():
        for shard in shards:
            content = (exported / shard["file"]).read_bytes()
            assert content == (tmp_path / "again" / shard["file"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
            with tarfile.open(exported / shard["file"]) as tar:
                assert len({name.split(".")[0] for name in tar.getnames()}) == shard["samples"]


def test_the_command(baked, tmp_path, capsys):
    target = tmp_path / "shards"
    assert cli.main(["export", str(baked.path), "--to", "webdataset", "--output", str(target)]) == 0
    assert f"train, {SAMPLES} samples in 1 files" in capsys.readouterr().out
    assert sorted(p.name for p in target.iterdir() if p.suffix != ".tar") == [
        "export.json", "manifest.json", "train-000000.idx", "train.parquet", "val-000000.idx", "val.parquet"
    ]  # fmt: skip
    for arguments, message in (
        (["--to", "webdataset", "--output", str(target)], "exists already"),
        (["--to", "webdatset"], "did you mean 'webdataset'"),
        ([], "Missing option '--to'"),
        (["--to", "webdataset", "--shard-mb", "0"], "Invalid value for '--shard-mb'"),
    ):
        assert cli.main(["export", str(baked.path), *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "column"),
    [
        (["{path}"], "random_1_s0"),
        (["{path}", "--labels", "random_0.25_s0"], "random_0.25_s0"),
        (["{path}", "--labels", "label_true"], "label_true"),
        (["recipe=quickstart", "data.labels.kind=pair", "data.labels.p=0.5"], "pair_0.5_s0"),
        (["recipe=quickstart", "data.labels.kind=pair", "data.labels.p=0.5", "--labels", "random_1_s0"], "random_1_s0"),
    ],
)
def test_cls_is_the_chosen_labelling(baked, tmp_path, arguments, column, capsys):
    """And of the test set the true one."""
    cli.main(["bake", "recipe=quickstart"])
    capsys.readouterr()
    out = tmp_path / "out"
    given = [argument.format(path=baked.path) for argument in arguments]
    assert cli.main(["export", *given, "--to", "webdataset", "--output", str(out)]) == 0
    assert f"{out}: .cls is {column}" in capsys.readouterr().out
    for split, name in (("train", column), ("val", "clean_label")):
        with tarfile.open(out / f"{split}-000000.tar") as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for key in {name.split(".")[0] for name in members}:
            assert int(members[f"{key}.cls"]) == int.from_bytes(members[f"{key}.{name}.i64"], "little")
    assert json.loads((out / "export.json").read_text())["labels"] == {"train": column, "val": "label_true"}
    assert cli.main(["export", *given, "--to", "webdataset", "--output", str(out), "--labels", "label_tru"]) == 2
    assert "has no label column 'label_tru'" in capsys.readouterr().err


def test_an_export_that_fails_leaves_nothing_that_looks_whole(baked, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.baked.export._image", lambda *_: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(UserError, match="gone; name a folder that can be written"):
        export(baked, "webdataset", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("pipelines.baked.export.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="the export needs"):
        export(baked, "webdataset", tmp_path / "out")
