"""The machine that runs something, in words."""

import os
import platform


def machine() -> str:
    """Such as "x86_64, 16 cores, NVIDIA H200, Python 3.12.3, torch 2.11.0+cu130"."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0))
    return (
        f"{platform.machine()}, {cores} cores, {device}, Python {platform.python_version()}, torch {torch.__version__}"
    )
