"""Runs over an export: the same batches as over the baked set, and nothing damaged goes unnoticed."""

import json
import shutil
import weakref

import numpy as np
import pytest
import torch

from fastgen import cli
from fastgen.recipe.load import load
from fastgen.training.loop import train
from pipelines.backends import open_engine
from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.export import export
from pipelines.baked.shards import Export
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sampler import Sampler
from pipelines.sources import SourceSpec, SyntheticSpec
from pipelines.view.regions import View, ViewSpec

SAMPLES, SIDE, CPU = 203, 40, torch.device("cpu")
RANDOM = LabelSpec("random")


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def sets(request, tmp_path_factory):
    """A baked set and its export, in several shards."""
    folder = tmp_path_factory.mktemp(request.param)
    source = SourceSpec("synthetic", synthetic=SyntheticSpec(SAMPLES, 50, SIDE, jpeg=request.param == "jpeg"))
    baked = bake(source, RANDOM, PixelSpec(), BakeSpec(request.param), folder)
    export(baked, "webdataset", folder / "out", shard_bytes=300_000)
    assert len(list((folder / "out").glob("train-*.tar"))) > 1
    return baked, Export.open(folder / "out", full=True)


def test_tables_are_the_sets(sets):
    baked, exported = sets
    assert exported.sha256 == baked.sha256 and exported.manifest == baked.manifest
    for split, beton in baked.splits.items():
        shards = exported.splits[split]
        assert shards.names == beton.names and shards.samples == beton.samples
        assert shards.fixed_size == beton.fixed_size == (SIDE, SIDE)
        assert all(np.array_equal(shards.columns[name], values) for name, values in beton.columns.items())
        for row in (0, beton.samples - 1):
            assert np.array_equal(shards.image(row), beton.image(row))


def test_files_live_until_dali_has_read_them(sets, monkeypatch):
    """DALI holds no reference, and works on the last batches when nothing is fed any more."""
    pytest.importorskip("nvidia.dali")
    shards, files_of_batches = sets[1].splits["train"], []
    encoded = type(shards).encoded

    def watched(self, rows_of_batches):
        for files in encoded(self, rows_of_batches):
            files_of_batches.append([weakref.ref(file) for file in files])
            yield files

    monkeypatch.setattr(type(shards), "encoded", watched)
    stream = open_engine("dali", shards, CPU).batches(Sampler(SAMPLES, 24), RANDOM.column_name)
    for number, _ in enumerate(stream, 1):
        assert all(file() is not None for files in files_of_batches[number:] for file in files)
    assert number == len(files_of_batches) == SAMPLES // 24


@pytest.mark.parametrize("shown", ["whole", "regions"])
def test_batches_are_those_of_the_baked_set(sets, shown):
    """For every process of three, and from the middle of an epoch."""
    pytest.importorskip("nvidia.dali")
    baked, exported = sets
    view = View(ViewSpec(0.875, random="area"), 32, seed=1, epoch=2) if shown == "regions" else None
    seen = []
    for rank in range(3):
        streams = [
            open_engine("dali", stored["train"], CPU).batches(
                Sampler(SAMPLES, 24, 1, rank=rank, world_size=3, epoch=2, offset=48), RANDOM.column_name, view
            )
            for stored in (exported.splits, baked.splits)
        ]
        for ours, reference in zip(*streams, strict=True):
            assert torch.equal(ours.images, reference.images) and torch.equal(ours.label, reference.label)
            assert torch.equal(ours.index, reference.index)
            seen += ours.index.tolist()
    assert len(seen) == len(set(seen)) == SAMPLES // 24 * 24 - 48


def test_evaluation_sees_each_sample_once(sets):
    pytest.importorskip("nvidia.dali")
    _, exported = sets
    engine = open_engine("dali", exported.splits["train"], CPU)
    batches = list(engine.batches(Sampler(SAMPLES, 101, shuffle=False), RANDOM.column_name))
    assert [len(batch.index) for batch in batches] == [101, 101, 1]
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(SAMPLES))


def edited(path, at, value):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(value)


def test_damage_is_named(sets, tmp_path, capsys):
    _, whole = sets
    folder = tmp_path / "copy"

    def copied():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole.path, folder)
        return folder

    # One byte of an image: sizes and tables are as they were, and reading the sample finds it.
    exported = Export.open(copied())
    shards, row = exported.splits["train"], 7
    tar = shards._paths[shards._shard[row]]
    edited(tar, int(shards._offset[row]) + int(shards._bytes[row]) // 2, b"\x55\xaa\x55")
    message = rf"{tar.name} row 7, sample {shards.columns['index'][row]} has other bytes"
    with pytest.raises(UserError, match=message):
        shards.image(row)
    if pytest.importorskip("nvidia.dali"):
        engine = open_engine("dali", shards, CPU)
        with pytest.raises(UserError, match=message):
            list(engine.batches(Sampler(SAMPLES, 101, shuffle=False), RANDOM.column_name))
    Export.open(folder)  # which does not read the images
    assert cli.main(["verify", str(folder)]) == 2
    assert f"{tar.name} is damaged" in capsys.readouterr().err

    (copied() / "train-000001.tar").unlink()
    with pytest.raises(UserError, match=r"train-000001.tar is missing"):
        Export.open(folder)
    edited(copied() / "val-000000.tar", (folder / "val-000000.tar").stat().st_size, b"more")
    with pytest.raises(UserError, match=r"val-000000.tar has .* bytes where export.json says"):
        Export.open(folder)
    edited(copied() / "train.parquet", 100, b"\x55\xaa\x55")
    with pytest.raises(UserError, match=r"train.parquet is missing, or not what"):
        Export.open(folder)
    (copied() / "manifest.json").open("a").write("\n")
    with pytest.raises(UserError, match="the manifest changed"):
        Export.open(folder)
    for content, said in (("{", "is damaged"), ('{"format": "webdataset"}', "another version"), (None, "is no export")):
        copied()
        (folder / "export.json").unlink() if content is None else (folder / "export.json").write_text(content)
        with pytest.raises(UserError, match=said):
            Export.open(folder)


def test_verify_and_inspect_take_an_export(sets, capsys, tmp_path):
    _, exported = sets
    assert cli.main(["verify", str(exported.path)]) == 0
    assert "match the manifest" in capsys.readouterr().out
    assert cli.main(["inspect", str(exported.path), "--images", str(tmp_path / "sheet.png")]) == 0
    assert "random_1_s0" in capsys.readouterr().out and (tmp_path / "sheet.png").stat().st_size > 1000
    assert cli.main(["export", str(exported.path), "--to", "webdataset"]) == 2
    assert "is an export" in capsys.readouterr().err


def settings(exported, folder, **others):
    chosen = {
        "data.source": "synthetic", "data.synthetic.samples": SAMPLES, "data.synthetic.test_samples": 50,
        "data.synthetic.size": SIDE, "data.synthetic.jpeg": str(exported.manifest.specification["source"]["synthetic"]
        ["jpeg"]).lower(), "bake.encoding": exported.manifest.specification["image"]["encoding"],
        "data.labels.kind": "random", "data.batch_size": 32, "data.backend": "dali", "data.shards": exported.path,
        "train.epochs": 1, "run.dir": folder, **others,
    }  # fmt: skip
    return [f"{key}={value}" for key, value in chosen.items() if value is not None]


def test_a_run_over_shards_is_the_run_over_the_set(sets, tmp_path):
    pytest.importorskip("nvidia.dali")
    baked, exported = sets
    over_shards = train(load("quickstart", settings(exported, tmp_path / "shards")))
    others = {"data.shards": None, "data.stage": tmp_path / "local"}
    over_set = train(load("quickstart", settings(exported, tmp_path / "set", **others)))
    staged = train(load("quickstart", settings(exported, tmp_path / "staged", **{"data.stage": tmp_path / "local"})))
    assert (tmp_path / "local" / exported.path.name / "train.parquet").is_file()
    for key in ("train_loss", "train_top1", "test_loss", "manifest_sha256", "steps"):
        assert getattr(over_shards, key) == getattr(over_set, key) == getattr(staged, key)
    assert over_shards.manifest_sha256 == baked.sha256
    assert json.loads((tmp_path / "shards" / "manifest.json").read_text())["channels"] == 3


def test_a_recipe_that_describes_another_set(sets, tmp_path, capsys):
    pytest.importorskip("nvidia.dali")
    _, exported = sets
    for others, message in (
        ({"data.synthetic.size": 41}, "was made with data.synthetic"),
        ({"data.limit": 100}, "was made with data.limit=None, and the recipe says 100"),
        ({"bake.resolution": 20}, "was made with bake.resolution=None, and the recipe says 20"),
        ({"data.labels.p": 0.5, "data.labels.kind": "partial"}, "has no label column 'random_0.5_s0'"),
        ({"data.shards": tmp_path / "nowhere"}, "is no export"),
        ({"data.backend": "resident"}, "data.shards is read by data.backend=dali alone"),
    ):
        assert cli.main(["train", "recipe=quickstart", *settings(exported, tmp_path / "run", **others)]) == 2
        assert message in capsys.readouterr().err
