"""What is installed, which devices are there, and which data sets are found."""

import os
import platform
import shutil

import torch
from rich.table import Table

from fastgen.terminal import console
from pipelines.backends import BACKENDS
from pipelines.locations import cache_root, data_root
from pipelines.provenance import in_words, made_by
from pipelines.sources import found_here

_PACKAGES = {
    **dict.fromkeys(("torch", "torchvision", "timm", "accelerate", "omegaconf"), ""),
    "wandb": "track.wandb=online or offline needs it",
    **{b.distribution: f"data.backend={name} needs it: {b.install}" for name, b in BACKENDS.items() if b.distribution},
}


def doctor() -> None:
    """Print the tables."""
    out = console()
    packages = Table("package", "version", "remark")
    versions = made_by(*_PACKAGES)
    packages.add_row("fastgen", versions["fastgen"], in_words().partition(", ")[2])
    for name, remark in _PACKAGES.items():
        packages.add_row(name, versions.get(name, "not installed"), "" if name in versions else remark)
    out.print(packages)
    machine = Table("machine", "")
    machine.add_row("Python", platform.python_version())
    machine.add_row("cores", str(len(os.sched_getaffinity(0))))
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    machine.add_row("GPUs", ", ".join(devices) or "none: everything runs on the CPU")
    disk = next(folder for folder in (cache_root(), *cache_root().parents) if folder.exists())
    free = shutil.disk_usage(disk).free / 1e9
    machine.add_row("baked sets (FASTGEN_CACHE)", f"{cache_root()}, {free:,.0f} GB free")
    machine.add_row("raw data (FASTGEN_DATA)", str(data_root()))
    for name, where in found_here().items():
        machine.add_row(f"  {name}", where)
    out.print(machine)
