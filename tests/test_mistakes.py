"""What a user gets wrong: exit code 2, one line that names the thing and the remedy, and nothing left behind."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from whole_runs import ROOT, fresh_accelerate  # noqa: F401

from fastgen import cli
from fastgen.recipe.load import load
from fastgen.runs.login import ask_wandb
from pipelines.errors import UserError

TINY = "recipe=quickstart data.source=synthetic data.synthetic.samples=99 data.synthetic.size=8"
NOBODY = "/proc/nobody"  # a place that nobody can write, root neither

# Command line -> parts of the one line, in this order: what is wrong, and the remedy.
MISTAKES = {
    # the command line
    "train": ("no recipe given", "recipe=NAME"),
    "train quickstart": ("no recipe given", "recipe=quickstart"),
    "train recipe=quickstart recipe=rademacher": ("2 recipes given", "recipe=NAME"),
    "train recipe=quikstart": ("'quikstart'", "recipe=quickstart", "fastgen recipes"),
    "train recipe=nowhere/quickstart.yaml": ("nowhere/quickstart.yaml does not exist", "recipe=quickstart"),
    "train recipe = quikstart seed = 1": ("'quikstart'", "recipe=quickstart"),
    "train recipe=quickstart optim.learning_rate=1": ("'optim.learning_rate'", "'optim.lr'", "fastgen keys"),
    "train recipe=quickstart optim.lr=fast": ("optim.lr=fast", "Float"),
    "train recipe=quickstart --lr 1": ("--lr",),
    "train recipe=quickstart train.precision=half": ("'half'", "known: auto, bf16, fp16, fp32"),
    "train recipe=quickstart train.precision=fp16": ("train.precision=fp16", "use fp32 or bf16"),
    "train recipe=quickstart seed=-1": ("seed=-1", "at least 0"),
    "train recipe=quickstart track.wandb=on": ("'on'", "known: off, offline, online"),
    "train recipe=quickstart model.name=resnet81": ("'resnet81'", "did you mean 'resnet18'"),
    # the data
    "train recipe=quickstart data.source=imagefolder data.root=nowhere": ("nowhere does not exist", "class folders"),
    "train recipe=quickstart data.source=parquet data.root=damaged.parquet": ("damaged.parquet", "download it again"),
    "train recipe=quickstart data.source=imagefolder data.root=damaged": ("a/one.png", "remove it"),
    f"train {TINY} data.limit=1000": ("data.limit=1000", "99 samples"),
    f"train {TINY} data.batch_size=100": ("data.batch_size=100", "at most 99"),
    f"train {TINY} data.image_size=9": ("data.image_size=9", "8 pixels"),
    f"train {TINY} data.labels.kind=table data.labels.file=nowhere.csv": ("nowhere.csv", ""),
    # the network
    f"train {TINY} model.name=vgg11": ("vgg11 cannot be made for 3 x 8 x 8", "data.image_size=32 bake.resolution=32"),
    f"train {TINY} model.name=vit_tiny_patch16_224 data.view.fraction=1 data.image_size=8": (
        "it takes 32 x 32: data.image_size=32",
    ),
    f"train {TINY} model.options.surprise=1": ("unexpected keyword argument 'surprise'",),
    # places
    f"train {TINY} run.dir={NOBODY}": (NOBODY, "give another place"),
    f"train {TINY} run.dir=file": ("file", "give another place"),
    f"train {TINY} run.dir=full": ("run.dir=full is not empty", "run.resume=true"),
    f"train {TINY} data.stage={NOBODY}": (NOBODY, "leave data.stage out"),
    f"inspect {TINY} --images sheet.foo": ("sheet.foo", ".png, .jpg"),
    f"inspect {TINY} --images {NOBODY}/x.png": (NOBODY, "another place with --images"),
    f"report full --output {NOBODY}/x.html": (NOBODY, "another place with --output"),
    f"sweep {TINY} seed=1,2 --output {NOBODY}": (NOBODY, "another place with --output"),
    f"sweep {TINY} seed=1,2 --wandb-file {NOBODY}/x.yaml": (NOBODY, "another place with --wandb-file"),
    f"reproduce minnorm --output {NOBODY}": (NOBODY, "another place with --output"),
    f"bench loaders --output {NOBODY}": (NOBODY, "another place with --output"),
    f"export {TINY} --to webdataset --output file": ("file cannot be written", "another place with --output"),
    # what is not there
    f"verify {TINY}": ("not baked yet", f"fastgen bake {TINY}"),
    f"inspect {TINY}": ("not baked yet", f"fastgen bake {TINY}"),
    "verify file": ("file is a file", "name the folder"),
    "verify nowhere": ("nowhere is no baked set", "fastgen bake"),
    "report nowhere": ("nowhere is no run directory",),
    "resume": ("is left to resume", "fastgen resume RUN_DIR"),
    f"train {TINY} run.resume=true": ("no run to resume",),
    "reproduce fig1b --show": ("nothing of fig1b", "leave --show out"),
    # W&B
    f"train {TINY} track.wandb=online": ("W&B does not start", "`wandb login`, or track.wandb=offline"),
}  # fmt: skip


@pytest.fixture
def place(tmp_path, tmp_path_factory, monkeypatch):
    """A working folder with some odd things in it, and an empty cache."""
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # nobody is logged in to W&B
    for variable in ("FASTGEN_OUTPUT", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1" + b"junk" * 100 + b"PAR1")
    for name in "ab":
        (tmp_path / "damaged" / name).mkdir(parents=True)
        (tmp_path / "damaged" / name / "one.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    return tmp_path


def left(folder: Path) -> list[str]:
    """All files, but for whole baked sets and the locks of sets, which mean nothing."""
    files = (path for path in sorted(folder.rglob("*")) if path.suffix != ".lock" and path != folder / "cache")
    whole = [path.parent for path in folder.glob("cache/baked/*/manifest.json")]
    sets = [folder / "cache" / "baked", *whole]
    return [str(path.relative_to(folder)) for path in files if path not in sets and path.parent not in whole]


@pytest.mark.parametrize("line", MISTAKES, ids=lambda line: line.replace(TINY, "TINY")[:70])
def test_a_mistake_is_one_line_and_leaves_nothing(line, place, capfd):
    before = left(place)
    assert cli.main(shlex.split(line)) == 2
    said = capfd.readouterr().err
    assert said.startswith("fastgen: ") and said.count("\n") == 1, said
    at = 0
    for part in MISTAKES[line]:
        at = said.find(part, at)
        assert at >= 0, (part, said)
    assert left(place) == before


def test_the_table_is_long_enough():
    assert len(MISTAKES) >= 25


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["recipe", "=", "quickstart"], "recipe", "quickstart"),
        (["recipe=", "quickstart"], "recipe", "quickstart"),
        (["recipe", "=quickstart"], "recipe", "quickstart"),
        (["recipe=quickstart.yaml"], "recipe", "quickstart"),
        (["recipe=quickstart", "optim.lr", "=", "0.5"], "lr", "0.5"),
        (["recipe=quickstart", "data.root=", "optim.lr=0.5"], "lr", "0.5"),
    ],
)
def test_other_ways_to_write_a_setting_are_understood(words, key, value, place, capsys):
    assert cli.main(["train", *words, "--print"]) == 0
    assert f"{key}: {value}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "asked", "mode"),
    [
        ({}, "online", "online"),
        ({"WANDB_MODE": "offline"}, "online", "offline"),
        ({"WANDB_MODE": "dryrun"}, "online", "offline"),
        ({"WANDB_MODE": "disabled"}, "online", "off"),
        ({"WANDB_MODE": "disabled"}, "offline", "off"),
        ({"WANDB_MODE": "online"}, "offline", "offline"),
        ({"WANDB_MODE": "online"}, "off", "off"),
        ({"WANDB_DISABLED": "true"}, "online", "off"),
        ({"WANDB_MODE": "offline"}, "off", "off"),
    ],
)
def test_wandbs_own_variables_are_respected(variables, asked, mode, monkeypatch):
    for variable in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert load("quickstart", [f"track.wandb={asked}"]).track.wandb == mode


def test_wandb_asks_also_one_who_was_offline_before(place, monkeypatch):
    """W&B reads its variables once in a process, and `wandb offline` is for good."""
    import wandb

    monkeypatch.chdir(place)
    before = wandb.setup().settings.mode
    wandb.setup(wandb.Settings(mode="offline"))
    try:
        with pytest.raises(UserError, match="W&B does not start .*; do this"):
            ask_wandb("do this")
        assert wandb.setup().settings.mode == "offline"
    finally:
        wandb.setup(wandb.Settings(mode=before))


def test_a_mistake_in_a_launch_of_two_is_told_once_and_the_launcher_points_there(place):
    """A user's folder stays, and is as empty as it was."""
    (place / "mine").mkdir()
    config = ["--config_file", str(ROOT / "recipes" / "accelerate" / "cpu_2.yaml"), "--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *config, str(ROOT / "fastgen" / "train.py")]
    done = subprocess.run(
        [*command, *TINY.split(), "data.batch_size=1000", "run.dir=mine"],
        capture_output=True, text=True, timeout=300, cwd=place, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    ours = "fastgen: data.batch_size=1000 is larger than the 99 samples to train on"
    assert done.returncode != 0 and done.stderr.startswith(ours), done.stderr
    assert done.stderr.count("fastgen: ") == 1 and "traceback : the line above that begins with fastgen" in done.stderr
    assert not list((place / "mine").iterdir()) and not (place / "fastgen_out").exists()
