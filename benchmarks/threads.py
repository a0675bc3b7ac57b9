"""Small networks on a CPU, by how many threads compute and how they wait for their next work: on a machine that has
nothing else to do, and beside one busy process for each core.

    python benchmarks/threads.py [--json OUT.json] [--seconds N]

OpenMP's threads wait busily at first, to lose no time. Where another process has their core, they take it from the
thread that they wait for.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from fastgen.bench.results import write_figures

WAITING = {
    "busily": {"OMP_WAIT_POLICY": "ACTIVE"},
    "as libgomp does": {"GOMP_SPINCOUNT": "300000"},
    "as fastgen does": {},  # what importing it sets
    "passively": {"OMP_WAIT_POLICY": "PASSIVE"},
}
NETWORKS = ("mlp", "convolutions")


def images_per_second(name: str, threads: int, seconds: float) -> float:
    """Steps of the quickstart's MLP with batches of 64 digits, or of a few convolutions with 32 images of CIFAR-10."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if name == "mlp":
        sizes, images = ((64, 512), (512, 512), (512, 512)), torch.randn(64, 64)
        layers = [layer for a, b in sizes for layer in (nn.Linear(a, b), nn.ReLU())]
        network = nn.Sequential(*layers, nn.Linear(512, 10))
    else:
        images = torch.randn(32, 3, 28, 28)
        layers = [layer for a, b in ((3, 32), (32, 32)) for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, fused=True)
    labels = torch.arange(len(images)) % 10
    steps, started, began = 0, 0.0, time.perf_counter()
    while not started or time.perf_counter() - started < seconds:
        if not started and time.perf_counter() - began > seconds / 2:
            started, steps = time.perf_counter(), 0
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return steps * len(images) / (time.perf_counter() - started)


def measured(name: str, threads: int, waiting: str, seconds: float) -> float:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--one", name, str(threads), "--seconds", str(seconds)]
    done = subprocess.run(command, env={**environment, **WAITING[waiting]}, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "THREADS"), help="measure it in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(images_per_second(arguments.one[0], int(arguments.one[1]), arguments.seconds))
        return
    cores, found = len(os.sched_getaffinity(0)), {}
    for others in (0, cores):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            for name in NETWORKS:
                for threads in (1, cores):
                    for waiting in WAITING if threads > 1 else ["as fastgen does"]:
                        key = f"{name}, {threads} threads waiting {waiting}, {others} other processes"
                        found[key] = round(measured(name, threads, waiting, arguments.seconds))
                        print(f"{key}: {found[key]:,} images/s", flush=True)
        finally:
            for process in busy:
                process.kill()
    if arguments.json:
        write_figures(arguments.json, "python benchmarks/threads.py " + " ".join(sys.argv[1:]), {"measured": found})


if __name__ == "__main__":
    main()
