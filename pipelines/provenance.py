"""What made a file: fastgen's version, the commit of its checkout, and the versions of other packages."""

import functools
import importlib.metadata
import os
import subprocess
import tomllib
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent  # of a checkout, or the folder that a wheel is unpacked into


def made_by(*packages: str) -> dict[str, str]:
    """fastgen's version, and that of each of `packages` (names as pip has them) that is installed.

    Where the code runs from fastgen's own checkout, also "commit" and "tree": clean, or changed where files that git
    knows differ from that commit.
    """
    versions = {name: found for name in packages if (found := _version(name)) is not None}
    return _of_fastgen(_ROOT) | versions


def in_words() -> str:
    """Such as "fastgen 0.1.0, commit a6d74ff49bfa with changes"."""
    about = made_by()
    commit = f", commit {about['commit'][:12]}" if "commit" in about else ""
    return f"fastgen {about['fastgen']}{commit}{' with changes' if about.get('tree') == 'changed' else ''}"


@functools.cache  # the code that runs is the one that was imported, whatever is committed meanwhile
def _of_fastgen(root: Path) -> dict[str, str]:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        project = {}
    if project.get("name") != "fastgen":  # site-packages, or another project's folder
        return {"fastgen": _version("fastgen") or "unknown"}
    return {"fastgen": project["version"]} | (_commit(root) if (root / ".git").exists() else {})


def _commit(root: Path) -> dict[str, str]:
    command = ["git", "-c", f"safe.directory={root}", "--no-optional-locks", "-C", str(root)]
    command += ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    # A hook's variables would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):  # no git
        return {}
    lines = told.splitlines()
    commit = next(line.removeprefix("# branch.oid ") for line in lines if line.startswith("# branch.oid "))
    return {"commit": commit, "tree": "clean" if all(line.startswith("#") for line in lines) else "changed"}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
