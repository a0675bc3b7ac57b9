"""Components from outside: each is added by its registry line, and whatever asks for one by name knows it."""

import numpy as np
import pytest
import torch
from PIL import Image
from whole_runs import SMALL, fresh_accelerate, lines, same_weights, weights  # noqa: F401

from fastgen.optim.optimizers import OPTIMIZERS, Optimizer
from fastgen.optim.schedules import SCHEDULES, Schedule
from fastgen.recipe.load import load
from fastgen.training.loop import train
from fastgen.training.stages import HOST_TO_DEVICE, STEP, WAIT, Clock, advice
from pipelines.backends import BACKENDS, Backend
from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.corruptions import LABELS, PIXELS, LabelKind, LabelSpec, PixelKind, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SOURCES, SourceKind, SourceSpec, found_here, which_samples
from pipelines.sources.base import ArraySource


@pytest.fixture
def add(monkeypatch):
    """Registers a component for the length of a test."""

    def add(registry, name, component):
        assert name not in registry
        monkeypatch.setitem(registry, name, component)

    return add


def advised(backend, **seconds):
    clock = Clock(batch_size=1000)
    clock.samples = 1000
    clock.seconds.update(seconds)
    return advice(clock, backend, "cuda", 500)


def test_a_backend_trains_like_the_others(add, tmp_path):
    """Batches of training and evaluation, in order and with their labels: the run is the resident one, bit for bit."""
    add(BACKENDS, "rows", Backend("row_by_row", when_slow="read in advance", decodes_on_gpu=True))
    for backend in ("resident", "rows"):
        settings = [*SMALL, f"data.backend={backend}", f"run.dir={tmp_path / backend}"]
        summary = train(load("quickstart", settings))
        assert summary.status == "finished" and summary.epochs == 4
    assert same_weights(weights(tmp_path / "rows"), weights(tmp_path / "resident"))
    for key in ("train_loss_nats", "test_top1_percent", "train_running_loss_nats"):
        assert lines(tmp_path / "rows", key) == lines(tmp_path / "resident", key) != {}


def test_what_others_say_of_a_backend_comes_from_its_registry_line(add):
    rows = Backend("row_by_row", when_slow="read in advance", decodes_on_gpu=True)
    add(BACKENDS, "rows", rows)
    assert advised("rows", **{WAIT: 6.0, STEP: 4.0}).endswith("the cuda takes 250: read in advance")
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


def test_corruptions_of_labels_are_baked(add, tmp_path):
    add(SOURCES, "colours", SourceKind(__name__))
    add(LABELS, "reversed", LabelKind(lambda spec, labels, classes: classes - 1 - labels, level="none", seeded=False))
    add(LABELS, "shifted", LabelKind(lambda spec, labels, classes: (labels + spec.seed) % 2, level="none", signs=True))
    columns = [LabelSpec("shifted", seed=1)]
    baked = bake(SourceSpec("colours"), LabelSpec("reversed", seed=3), PixelSpec(), BakeSpec(columns=columns), tmp_path)
    train, described = baked.splits["train"].columns, baked.manifest.splits["train"].columns
    clean = train["clean_label"]
    assert np.array_equal(train["label_reversed"], 2 - clean) and np.array_equal(train["shifted_s1"], (clean + 1) % 2)
    assert described["label_reversed"].spec == {"kind": "reversed", "seed": 0}
    assert described["label_reversed"].changed == (clean != 1).sum() and described["shifted_s1"].changed == len(clean)
    assert columns[0].classes(3) == 2 and LabelSpec("reversed").classes(3) == 3
    with pytest.raises(UserError, match="data.labels.p=0.5 has no effect with data.labels.kind=reversed"):
        load("quickstart", ["data.labels.kind=reversed", "data.labels.p=0.5"])
    with pytest.raises(UserError, match="compares with true labels, and data.labels.kind=shifted has none"):
        load("quickstart", ["data.labels.kind=shifted", "train.dynamics=true"])


def test_corruptions_of_pixels_are_baked(add, tmp_path):
    def centred(spec, split, statistics):
        mean = np.array(statistics.mean)
        return lambda image, index: np.clip(image - mean + 128 + spec.patch, 0, 255).astype(np.uint8)

    kind = PixelKind(centred, seeded=False, in_patches=True, needs_statistics=True, one_size="asks for squares")
    add(SOURCES, "colours", SourceKind(__name__))
    add(PIXELS, "centred", kind)
    spec = PixelSpec("centred", seed=5, patch=2)
    baked = bake(SourceSpec("colours"), LabelSpec(), spec, BakeSpec(), tmp_path)
    assert baked.manifest.specification["pixels"] == {"kind": "centred", "seed": 0, "patch": 2}
    for stored in baked.splits.values():
        # Indices 0 to 39 have the mean 19.5, in the test split, too.
        assert np.array_equal(stored.raw_images()[:, 0, 0, 0], np.floor(stored.columns["index"] - 19.5 + 130))
    for number, side in enumerate((4, 8)):
        (tmp_path / "photographs" / "class").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side)).save(tmp_path / "photographs" / "class" / f"{number}.png")
    photographs = SourceSpec("imagefolder", str(tmp_path / "photographs"))
    with pytest.raises(UserError, match="data.pixels.kind=centred asks for squares, and these differ in size"):
        bake(photographs, LabelSpec(), spec, BakeSpec(), tmp_path)
    with pytest.raises(UserError, match="unknown data.pixels.kind 'centered': did you mean 'centred'"):
        load("quickstart", ["data.pixels.kind=centered"])


class SignDescent(torch.optim.Optimizer):
    """Moves every weight by the learning rate, against the sign of its gradient."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                weight -= group["lr"] * weight.grad.sign()


def test_an_optimizer_and_a_schedule_train(add, tmp_path):
    add(OPTIMIZERS, "signs", Optimizer(lambda parameters, spec: SignDescent(parameters, spec.lr)))
    add(SCHEDULES, "linear", Schedule(lambda spec, position, epoch_samples, progress: 1 - progress, of_length=True))
    settings = [*SMALL, "optim.name=signs", "optim.lr=0.01", "schedule.kind=linear", "run.checkpoint_minutes=0"]
    train(load("quickstart", [*settings, f"run.dir={tmp_path / 'run'}"]))
    rates = lines(tmp_path / "run", "learning_rate")
    assert list(rates.values()) == pytest.approx([0.01 * (1 - step / 12) for step in range(12)])
    for step in range(2, 13):
        before, after = weights(tmp_path / "run", step - 1), weights(tmp_path / "run", step)
        moved = max(float((after[name] - before[name]).abs().max()) for name in after)
        assert moved == pytest.approx(rates[step], rel=1e-3)
    for settings, words in (
        (["optim.name=sings"], "unknown optim.name 'sings': did you mean 'signs'"),
        (["optim.name=signs", "optim.nesterov=true"], "optim.nesterov=true needs optim.name=sgd and"),
        (["schedule.kind=linaer"], "unknown schedule.kind 'linaer': did you mean 'linear'"),
    ):
        with pytest.raises(UserError, match=words):
            load("quickstart", settings)
