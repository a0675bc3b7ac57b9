"""Recipes: inheritance, overrides, types, and one-line errors before any work starts."""

import importlib.util
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fastgen import cli
from fastgen.recipe.load import known_recipes, load, parse
from fastgen.recipe.schema import Recipe, known_keys
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError

# The interface that tools are built on (DESIGN).
FIXED_KEYS = (
    "seed", "data.source", "data.root", "data.backend", "data.image_size", "data.batch_size", "data.labels.kind",
    "data.labels.p", "data.labels.seed", "data.pixels.kind", "data.pixels.seed", "data.augment.random_crop",
    "data.augment.flip", "data.augment.rotate", "data.augment.color", "data.limit", "model.name", "optim.name",
    "optim.lr", "optim.momentum", "optim.weight_decay", "train.epochs", "train.max_steps",
    "train.stop_at_interpolation", "train.precision", "train.compile", "run.dir", "run.resume", "track.wandb",
)  # fmt: skip
MODELS = ("inception", "inception_nobn", "alexnet", "mlp_3x512", "mlp_1x512")
CONDITIONS = ("true", "random", "shuffled_pixels", "random_pixels", "gaussian")


def test_the_fixed_keys_and_recipes_exist():
    assert set(FIXED_KEYS) <= set(known_keys())
    expected = {"quickstart", "imagenet_inception_true", "imagenet_inception_random"}
    expected |= {f"cifar10_{model}_{condition}" for model in MODELS for condition in CONDITIONS}
    assert expected <= set(known_recipes())


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_loads_and_says_how_to_run_it(name):
    recipe = load(name)
    assert recipe.recipe == name
    head = (Path("recipes") / f"{name}.yaml").read_text().split("\n\n")[0]
    assert all(word in head for word in ("# Command:", "# Hardware:", "# Expect:"))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_cifar10_recipes_follow_the_protocol(model, condition):
    recipe = load(f"cifar10_{model}_{condition}")
    assert recipe.model.name == f"fastgen_{model}"
    assert recipe.optim.lr == (0.1 if model == "inception" else 0.01) and recipe.optim.momentum == 0.9
    assert recipe.data.image_size == 28 and recipe.data.normalize.kind == "whiten"
    assert (recipe.schedule.factor, recipe.schedule.every_samples) == (0.95, 50_000)
    assert recipe.data.batch_size == (64 if model == "mlp_1x512" else 128)
    assert recipe.optim.weight_decay == recipe.model.dropout == 0 and not recipe.data.augment.active
    assert recipe.data.labels.kind == ("random" if condition == "random" else "true")
    pixels = {"shuffled_pixels": "shuffled", "random_pixels": "random", "gaussian": "gaussian"}
    assert recipe.data.pixels.kind == pixels.get(condition, "none")


def test_words_that_yaml_takes_for_booleans_stay_words(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: quickstart\ndata: {labels: {kind: true}}\ntrack: {wandb: off}\noptim: {lr: 1e-3}\n")
    recipe = load(str(path))
    assert (recipe.data.labels.kind, recipe.track.wandb, recipe.optim.lr) == ("true", "off", 0.001)
    assert recipe.model.name == "fastgen_mlp_3x512" and recipe.recipe == "mine"  # inherited, and not


def test_bases_apply_in_order_and_overrides_last(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\ntrain: {epochs: 3}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\n")
    (tmp_path / "c.yaml").write_text("base: [a, b]\noptim: {lr: 0.5}\n")
    recipe = load(str(tmp_path / "c.yaml"), ["optim.lr=0.25", "train.max_steps=null"])
    assert (recipe.seed, recipe.train.epochs, recipe.optim.lr) == (2, 3, 0.25)


def test_a_printed_recipe_is_a_recipe(tmp_path):
    columns = "bake.columns=[{kind: random, seed: 1}, {kind: pair, p: 0.2}]"
    recipe = load("cifar10_alexnet_random", ["data.limit=100", "track.tags=[x, y]", "model.options.a=3", columns])
    assert recipe.bake.columns == [LabelSpec("random", 1.0, 1), LabelSpec("pair", 0.2)]
    assert recipe.model.options == {"a": 3}
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load(str(path)) == recipe and recipe.recipe == "cifar10_alexnet_random"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("1e-3", 0.001), ("[-2.5E+2, .5e1, 1e]", [-250.0, 5.0, "1e"]), ("0.5", 0.5), ("true", True),
        ("null", None), ("word", "word"), ("'[1'", "[1"),
        ("'a: b'", "a: b"), ("'{a: 1}'", "{a: 1}"), ("'*x'", "*x"), ("'!!a b'", "!!a b"),
        ("2020-13-45", "2020-13-45"), ("2020-12-24", "2020-12-24"), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_options_are_what_yaml_takes_them_for(text, value, tmp_path):
    recipe = load("quickstart", [f"model.options.a={text}"])
    assert recipe.model.options == {"a": value} and type(recipe.model.options["a"]) is type(value)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load(str(path)) == recipe


def test_a_folder_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    recipe = load("quickstart", ["run.dir=~/run", "data.stage=~/fast"])
    assert (recipe.run.dir, recipe.data.stage, recipe.data.shards) == ("/home/me/run", "/home/me/fast", None)


def test_a_labelling_has_one_spelling_however_it_was_written():
    one, other = (
        load("quickstart", [f"data.labels.kind={kind}", "data.labels.p=1", "data.labels.seed=4"])
        for kind in ("partial", "random")
    )
    assert (
        one == other
        and one.data.labels == LabelSpec("random", 1.0, 4) == load("quickstart", ["data.labels.seed=4"]).data.labels
    )
    assert one.bake == other.bake and one.to_yaml() == other.to_yaml()
    true = load(
        "quickstart", ["data.labels.kind=true", "data.labels.seed=4", "data.pixels.seed=4", "data.pixels.patch=2"]
    )
    assert (true.data.labels, true.data.pixels) == (LabelSpec(), PixelSpec())
    assert one.data.labels.column_name == "random_1_s4"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["recipe=quickstrat"], "did you mean recipe=quickstart?"),
        (["recipe=nowhere/x.yaml"], "does not exist"),
        ([], "no recipe given"),
        (["recipe=quickstart", "recipe=quickstart"], "2 recipes"),
        (["recipe=quickstart", "data.lables.kind=true"], "did you mean 'data.labels.kind'"),
        (["recipe=quickstart", "data.labels=3"], "group of keys"),
        (["recipe=quickstart", "optim.lr=fast"], "optim.lr=fast"),
        (["recipe=quickstart", "train.epochs=2.5"], "train.epochs=2.5"),
        (["recipe=quickstart", "train.stop_at_interpolation=maybe"], "not a valid bool"),
        (["recipe=quickstart", "seed=null"], "not Optional"),
        (["recipe=quickstart", "seed"], "no override"),
        (["recipe=quickstart", "--epochs=3"], "No such option: --epochs"),
        (["recipe=quickstart", "train.epochs=0"], "at least 1"),
        (["recipe=quickstart", "optim.lr=-1"], "at least 0"),
        (["recipe=quickstart", "optim.name=sdg"], "did you mean 'sgd'"),
        (["recipe=quickstart", "schedule.kind=cosin"], "did you mean 'cosine'"),
        (["recipe=quickstart", "train.precision=fp23"], "did you mean 'fp"),
        (["recipe=quickstart", "data.source=cifar"], "did you mean 'cifar10'"),
        (["recipe=quickstart", "data.backend=fcv"], "did you mean 'ffcv'"),
        (["recipe=quickstart", "model.name=resnet5O"], "did you mean 'resnet50'"),
        (["recipe=quickstart", "data.labels.kind=true", "data.labels.p=0.5"], "no effect"),
        (["recipe=quickstart", "data.labels.kind=partial"], "needs data.labels.p"),
        (["recipe=quickstart", "data.pixels.kind=gaussian", "bake.encoding=jpeg"], "set bake.encoding=raw"),
        (["recipe=quickstart", "optim.nesterov=true", "optim.momentum=0"], "momentum above 0"),
        (["recipe=quickstart", "model.dropout=1"], "below 1"),
        (["recipe=quickstart", "track.wandb=on"], "did you mean 'on"),
        (["recipe=quickstart", "data.augment.rotate=200"], "0 to 180"),
        (["recipe=quickstart", "bake.columns=[{kid: random}]"], "did you mean 'kind'"),
        (["recipe=quickstart", "bake.columns=[{kind: random, p: x}]"], "could not be converted"),
        (["recipe=quickstart", "data.normalize.kind=white"], "did you mean 'whiten'"),
        (["recipe=quickstart", "bake.columns=[3]"], "bake.columns is a list of mappings"),
        (["recipe=quickstart", "bake.columns=null"], "bake.columns is a list of mappings"),
        (["recipe=quickstart", "data.root=${oc.env:HOME}"], "data.root: '${oc.env:HOME}' is OmegaConf's"),
        (["recipe=quickstart", "seed=${nokey}"], "seed: '${nokey}' is OmegaConf's"),
        (["recipe=quickstart", "track.tags=[a, '${seed}']"], "track.tags: '${seed}' is OmegaConf's"),
        (["recipe=quickstart", "model.options.x={a: {'${b}': 1}}"], "model.options.x: '${b}' is OmegaConf's"),
        (["recipe=quickstart", "bake.columns=[{kind: '???'}]"], "bake.columns: '???' is OmegaConf's"),
        (["recipe=quickstart", "optim.lr=???"], "optim.lr: '???' is OmegaConf's"),
        (["recipe=quickstart", "optim.lr=nan"], "optim.lr=nan is no number"),
        (["recipe=quickstart", "data.normalize.mean=[1, nan]"], "data.normalize.mean=[1.0, nan] is no number"),
        (["recipe=quickstart", f"seed={2**63}"], f"seed={2**63} is no number"),
        (["recipe=quickstart", "train.timeout_minutes=1e9"], "above 0 and at most 1,000,000"),
        (["recipe=quickstart", "track.tags=&a [*a]"], "recursive"),
        (["recipe=quickstart", "model.options.x=&a {b: *a}"], "recursive"),
        (["recipe=quickstart", "track.tags=" + "[" * 1100], "no valid YAML"),
        (["recipe=quickstart", "train.threads=9999999"], "train.threads=9999999 must be at most 1024"),
        (["recipe=quickstart", f"seed={2**32}"], f"seed={2**32} must be at most {2**32 - 1}"),
        (["recipe=quickstart", r'run.dir="a\0b"'], "run.dir: 'a\\x00b' holds a null character"),
        (["recipe=~nobody-of-this-name/x.yaml"], "does not exist"),
        (["recipe=quickstart", "data.dali.hw_decoder_load=65"], "hw_decoder_load=65.0 must be a share, from 0 to 1"),
        (["recipe=quickstart", "data.dali.preallocate_width_hint=-1"], "width_hint=-1 must be a number of pixels"),
        (["recipe=quickstart", "data.shards=there"], "data.shards is read by data.backend=dali alone"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())  # before any work started


VIEW = ["data.view.fraction=0.9", "data.image_size=32"]
INSIDE = ["data.pixels.kind=random", "data.pixels.before_crop=false"]
PROGRESSIVE = ["data.progressive.start_size=16", "data.progressive.start_epoch=3", "data.progressive.end_epoch=3"]


@pytest.mark.parametrize(
    ("settings", "words", "remedy"),
    [
        (VIEW[:1], "resizes images to data.image_size, which is not set", VIEW[1:]),
        ([*VIEW, "data.augment.random_crop=true"], "crops images as baked", ["data.augment.random_crop=false"]),
        (["data.eval_size=64"], "data.eval_size needs data.view.fraction", VIEW),
        (PROGRESSIVE[:1], "data.progressive needs data.view.fraction", [*VIEW, "data.progressive.end_epoch=3"]),
        ([*VIEW, *PROGRESSIVE], "at least 0 and below data.progressive.end_epoch", ["data.progressive.end_epoch=4"]),
        ([*INSIDE, "data.image_size=null"], "before_crop=false needs data.image_size", ["data.image_size=6"]),
        (
            [*INSIDE, "data.image_size=6", "data.augment.random_crop=true"],
            "and data.augment.random_crop=true shows others",
            ["data.pixels.before_crop=true"],
        ),
        ([*VIEW, *INSIDE], "and data.view.fraction shows others", ["data.pixels.before_crop=true"]),
        (["data.pixels.window=6"], "follows from data.image_size", [*INSIDE, "data.image_size=6"]),
        (["train.dynamics=true", "data.labels.kind=rademacher"], "rademacher has none", ["data.labels.kind=random"]),
    ],
)
def test_settings_that_contradict_each_other(settings, words, remedy):
    with pytest.raises(UserError, match=words):
        load("quickstart", settings)
    load("quickstart", [*settings, *remedy])


def test_the_window_of_permuted_pixels_is_what_is_shown(tmp_path):
    recipe = load("cifar10_mlp_1x512_random_pixels", ["data.pixels.before_crop=false"])
    assert recipe.data.pixels.window == recipe.data.image_size == 28
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())  # as a run directory has it
    assert load(str(tmp_path / "recipe.yaml")).data.pixels == recipe.data.pixels
    assert load(str(tmp_path / "recipe.yaml"), ["data.image_size=24"]).data.pixels.window == 24
    assert load("cifar10_mlp_1x512_random_pixels").data.pixels.window is None


def test_tracking_needs_its_package(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(UserError, match="track.wandb=offline needs wandb: pip install wandb, or set track.wandb=off"):
        load("quickstart", ["track.wandb=offline"])
    load("quickstart", ["track.wandb=off"])


def test_bases_that_multiply(tmp_path):
    for number in range(40):
        (tmp_path / f"b{number}.yaml").write_text(f"base: [b{number + 1}, b{number + 1}]\n")
    (tmp_path / "b40.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match="b0.yaml: more than 100 bases"):
        load(str(tmp_path / "b0.yaml"))
    assert load(str(tmp_path / "b38.yaml")).seed == 1


def test_circular_bases(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b\n")
    (tmp_path / "b.yaml").write_text("base: a\n")
    with pytest.raises(UserError, match="its own base"):
        load(str(tmp_path / "a.yaml"))


_LAUGHS = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{b}, *{b}]\n" for b, n in itertools.pairwise("abcdefghijklmnop"))


@pytest.mark.parametrize(
    "text, words",
    [
        (b"a: [1", "no valid YAML"),
        (b"- 1", "a mapping"),
        (b"", "a mapping"),
        (b"sed: 1", "'seed'"),
        (b"\xff\xfe", "cannot be read"),
        (b"\x00", "no valid YAML"),
        (b"&a data: *a", "group of keys"),
        (b"data: &a {labels: *a}", "recursive"),
        (_LAUGHS.encode(), "more than 10,000 values"),
        (b"seed: ${data.limit}", "seed: '${data.limit}' is OmegaConf's"),
        (b"base: {a: b}", "base is the name"),
        (b"base: [[a]]", "base is the name"),
        (b"base: nowhere", "unknown recipe 'nowhere'"),
        (b"recipe: [1]", "recipe is the name"),
        (b"? [a]: b", "no valid YAML"),
        (b"data: {limit: 5}\nseed: 1\ndata: {limit: 6}", "the key 'data' is there twice"),
        (b"recipe: a/b", "recipe is the name"),
        (b"recipe: '${x}'", "recipe is the name"),
    ],
)
def test_bad_files(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        parse([f"recipe={path}"])
    assert str(path) in str(caught.value)


def test_print(capsys):
    assert cli.main(["train", "--print", "recipe=quickstart", "seed=7"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 7


def test_defaults_are_the_schemas():
    assert {"recipe": Recipe().recipe, **known_keys()} == Recipe().flat()


def test_train_py_runs_as_a_file(tmp_path):
    """Running fastgen/train.py puts fastgen/ itself on sys.path; the packages must still be found."""
    train_py = Path("fastgen/train.py").resolve()
    command = [sys.executable, str(train_py), "recipe=quickstart", "data.limti=5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "did you mean 'data.limit'" in done.stderr
