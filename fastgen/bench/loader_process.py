"""Measures one loader in a process of its own, as `fastgen.bench.subprocesses.measure` starts it."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from fastgen.bench.contenders import CONTENDERS, Work
from fastgen.bench.subprocesses import Measurement, answer


def measured(name: str, work_asked: dict[str, Any]) -> Measurement:
    started, imported, work = float(sys.argv[2]), time.time(), Work(**work_asked)
    # The loaders have the cores. Of PyTorch's threads only ours over a resident set makes use; they would wait for work
    # in loops that keep the cores busy.
    torch.set_num_threads(1)
    epoch = CONTENDERS[name].open(work)
    opened = time.time()
    shape = tuple(next(iter(epoch(0))).shape)
    assert shape == (work.batch, 3, work.size, work.size), f"a first batch of shape {shape}"
    first = time.time()
    batches = sum(1 for _ in epoch(1))  # caches, worker processes, memory
    edge, counted = edges(batches)
    began, warm = time.perf_counter(), None
    for number, batch in enumerate(epoch(2)):
        del batch
        if number in (0, edge, edge + counted) and work.device == "cuda":
            torch.cuda.synchronize()
        if number == 0:
            warm = time.perf_counter() - began
        if number == edge:
            cpu, since = cpu_seconds(), time.perf_counter()
        if number == edge + counted:
            took, cpu = time.perf_counter() - since, cpu_seconds() - cpu
    images = counted * work.batch
    return {
        "images_per_second": images / took,
        "cpu_seconds_per_1000": 1000 * cpu / images,
        "first_batch_cold_s": first - started,
        "first_batch_after_opening_s": first - opened,
        "open_s": opened - imported,
        "first_batch_warm_s": warm,
        "peak_mb": peak_bytes() / 1e6,
        "images": images,
    }


def edges(batches: int) -> tuple[int, int]:
    """The batch of an epoch at which to start the clock, and how many to count from there.

    The ends do not count: some loaders have batches of the next epoch ready before it begins, others start anew.
    """
    edge = min(8, (batches - 1) // 3)
    counted = batches - 1 - 2 * edge
    if counted < 1:
        raise ValueError(f"{batches} batches in an epoch are too few to measure: more --samples, or a smaller --batch")
    return edge, counted


def _of_all(measure: Callable[[psutil.Process], float]) -> float:
    """The sum over this process and all that descend from it; one that ends meanwhile counts for nothing."""
    own, total = psutil.Process(), 0.0
    for process in [own, *own.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, OSError):
            total += measure(process)
    return total


def cpu_seconds() -> float:
    """User and system time of the process, its living children, and those that have ended."""
    return _of_all(lambda process: sum(process.cpu_times()[:4]))  # its own user and system, its ended children's


def peak_bytes() -> float:
    """The largest memory of the process and its living children, pages that they share counted for each."""
    return _of_all(_peak_bytes)


def _peak_bytes(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()  # psutil knows no peaks on Linux
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    answer(measured)
    os._exit(0)  # threads and workers of loaders that were left in the middle must not hold up the end
