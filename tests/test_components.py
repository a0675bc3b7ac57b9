"""Components from outside: each is added by its registry line, and whatever asks for one by name knows it."""

import numpy as np
import pytest
from whole_runs import SMALL, fresh_accelerate, lines, same_weights, weights  # noqa: F401

from fastgen.recipe.load import load
from fastgen.train import train
from fastgen.training.stages import HOST_TO_DEVICE, STEP, WAITING, Stages, advice
from pipelines.backends import BACKENDS, Backend
from pipelines.baked.bake import BakeSpec, bake
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SOURCES, SourceKind, SourceSpec, found_here, which_samples
from pipelines.sources.base import ArraySource


@pytest.fixture
def add(monkeypatch):
    """Registers a component for the length of a test."""

    def add(registry, name, component):
        monkeypatch.setattr(registry, "_items", dict(registry.items()))
        registry.add(name, component)

    return add


def advised(backend, **seconds):
    stages = Stages()
    stages.seconds.update(seconds)
    return advice(stages, 1000, backend, "cuda")


def test_a_backend_trains_like_the_others(add, tmp_path):
    """Batches of training and evaluation, in order and with their labels: the run is the resident one, bit for bit."""
    add(BACKENDS, "rows", Backend("row_by_row", when_slow="read in advance", decodes_on_gpu=True))
    for backend in ("resident", "rows"):
        settings = [*SMALL, f"data.backend={backend}", f"run.dir={tmp_path / backend}"]
        summary = train(load("quickstart", settings))
        assert summary["status"] == "finished" and summary["epochs"] == 4
    assert same_weights(weights(tmp_path / "rows"), weights(tmp_path / "resident"))
    for key in ("train_loss_nats", "test_top1_percent", "train_running_loss_nats"):
        assert lines(tmp_path / "rows", key) == lines(tmp_path / "resident", key) != {}


def test_what_others_say_of_a_backend_comes_from_its_registry_line(add):
    rows = Backend("row_by_row", when_slow="read in advance", decodes_on_gpu=True)
    add(BACKENDS, "rows", rows)
    assert advised("rows", **{WAITING: 6.0, STEP: 4.0}).endswith("the cuda takes 250: read in advance")
    assert "data.backend=dali or rows decodes on it" in advised("ffcv", **{HOST_TO_DEVICE: 6.0, STEP: 4.0})
    with pytest.raises(UserError, match="unknown data.backend 'row': did you mean 'rows'"):
        load("quickstart", ["data.backend=row"])
    with pytest.raises(UserError, match="data.shards is read by data.backend=dali alone, and data.backend=rows"):
        load("quickstart", ["data.backend=rows", "data.shards=somewhere"])
    add(BACKENDS, "tar_rows", Backend("row_by_row", when_slow="", streams_exports=True))
    assert load("quickstart", ["data.backend=tar_rows", "data.shards=somewhere"]).data.shards == "somewhere"


def test_a_backend_whose_package_is_missing_says_how_to_get_it(add, tmp_path):
    add(BACKENDS, "lacking", Backend("no_such_loader", "", package="no_such_loader", install="pip install it"))
    add(BACKENDS, "broken", Backend("no_such_loader", ""))
    with pytest.raises(UserError, match="data.backend=lacking needs no_such_loader, .*: pip install it"):
        train(load("quickstart", ["data.backend=lacking", f"run.dir={tmp_path}"]))
    with pytest.raises(ModuleNotFoundError):  # a mistake of the backend's own, and no package of the user's
        train(load("quickstart", ["data.backend=broken", f"run.dir={tmp_path / 'other'}"]))


def open_split(spec: SourceSpec, split: str) -> ArraySource:
    """A source in this module: the sample index as a colour, in three classes."""
    n = 40 if split == "train" else 9
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 4, 4, 3)).copy()
    return ArraySource("colours", images, np.arange(n) % 3, ["a", "b", "c"], f"fingerprint of {split}")


def where() -> str:
    return "in this file"


def test_a_source_is_baked(add, tmp_path):
    add(SOURCES, "colours", SourceKind(__name__, settings=("limit_test",), well_known=True))
    baked = bake(SourceSpec("colours", limit=30), LabelSpec(), PixelSpec(), BakeSpec(), tmp_path)
    train = baked.splits["train"]
    assert (train.samples, baked.splits["val"].samples, baked.manifest.class_names) == (30, 9, ["a", "b", "c"])
    assert np.array_equal(train.raw_images()[:, 2, 3, 1], train.columns["index"])
    assert np.array_equal(train.columns["clean_label"], train.columns["index"] % 3)
    assert found_here()["colours"] == "in this file"
    # What one source alone reads says nothing of the samples of another.
    mine, others = (which_samples(SourceSpec(name, "folder", 30, 5)) for name in ("colours", "digits"))
    assert (mine.limit, mine.limit_test, mine.root) == (30, 5, None) and others.limit_test is None
    with pytest.raises(UserError, match="unknown data.source 'colour': did you mean 'colours'"):
        load("quickstart", ["data.source=colour"])
