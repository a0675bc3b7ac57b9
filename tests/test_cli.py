"""The commands as a user types them: their help, what they say of mistakes, and bake, verify, inspect and doctor."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

from fastgen import cli
from fastgen.doctor import advised
from fastgen.errors import LostProcess, exit_code
from fastgen.paper.experiments import names
from fastgen.recipe.load import known_recipes
from fastgen.recipe.schema import known_keys
from pipelines.backends import BACKENDS
from pipelines.sources import SOURCES

SYNTHETIC = ["recipe=quickstart", "data.source=synthetic", "data.synthetic.size=8"]
COMMANDS = [
    "train", "resume", "recipes", "keys", "bake", "verify", "inspect", "export", "clean", "sweep",
    "memorization", "reproduce", "report", "dynamics", "init", "suspects", "doctor", "bench", "bench loaders",
    "bench bake", "bench peers", "bench train",
]  # fmt: skip


def help_of(capsys, *command: str) -> str:
    assert cli.main([*command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_is_its_own_and_fits_a_screen(command, capsys):
    text = help_of(capsys, *command.split())
    assert text.startswith(f"Usage: fastgen {command} ")
    shown, keys = text.split("\nRecipes (")[0], [key for key in known_keys() if f"  {key}=" in text]
    assert shown.count("\n") <= 24 and max(map(len, shown.splitlines())) <= 80
    assert len(keys) == (len(known_keys()) if command == "train" else 0)
    assert all(f"  {name}\n" in text for name in known_recipes()) == (command == "train")


def test_help_names_all_there_is(capsys):
    text = help_of(capsys)
    assert re.findall(r"^  (\w+)  ", text.partition("Commands:")[2], re.MULTILINE) == [
        name for name in COMMANDS if " " not in name
    ]
    assert "..." not in text.partition("Commands:")[2]  # no text is cut off
    assert cli.main([]) == 2 and capsys.readouterr().out == text
    assert cli.main(["-h"]) == 0 and capsys.readouterr().out == text
    assert all(re.search(rf"\b{name}\b", help_of(capsys, "reproduce")) for name in names())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["bench", "loader"], "Did you mean 'loaders'?"),
        (["bench"], "Missing command (see `fastgen bench --help`)"),
        (["--hlep"], "did you mean --help?"),
        (["sweep", "recipe=quickstart", "--job=2"], "No such option: --job, did you mean --jobs or --on?"),
        (
            ["sweep", "recipe=quickstart", "--jobs", "two"],
            "Invalid value for '--jobs': Input should be a valid integer",
        ),
        (["inspect", "recipe=quickstart", "--images"], "Option '--images' requires an argument"),
        (["doctor", "now"], "unexpected extra argument(s) (now) (see `fastgen doctor --help`)"),
    ],
)
def test_a_mistaken_command_line_is_told_in_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("fastgen: ") and message in said.err and said.err.count("\n") == 1 and not said.out


def test_settings_stand_anywhere_among_options(capsys):
    for arguments in (["recipe=quickstart", "--print", "seed=7"], ["--print", "seed=7", "recipe=quickstart"]):
        for command in ("train", "bake", "verify"):
            assert cli.main([command, *arguments]) == 0
            assert "seed: 7" in capsys.readouterr().out


def test_what_ends_a_command_is_its_exit_code(capfd, monkeypatch):
    def raising(error: BaseException):
        def work(*_: object) -> None:
            raise error

        return work

    monkeypatch.setattr("fastgen.doctor.doctor", raising(KeyboardInterrupt()))
    assert cli.main(["doctor"]) == 130 and capfd.readouterr().err == "fastgen: interrupted\n"
    monkeypatch.setattr("fastgen.doctor.doctor", raising(ZeroDivisionError("the loss is nan")))
    assert cli.main(["doctor"]) == 1 and capfd.readouterr().err == "fastgen: the loss is nan\n"
    with pytest.raises(SystemExit, match="143"):
        exit_code(raising(SystemExit(143)))
    with pytest.raises(RuntimeError, match="a defect"):
        exit_code(raising(RuntimeError("a defect")))
    monkeypatch.setattr("os._exit", raising(InterruptedError("ended here")))
    with pytest.raises(InterruptedError, match="ended here"):
        exit_code(raising(LostProcess("process 1 does not answer")))
    assert capfd.readouterr().err == "fastgen: process 1 does not answer\n"


def baked_path(capsys) -> Path:
    return Path(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("/")))


def test_bake_verify_and_damage(capsys):
    assert cli.main(["bake", *SYNTHETIC, "data.synthetic.samples=99"]) == 0
    out = capsys.readouterr().out
    assert "99" in out and "random_1_s0" in out and "label_true" in out
    assert cli.main(["bake", *SYNTHETIC, "data.synthetic.samples=99"]) == 0
    path = baked_path(capsys)
    assert cli.main(["verify", str(path)]) == 0
    assert "match the manifest" in capsys.readouterr().out
    content = bytearray((path / "val.beton").read_bytes())
    content[len(content) // 2 + 4_000_000] ^= 1
    (path / "val.beton").write_bytes(content)
    assert cli.main(["verify", str(path)]) == 2
    error = capsys.readouterr().err
    assert "val.beton" in error and "delete" in error and error.count("\n") == 1
    # And a run refuses it as well.
    assert cli.main(["train", *SYNTHETIC, "data.synthetic.samples=99"]) == 2


def test_inspect_draws_samples(capsys, tmp_path):
    out = tmp_path / "sheet.png"
    assert cli.main(["bake", "recipe=quickstart"]) == 0
    assert cli.main(["inspect", "recipe=quickstart", "--images", str(out)]) == 0
    text = capsys.readouterr().out
    assert "digits" in text and re.search(r"random_1_s0 .*8\d\.\d\d %|random_1_s0 .*9\d\.\d\d %", text)
    with Image.open(out) as image:
        assert image.width > 500 and len(image.getcolors(100_000)) > 10


def test_a_folder_that_is_no_baked_set(capsys, tmp_path):
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "is no baked set" in capsys.readouterr().err


def test_doctor_names_what_is_here_and_what_is_not(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("fastgen.doctor._PACKAGES", {"torch": "", "no-such-package": "pip install it"})
    (tmp_path / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)

    def rows() -> dict[str, list[str]]:
        assert cli.main(["doctor"]) == 0
        lines = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in capsys.readouterr().out.splitlines()]
        return {name: texts for name, *texts in filter(None, lines)}

    found = rows()
    assert found["torch"] == [version("torch"), ""] and found["no-such-package"] == ["not installed", "pip install it"]
    assert found["cores"] == [str(len(os.sched_getaffinity(0)))] and found["raw data (FASTGEN_DATA)"] == [str(tmp_path)]
    assert found["cifar10"] == [f"{tmp_path / 'cifar10'} (torchvision's layout)"]
    assert (
        found["mnist"] == ["not found: downloaded on first use"]
        and "no ImageNet training images" in found["imagenet"][0]
    )


def test_doctor_lists_all_backends_and_imports_no_pytorch():
    code = "import sys; from fastgen import cli; assert cli.main(['doctor']) == 0; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(re.search(rf"│ {name} +│ (yes|no) +│", done.stdout) for name in BACKENDS)


@pytest.mark.parametrize(
    ("backends", "gpus", "load", "free", "expected"),
    [
        (["resident", "ffcv", "dali"], [], 0.1, 40, ["ffcv", "fp32", "null", "encoding=jpeg resolution=400"]),
        (["resident", "dali"], [], 3.0, 400, ["dali", "fp32", "1", "encoding=raw resolution=256"]),
        (["resident", "ffcv", "dali"], [("H200", (9, 0))], 9.0, 40, ["dali", "bf16", "null", "encoding=jpeg"]),
        (["resident"], [("V100", (7, 0))], 0.0, 40, ["resident", "fp32", "null", "encoding=jpeg"]),
    ],
)
def test_what_doctor_advises(backends, gpus, load, free, expected):
    rows = advised(backends, gpus, cores=4, load=load, free_gb=free)
    (_, small, _), (_, photographs, _), (_, precision, _), (_, threads, _), _, (_, bake, _) = rows
    assert small == "resident" and [photographs, precision, threads] == expected[:3] and bake.startswith(expected[3])
    assert all(reason for _, _, reason in rows)


@pytest.mark.parametrize("source", [name for name in SOURCES if name not in ("digits", "synthetic")])
def test_missing_data_is_one_line(source, capsys, tmp_path):
    assert cli.main(["bake", "recipe=quickstart", f"data.source={source}", f"data.root={tmp_path / 'nowhere'}"]) == 2
    error = capsys.readouterr().err
    assert "does not exist" in error and error.count("\n") == 1


def test_quickstart_shows_what_it_promises(tmp_path):
    """100 % on both labellings; above 95 % and chance on the test set."""
    done = subprocess.run(
        [sys.executable, "-m", "fastgen.quickstart"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    summaries = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("fastgen_out/runs/*/*/summary.json")}
    assert summaries["true"]["train_top1"] == summaries["random"]["train_top1"] == 100
    assert summaries["true"]["test_top1"] > 95 and 5 <= summaries["random"]["test_top1"] <= 15
    for summary in summaries.values():
        assert f"{summary['test_top1']:.1f} %" in done.stdout
