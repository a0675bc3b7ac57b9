"""How much memory there is, and how much was used."""

import resource
import sys
from pathlib import Path

import psutil
import torch

# The container's limit and use in bytes, which psutil does not know.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")


def available_bytes(device: torch.device) -> int:
    """Free on the device; on the CPU what the system can give without swapping, within the container's limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    free = int(psutil.virtual_memory().available)
    try:
        most, used = (Path(path).read_text().strip() for path in _LIMITS)
    except OSError:
        return free
    return free if most == "max" else min(free, int(most) - int(used))


def peak_bytes(device: torch.device) -> int:
    """The largest use so far: of the process, or of PyTorch on the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
