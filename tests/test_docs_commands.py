"""Commands in README and docs are understood as written and run at a small scale, and the site builds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import copies
import numpy as np
import pytest
import torch
import typer
from accelerate.state import AcceleratorState
from PIL import Image
from whole_runs import fresh_accelerate, importorskip_backend  # noqa: F401 (a fixture)

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


IN_ORDER = [command for name in ("first_hour.md", "own_data.md") for command in commands(ROOT / "docs" / name)]
ELSEWHERE = (  # than here: by the two tests above; with a scheduler, by tests/test_cluster.py; with a server of W&B's,
    # by tests/test_wandb_report.py; beside other loops, by tests/test_bench.py
    *(command for command in IN_ORDER if "--folds" not in command),
    *(command for command in commands(ROOT / "README.md")[:5]),
    *(command for _, command in SHOWN if re.search("--on slurm|report .* --wandb|bench peers", command)),
)
FEW = ["data.batch_size=8", "train.epochs=1", "train.max_steps=2", "train.threads=1"]
LIMITED = ["data.limit=24", "data.limit_test=8"]
SYNTHETIC = ["data.source=synthetic", "data.synthetic.samples=24", "data.synthetic.test_samples=8"]
STUDIES = {  # that are computed: of little data
    "theorem1": ["--models", "digits", "data.limit=200"],
    "minnorm": ["--models", "mnist", "data.limit=200", "data.limit_test=50", "sgd.epochs=2"],
    "table3": ["--models", "mnist", "data.limit=200", "data.limit_test=50"],
    "table3_bandwidth": ["--models", "cifar10", "data.limit=200", "data.limit_test=50"],
}
BENCH = {
    "loaders": ["--images", "FOLDER", "--samples", "16", "--batch", "8", "--size", "64", "--only", "torchvision, PIL"],
    "bake": ["--images", "FOLDER", "--samples", "64", "--only", "raw, 256 pixels"],
    "train": ["--steps", "2", "--images", "FOLDER", "--samples", "16", "data.limit=64"],
}
ROWS = {  # of trainings that are many; tests/test_reproduce.py has the others
    "table1": ["--models", "mlp_1x512", "--seeds", "0"],
    "fig1b": ["--models", "mlp_1x512"],
    "regularisers": ["--models", "alexnet"],
    "rademacher": ["--models", "mlp_1x512", "--seeds", "0"],
}


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """The folders and files of a reader that the words in capitals stand for, a cache among them."""
    folder = tmp_path_factory.mktemp("reader")
    random = np.random.default_rng(0)
    for number in range(100):
        kind = f"n{number % 2:08}"
        for path in (folder / "FOLDER" / kind, folder / "PHOTOS" / "train" / kind):
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(path / f"{number}.jpg")
    names = ("worse_label", "aggre_label", "noisy_label", "noisy_coarse_label")
    torch.save({name: np.arange(24) % 10 for name in names}, folder / "CIFAR-10_human.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FASTGEN_CACHE", str(folder / "cache"))
        run = [
            "train",
            "recipe=quickstart",
            *FEW,
            *LIMITED,
            "train.dynamics=true",
            "run.dir=RUN_DIR",
            "track.wandb=offline",
        ]
        assert cli.main(run) == 0
    AcceleratorState._reset_state(True)
    return folder


def scaled(command: str, readers: Path) -> list[str]:
    """Its words, with the reader's things in them and settings behind them that make it small."""
    words = arguments(command)
    (baked,) = (readers / "cache" / "baked").glob("digits-*[0-9a-f]")
    run = readers / "RUN_DIR"
    things = {"FOLDER": readers / "FOLDER", "PATH": baked, "RUN_DIR": run, "RUN...": run}
    things |= {"fastgen_out/sweeps/NAME": readers, "fastgen_out/runs/NAME-001": run}
    words = [str(things.get(word, word)) for word in words]
    words = [re.sub("=(FOLDER|PHOTOS|CIFAR-10_human.pt)$", f"={readers}/\\1", word) for word in words]
    words = [word.replace("=/shared/", "=shared/") for word in words]
    name = words[0]
    if name == "bench":
        return [*words, *(w if w != "FOLDER" else str(things["FOLDER"]) for w in BENCH[words[1]]), "--repeats", "1"]
    if name == "reproduce" and words[1] in STUDIES:
        return [*words, *STUDIES[words[1]]]
    if name in ("train", "bake", "sweep", "memorization", "reproduce"):
        # W&B takes a second or two of each run, of which the others have many.
        words += [*FEW, *LIMITED, f"track.wandb={'offline' if name == 'train' else 'off'}"]
        recipe = next((word.removeprefix("recipe=") for word in words if word.startswith("recipe=")), "quickstart")
        named = [word.removeprefix("data.source=") for word in words if word.startswith("data.source=")]
        source = named[0] if named else "cifar10" if name == "reproduce" else load(recipe).data.source
        large = source == "imagenet"
        if source != "digits" and not any(word.startswith("data.root=") for word in words):
            words += [*SYNTHETIC, f"data.synthetic.jpeg={large}", f"data.synthetic.size={64 if large else 32}"]
            words += ["data.batch_size=2", "train.max_steps=1", "data.limit=4", "data.limit_test=2"] if large else []
        if any(word.startswith("data.labels.name=") for word in words) or recipe.startswith(("cifar10n", "cifar100n")):
            words += [f"data.labels.file={readers}/CIFAR-10_human.pt"]
        words += ["--networks", "2", "--jobs", "1"] if name == "memorization" else []
        words += ["--scale", "smoke", "--jobs", "1", *ROWS.get(words[1], [])] if name == "reproduce" else []
        if name == "sweep":
            words = [re.sub("^seed=.*", "seed=0", word) for word in words] + ["--jobs", "1"]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("command", dict.fromkeys(command for _, command in SHOWN if command not in ELSEWHERE))
def test_a_command_runs(command, readers, monkeypatch, tmp_path, request):
    for backend in ("dali", "ffcv"):
        if f"data.backend={backend}" in command or (backend == "dali" and "webdataset" in command):
            importorskip_backend(backend)
    shutil.copytree(readers / "cache", tmp_path / "cache")
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    Path("recipe.yaml").write_text("base: quickstart\n")
    words = scaled(command, readers)
    if len(words) > 1 and words[1] in STUDIES and words[1] != "theorem1":
        request.getfixturevalue("data_folder")
    if "data.shards=" in command:
        kept = [word for word in words[1:] if not word.startswith(("data.shards=", "data.backend="))]
        assert cli.main(["export", *kept, "--to", "webdataset", "--output", "shards"]) == 0
        words += ["data.shards=shards"]
    assert cli.main(words) == 0


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    small = block.replace('"train.epochs": 20', '"train.epochs": 1, "train.threads": 1')
    assert small != block
    (tmp_path / "readme.py").write_text(small)
    done = copies.run("readme.py", cwd=tmp_path)
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
