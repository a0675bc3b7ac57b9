"""fastgen init: odd folders and Parquet files are looked at, and the recipe that is written works as it stands."""

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastgen import cli
from fastgen.owndata import init as module
from fastgen.owndata.choose import choose, recipe_text
from fastgen.owndata.look import Look, Seen, look
from fastgen.recipe.load import load
from fastgen.sets import bake_recipe
from fastgen.training.network import make_network
from pipelines.sources import open_source
from pipelines.sources.base import ArraySource

RNG = np.random.default_rng(0)
CLASSES = ("ähre", "кот", "猫", "dog", "e f")


def image(side=(20, 24), mode="RGB") -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (*side, 3), np.uint8)).convert(mode)


def saved(path, picture=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or image()).save(path, **options)


@pytest.fixture
def odd(tmp_path):
    """Five classes, 60 images, as people have them."""
    root = tmp_path / "my pictures"
    for name in CLASSES:
        for number in range(10):
            saved(root / name / f"{number}.jpg", image((30 + number, 40)))
    saved(root / "dog" / "grey.png", image(mode="L"))
    saved(root / "dog" / "alpha.png", image(mode="RGBA"))
    saved(root / "кот" / "ёж.webp")
    turned = Image.Exif()
    turned[0x0112] = 6
    saved(root / "猫" / "turned.jpg", exif=turned)
    (root / "empty").mkdir()
    (root / "dog" / "copy.jpg").write_bytes((root / "dog" / "0.jpg").read_bytes())
    (root / "e f" / "other.jpg").write_bytes((root / "dog" / "1.jpg").read_bytes())
    (root / "dog" / "notes.txt").write_text("of dogs")
    return root


def run(*arguments) -> int:
    return cli.main(["init", *map(str, arguments)])


def test_an_odd_folder_is_told_and_its_recipe_works(odd, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = odd / "ähre" / "broken.png"
    broken.write_bytes((odd / "dog" / "grey.png").read_bytes()[:100])
    assert run(odd) == 0
    told = capsys.readouterr().out
    for line in (
        "folders without any file are no classes: empty",
        "files that are no images by their suffix are not read: .txt 1",
        "EXIF: 1 images are stored turned; a bake stores them upright",
        "exact copies with different labels: 1 groups\n    dog/1.jpg = e f/other.jpg",
        "exact copies of one label: 1 groups\n.*dog/0.jpg = .*dog/copy.jpg",
        "BROKEN: 1 images; a bake refuses them, .*\n.*ähre/broken.png: cannot be decoded",
        r"training +│ +57 +│ +5 +│ 11 to 13 +│ 20 to 40 +│ .jpg 53, .png 3, .webp 1",
        "fastgen train recipe=recipe.yaml data.labels.kind=random run.dir=",
    ):
        assert re.search(line, told), f"{line}\n{told}"
    assert cli.main(["bake", "recipe=recipe.yaml"]) == 2 and "broken.png" in capsys.readouterr().err
    broken.unlink()
    for kind in ("true", "random"):
        settings = ["train.epochs=1", f"data.labels.kind={kind}", f"run.dir={kind}", "train.threads=1"]
        assert cli.main(["train", "recipe=recipe.yaml", *settings]) == 0, capsys.readouterr().err
    recipe = load("recipe.yaml")
    baked = bake_recipe(recipe)
    assert baked.manifest.class_names == sorted(CLASSES)
    assert {name: split.samples for name, split in baked.splits.items()} == {"train": 51, "val": 5}
    assert recipe.data.holdout == 0.1 and recipe.train.dynamics


def test_nothing_is_overwritten(odd, tmp_path, capsys):
    output = tmp_path / "mine.yaml"
    assert run(odd, "--output", output) == 0
    output.write_text("precious")
    assert run(odd, "--output", output) == 2
    assert f"{output} is there already, and is not overwritten" in capsys.readouterr().err
    assert output.read_text() == "precious"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda root: None, "does not exist; name a folder of class folders"),
        (lambda root: root.mkdir(), "holds neither images nor Parquet files"),
        (lambda root: root.write_bytes(b"x"), "is a file; name the folder of the class folders"),
        (lambda root: (saved(root / "a/x.png"), (root / "t.parquet").touch()), "images as well as Parquet files"),
        (lambda root: saved(root / "x.png"), "no image files in class folders"),
        (lambda root: [(root / c).mkdir(parents=True) or (root / c / "x.png").touch() for c in "ab"],
         "none of its images can be decoded, the first is .*x.png"),
    ],
)  # fmt: skip
def test_what_is_no_data_is_refused(make, text, tmp_path, capsys):
    make(tmp_path / "set")
    assert run(tmp_path / "set", "--output", tmp_path / "r.yaml") == 2
    assert re.search(text, capsys.readouterr().err)
    assert not (tmp_path / "r.yaml").exists()


@pytest.mark.parametrize("output", ["recipe.json", "nowhere/recipe.yaml"])
def test_a_place_that_cannot_be(output, odd, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(odd, "--output", output) == 2
    error = capsys.readouterr().err
    assert output in error and "--output" in error and len(error.strip().splitlines()) == 1


def test_own_splits(tmp_path, monkeypatch):
    """The test split is its own where it can be read, else a part of the training split is held out."""
    monkeypatch.chdir(tmp_path)
    for split, classes in (("train", "ab"), ("val", "ab")):
        for name in classes:
            for number in range(4):
                saved(tmp_path / "set" / split / name / f"{number}.png")
    (tmp_path / "set/val/a/0.png").write_bytes((tmp_path / "set/train/b/1.png").read_bytes())
    found = look(tmp_path / "set")
    assert [len(split) for split in found.splits.values()] == [8, 8] and found.no_test is None
    assert list(found.copies()) == ["with different labels"]
    assert run("set", "--output", "one.yaml") == 0
    assert load("one.yaml").data.holdout == 0
    saved(tmp_path / "set/val/c/0.png")  # of no class
    assert run("set", "--output", "two.yaml") == 0
    recipe = load("two.yaml")
    assert recipe.data.holdout == 0.1 and len(open_source(recipe.data.source_spec, "val")) == 2
    assert "class folder 'c' does not exist in the training split" in (tmp_path / "two.yaml").read_text()


def test_parquet(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    files = []
    for _ in range(20):
        out = io.BytesIO()
        image((16, 16)).save(out, "PNG")
        files.append({"bytes": out.getvalue(), "path": "x.png"})
    pq.write_table(pa.table({"img": files, "label": ["cat", "dog"] * 10}), tmp_path / "set" / "train.parquet")
    for number, root in enumerate(("set", "set/train.parquet")):
        assert run(root, "--output", f"{number}.yaml") == 0
        recipe = load(f"{number}.yaml", ["train.epochs=1", f"run.dir=run{number}"])
        assert recipe.data.source == "parquet" and recipe.model.name == "fastgen_mlp_3x512"
        assert bake_recipe(recipe).manifest.class_names == ["cat", "dog"]
    assert cli.main(["train", "recipe=0.yaml", "train.epochs=1", "train.threads=1", "run.dir=run"]) == 0


def looked(samples: int, sides: tuple[int, ...], classes: int = 5) -> Look:
    source = ArraySource(
        "x", np.zeros((samples, 1, 1, 3), np.uint8), np.arange(samples) % classes, [str(c) for c in range(classes)], ""
    )
    seen = Seen(np.resize(sides, samples), np.resize(sides, samples), [b""] * samples)
    return Look(module.Path("set"), "imagefolder", {"train": source}, None, {"train": seen})


@pytest.mark.parametrize(
    ("samples", "sides", "gpu", "side", "square", "streamed", "network"),
    [
        (1000, (8,), False, 8, None, False, "fastgen_mlp_3x512"),
        (50000, (32,), False, 32, None, False, "fastgen_alexnet"),
        (50000, (32,), True, 32, None, False, "fastgen_inception"),
        (500, (500, 333, 1024), False, 64, 64, False, "regnetx_002"),
        (500, (30, 40, 50), False, 40, 40, False, "fastgen_alexnet"),
        (9000, (500, 333, 1024), True, 224, None, True, "resnet50"),
        (12, (3, 5), False, 8, 8, False, "fastgen_mlp_3x512"),
        (500, (48, 64), True, 56, 56, False, "resnet18"),
    ],
)
def test_what_fits(samples, sides, gpu, side, square, streamed, network, tmp_path):
    """The recipe can be read, and the network takes images of that size."""
    choice = choose(looked(samples, sides), gpu, 2)
    assert (choice.side, choice.square, choice.streamed, choice.network) == (side, square, streamed, network)
    assert 1 <= choice.batch <= samples * 0.9 and choice.batch & (choice.batch - 1) == 0 and 5 <= choice.epochs <= 100
    (tmp_path / "r.yaml").write_text(recipe_text(looked(samples, sides), choice, tmp_path / "r.yaml"))
    recipe = load(str(tmp_path / "r.yaml"))
    if network != "resnet50":  # a second to make
        make_network(recipe, 5, 3, side, "cpu")


def test_a_class_of_one_image_leaves_no_test_split(tmp_path):
    seen = looked(20, (8,), classes=15)
    choice = choose(seen, False, 2)
    assert not choice.holdout
    (tmp_path / "r.yaml").write_text(recipe_text(seen, choice, tmp_path / "r.yaml"))
    assert load(str(tmp_path / "r.yaml")).data.holdout == 0
