"""The wheel is whole: both packages and the recipes, usable from any folder without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # hatchling itself rather than pip or uv: they would fetch it anew for an isolated build.
    run("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_holds_every_module_and_recipe(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    sources = {path for package in ("fastgen", "pipelines") for path in (ROOT / package).rglob("*.py")}
    recipes = set((ROOT / "recipes").rglob("*.yaml"))
    assert sources and recipes
    expected = {path.relative_to(ROOT).as_posix() for path in sources}
    expected |= {f"fastgen/{path.relative_to(ROOT).as_posix()}" for path in recipes}
    expected |= {"fastgen/py.typed", "pipelines/py.typed"}  # without which a type checker ignores their types
    assert expected <= held
    metadata = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    assert {name.split("/")[0] for name in held} == {"fastgen", "pipelines", metadata}
    assert f"{metadata}/licenses/LICENSE" in held


def test_installed_packages_import_from_any_folder(installed: Path, tmp_path: Path) -> None:
    code = "import fastgen, pipelines; print(fastgen.__file__, pipelines.__file__, sep='\\n')"
    files = run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).split()
    assert files == [str(installed / name / "__init__.py") for name in ("fastgen", "pipelines")]


def test_an_installed_package_names_its_version_and_no_commit(installed: Path, tmp_path: Path) -> None:
    code = "from pipelines.provenance import made_by; print(made_by())"
    assert run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).strip() == "{'fastgen': '0.1.0'}"


def test_installed_recipes_are_found_from_any_folder(installed: Path, tmp_path: Path) -> None:
    for command in (["-m", "fastgen.train"], ["-m", "fastgen.cli", "train"]):
        shown = run(*command, "recipe=quickstart", "--print", cwd=tmp_path, PYTHONPATH=str(installed))
        assert yaml.safe_load(shown)["data"]["source"] == "digits"


def test_the_headline_command_runs_anywhere(installed: Path, tmp_path: Path) -> None:
    """As documented beside the checkout's form, and without a checkout: accelerate launch -m fastgen.train."""
    settings = ["recipe=quickstart", "data.limit=100", "train.epochs=1", "train.threads=1", "run.dir=it"]
    launch = ["-m", "accelerate.commands.launch", "-m", "fastgen.train", *settings]
    run(*launch, cwd=tmp_path, PYTHONPATH=str(installed))
    assert (tmp_path / "it" / "summary.json").is_file()
