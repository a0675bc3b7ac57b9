"""What is installed, which devices are there, and which data sets are found."""

import importlib.metadata
import os
import platform
import shutil

import torch
from rich.table import Table

from fastgen.terminal import console
from pipelines.backends import BACKENDS
from pipelines.errors import UserError
from pipelines.locations import cache_root, data_root
from pipelines.sources import SourceSpec, open_source
from pipelines.sources.layouts import find_parquet

_PACKAGES = {
    **dict.fromkeys(("torch", "torchvision", "timm", "accelerate", "omegaconf"), ""),
    "wandb": "track.wandb=online or offline needs it",
    **{b.distribution: f"data.backend={name} needs it: {b.install}" for name, b in BACKENDS.items() if b.distribution},
}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _found(name: str) -> str:
    layouts = {"cifar10": "cifar-10-batches-py", "mnist": "MNIST/raw"}
    own = data_root() / name
    for folder in (own, data_root()):
        if (folder / layouts[name]).is_dir():
            return f"{folder} (torchvision's layout)"
    if own.is_dir() and find_parquet(own, "train"):
        return f"{own} (Parquet)"
    return "not found: downloaded on first use"


def _found_imagenet() -> str:
    try:
        source = open_source(SourceSpec("imagenet"), "train")
    except UserError as error:
        return str(error)
    assert source is not None, "a training split is there, or an error says so"
    return f"{data_root() / 'imagenet'}: {len(source):,} training images, {source.num_classes:,} classes"


def doctor() -> None:
    """Print the tables."""
    out = console()
    packages = Table("package", "version", "remark")
    for name, remark in _PACKAGES.items():
        version = _version(name)
        packages.add_row(name, version, remark if version == "not installed" else "")
    out.print(packages)
    machine = Table("machine", "")
    machine.add_row("Python", platform.python_version())
    machine.add_row("cores", str(len(os.sched_getaffinity(0))))
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    machine.add_row("GPUs", ", ".join(devices) or "none: everything runs on the CPU")
    machine.add_row(
        "baked sets (FASTGEN_CACHE)",
        f"{cache_root()}, {shutil.disk_usage(_existing()).free / 1e9:,.0f} GB free",
    )
    machine.add_row("raw data (FASTGEN_DATA)", str(data_root()))
    for name in ("cifar10", "mnist"):
        machine.add_row(f"  {name}", _found(name))
    machine.add_row("  imagenet", _found_imagenet())
    out.print(machine)


def _existing() -> str:
    folder = cache_root()
    while not folder.exists():
        folder = folder.parent
    return str(folder)
