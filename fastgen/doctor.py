"""What is installed, which devices are there, which data sets are found, and what follows for a recipe's settings.

PyTorch, which takes seconds to import, is not asked: NVIDIA's library names the GPUs.
"""

import importlib.util
import os
import platform
import shutil
from pathlib import Path

import pynvml
from rich.table import Table

from fastgen.terminal import console
from pipelines.backends import BACKENDS, Backend
from pipelines.locations import cache_root, data_root
from pipelines.provenance import in_words, made_by
from pipelines.sources import found_here

_PACKAGES = {
    **dict.fromkeys(("torch", "torchvision", "timm", "accelerate", "omegaconf"), ""),
    "wandb": "track.wandb=online or offline needs it",
    **{b.distribution: f"data.backend={name} needs it: {b.install}" for name, b in BACKENDS.items() if b.distribution},
}
_BF16 = (8, 0)  # the least compute capability whose tensor cores have bfloat16
_RAW_GB = 189  # what ImageNet takes, baked raw with a longest side of 256 pixels (docs/imagenet.md)


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
    cores, gpus = len(os.sched_getaffinity(0)), _gpus()
    machine.add_row("cores", str(cores))
    machine.add_row("GPUs", ", ".join(name for name, _ in gpus) or "none: everything runs on the CPU")
    disk = next(folder for folder in (cache_root(), *cache_root().absolute().parents) if folder.exists())
    free = shutil.disk_usage(disk).free / 1e9
    machine.add_row("baked sets (FASTGEN_CACHE)", f"{cache_root()}, {free:,.0f} GB free")
    machine.add_row("raw data (FASTGEN_DATA)", str(data_root()))
    for name, where in found_here().items():
        machine.add_row(f"  {name}", where)
    out.print(machine)
    usable = {name: _usable(backend) for name, backend in BACKENDS.items()}
    backends = Table("backend", "here", "how to get it")
    for name, backend in BACKENDS.items():
        backends.add_row(name, "yes" if usable[name] else "no", "" if usable[name] else backend.install)
    out.print(backends)
    settings = Table("setting", "advice", "reason")
    for row in advised([name for name in usable if usable[name]], gpus, cores, os.getloadavg()[0], free):
        settings.add_row(*row)
    out.print(settings)


def advised(
    backends: list[str], gpus: list[tuple[str, tuple[int, int]]], cores: int, load: float, free_gb: float
) -> list[tuple[str, str, str]]:
    """Setting, advice and reason. backends: that are usable. gpus: names and compute capabilities. load: how many
    cores' work other programs do. free_gb: on the disk of baked sets."""
    order = ("dali", "ffcv", "resident") if gpus else ("ffcv", "dali", "resident")
    streaming = next(name for name in order if name in backends)
    where = "on the GPU" if streaming == "dali" and gpus else "beside the training"
    why = "no other backend is here" if streaming == "resident" else f"it decodes {where}"
    bf16 = bool(gpus) and min(capability for _, capability in gpus) >= _BF16
    no_bf16 = "this GPU has no bfloat16" if gpus else "few CPUs compute anything faster"
    alone = "1" if load > cores / 2 and not gpus else "null"
    busy = f"other programs keep {load:.1f} of {cores} cores busy, and threads of a small network wait for each other"
    raw = free_gb > 2 * _RAW_GB
    quick = "its tensor cores have it, and auto takes it" if bf16 else no_bf16
    return [
        ("data.backend, small images", "resident", "digits, MNIST and CIFAR-10 fit on any device: nothing is faster"),
        ("data.backend, photographs", streaming, why),
        ("train.precision", "bf16" if bf16 else "fp32", quick),
        ("train.threads", alone, busy if alone == "1" else f"a process takes its share of the {cores} cores"),
        ("bake.*, small images", "null", "they are baked as they are, raw"),
        (
            "bake.*, photographs",
            "encoding=raw resolution=256" if raw else "encoding=jpeg resolution=400",
            f"{free_gb:,.0f} GB are free, and raw pixels, which need no decoding, take {_RAW_GB} GB of ImageNet",
        ),
    ]


def _usable(backend: Backend) -> bool:
    if backend.package is None:
        return True
    outermost = importlib.util.find_spec(backend.package.partition(".")[0])  # looking for its parts would import it
    inside = backend.package.split(".")[1:]
    places = list(outermost.submodule_search_locations or []) if outermost else []
    return outermost is not None and (not inside or any(Path(place, *inside).exists() for place in places))


def _gpus() -> list[tuple[str, tuple[int, int]]]:
    """Name and compute capability of each that NVIDIA's driver names."""
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [
            (str(pynvml.nvmlDeviceGetName(each)), tuple(pynvml.nvmlDeviceGetCudaComputeCapability(each)))
            for each in handles
        ]
    except pynvml.NVMLError:  # no driver
        return []
