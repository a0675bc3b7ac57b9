"""What made a file is said in it: fastgen's version and commit, and whether the tree was changed."""

import subprocess
from pathlib import Path

import pytest

from fastgen.runs.folder import PACKAGES
from pipelines import provenance
from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.provenance import in_words, made_by
from pipelines.sources import SourceSpec, SyntheticSpec

PROJECT = '[project]\nname = "fastgen"\nversion = "9.8.7"\n'


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of fastgen of one commit, from which the code seems to run."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "pyproject.toml").write_text(PROJECT)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "_ROOT", root)
    return root


@pytest.fixture
def fresh():
    """Forgets what this process has found out about itself."""
    provenance._of_fastgen.cache_clear()
    yield provenance._of_fastgen.cache_clear
    provenance._of_fastgen.cache_clear()


def test_the_commit_and_whether_the_tree_is_changed(checkout, fresh, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another repository
    head = (checkout / ".git" / (checkout / ".git" / "HEAD").read_text().split()[1]).read_text().strip()
    assert made_by() == {"fastgen": "9.8.7", "commit": head, "tree": "clean"}
    assert in_words() == f"fastgen 9.8.7, commit {head[:12]}"
    (checkout / "untracked.txt").write_text("a result")
    fresh()
    assert made_by()["tree"] == "clean"
    (checkout / "pyproject.toml").write_text(PROJECT + "# changed\n")
    assert made_by()["tree"] == "clean"  # the code that runs is the one that was imported
    fresh()
    assert made_by() == {"fastgen": "9.8.7", "commit": head, "tree": "changed"}
    assert in_words() == f"fastgen 9.8.7, commit {head[:12]} with changes"


@pytest.mark.parametrize("what", ["no repository", "no git", "another project", "no project"])
def test_elsewhere_there_is_the_version_alone(what, checkout, fresh, monkeypatch):
    version = "9.8.7"
    if what == "no repository":
        (checkout / ".git").rename(checkout / "git")
    elif what == "no git":
        monkeypatch.setenv("PATH", "/nowhere")
    else:
        version = provenance._version("fastgen") or "unknown"  # of what is installed
        (checkout / "pyproject.toml").write_text('[project]\nname = "another"\n' if what == "another project" else "[")
    assert made_by() == {"fastgen": version} and in_words() == f"fastgen {version}"


def test_packages_that_are_not_installed_are_left_out():
    versions = made_by("numpy", "no-such-package", *PACKAGES)
    assert {"fastgen", "numpy", "torch", "timm", "accelerate"} <= versions.keys() and "no-such-package" not in versions
    assert {"ffcv", "nvidia-dali-cuda130"} <= set(PACKAGES)


def test_a_manifest_says_it_and_keeps_it(checkout, fresh, tmp_path):
    source = SourceSpec("synthetic", synthetic=SyntheticSpec(40, 10, 8))
    first = bake(source, LabelSpec(), PixelSpec(), BakeSpec(), tmp_path / "cache")
    made = made_by("numpy", "pillow")
    assert first.manifest.made_by == made and made.keys() == {"fastgen", "commit", "tree", "numpy", "pillow"}
    again = bake(source, LabelSpec(), PixelSpec(), BakeSpec(workers=3), tmp_path / "other")
    assert again.sha256 == first.sha256
    git(checkout, "commit", "-qm", "second", "--allow-empty")
    fresh()
    extended = bake(source, LabelSpec("random"), PixelSpec(), BakeSpec(), tmp_path / "cache")
    assert extended.path == first.path and len(extended.manifest.splits["train"].columns) == 2
    assert extended.manifest.made_by == made != made_by("numpy", "pillow")
