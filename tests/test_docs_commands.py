"""Commands in README and docs are understood as written, those of the first hour are run, and the site builds."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from accelerate.state import AcceleratorState
from PIL import Image
from whole_runs import fresh_accelerate  # noqa: F401 (a fixture)

from fastgen import cli
from fastgen.recipe.load import load

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
# Words that stand for something of the reader's.
STANDS_FOR = {"NAME": "quickstart", "key=value": "seed=1", "...": "", "N": "2"}
LAUNCH = re.compile(r"accelerate launch .*?(?:fastgen/train\.py|-m fastgen\.train)")


def commands(document: Path) -> list[str]:
    """Those of fastgen that a document shows in lines of their own, as `fastgen ...`, each with what continues it."""
    text = re.sub(r"\\\n\s*", "", document.read_text())
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    ends = r"\s{2,}(?=[a-z#])|\s+#|; fastgen"  # of a command: what is said of it, or the next one
    lines = [re.split(ends, line.strip())[0] for line in re.findall("^ {4}.*", text, re.M)]
    lines = [LAUNCH.sub("fastgen train", line.removeprefix(".venv/bin/")) for line in lines]
    return [re.sub(r"[\[\]]", "", line).strip() for line in lines if line.startswith("fastgen ")]


SHOWN = [(document.name, command) for document in DOCUMENTS for command in commands(document)]


def arguments(command: str) -> list[str]:
    words = [STANDS_FOR.get(word, word) for word in shlex.split(command)[1:]]
    return [re.sub(r"^recipe=NAME$", "recipe=quickstart", word) for word in words if word]


@pytest.mark.parametrize(("document", "command"), dict.fromkeys(SHOWN))
def test_a_command_is_understood(document, command):
    """Its name and options are those of the command line, its recipe and keys fit each other."""
    words, group = arguments(command), typer.main.get_command(cli.app)
    context = group.make_context("fastgen", words[:1], resilient_parsing=True)
    found = group
    while hasattr(found, "get_command"):
        name = words.pop(0)
        inner = found.get_command(context, name)
        assert inner, f"{document}: there is no {name}"
        found, context = inner, group.make_context(name, [], resilient_parsing=True)
    for word in words:  # the reader's folders
        if "=" not in word and not word.startswith("-"):
            Path(word).mkdir(parents=True, exist_ok=True)
    if "recipe=recipe.yaml" in words:  # which `fastgen init` writes
        Path("recipe.yaml").write_text("base: quickstart\n")
    sub = found.make_context(found.name, list(words), obj=command)  # raises for an option that is none
    settings = [word for word in sub.params.get("settings", sub.params.get("named", [])) or [] if "=" in word]
    several = found.name in ("sweep", "reproduce", "bench")
    settings = [word.split(",")[0] if several and "[" not in word else word for word in settings]
    if names := [word.removeprefix("recipe=") for word in settings if word.startswith("recipe=")]:
        load(names[0], [word for word in settings if not word.startswith("recipe=")])


SMALL = ["data.limit=120", "data.limit_test=40", "data.batch_size=20", "train.epochs=2", "train.threads=1"]


@pytest.mark.slow
def test_the_first_hour_runs():
    """All its commands in order, with the settings as they are written but fewer samples and epochs."""
    ran = []
    for command in commands(ROOT / "docs" / "first_hour.md"):
        words = arguments(command)
        if any(word.startswith("recipe=") for word in words):
            at = next(i for i, word in enumerate(words) if word.startswith("recipe=")) + 1
            words[at:at] = SMALL
        words += ["--jobs", "1"] if words[0] == "sweep" else []
        assert cli.main(words) == 0, command
        ran.append(words[0])
        AcceleratorState._reset_state(True)
    assert {"train", "bake", "inspect", "sweep", "report", "dynamics", "recipes", "keys"} == set(ran)


@pytest.mark.slow
def test_from_a_folder_to_suspects():
    """The commands of docs/own_data.md in order, on small pictures of two colours, with fewer epochs."""
    random = np.random.default_rng(0)
    for number in range(60):
        path = Path("pictures") / ("dark" if number % 2 else "light") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (20, 20, 3), dtype=np.uint8) + 127 * (1 - number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    own = commands(ROOT / "docs" / "own_data.md")[:6]
    assert [shlex.split(command)[1] for command in own] == ["init", "bake", "train", "train", "suspects", "report"]
    for command in own:
        words = arguments(command)
        assert cli.main([*words, *(["train.epochs=3", "train.threads=1"] if words[0] == "train" else [])]) == 0, command
        AcceleratorState._reset_state(True)
    assert Path("fastgen_out/true/suspects/suspects.csv").read_text().count("\n") == 1 + 54  # six are held out
    assert (Path("fastgen_out/reports/report.html")).stat().st_size > 10_000


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    small = block.replace('"train.epochs": 20', '"train.epochs": 1, "train.threads": 1')
    assert small != block
    done = subprocess.run([sys.executable, "-c", small], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([64, 1, 8, 8]) torch.Size([64])" in done.stdout


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text()
    assert all(f'id="{name}"' in page for name in ("fastgen.api.train", "fastgen.training.opened.OpenSet.batches"))
    assert "true_and_random.svg" in (tmp_path / "site" / "index.html").read_text()
