"""What recording per-example dynamics costs: CIFAR-10, MLP 1x512, batch 128, with and without, in turn.

    FASTGEN_DATA=... python benchmarks/dynamics.py [--repeats 5] [--epochs 4] [--json OUT.json]

Each training runs in a process of its own. All its time counts but the imports: from opening the data to the last
file, the files written at the ends of epochs and one evaluation included. CPU seconds (of all threads) are shown beside
those of the clock, which other work on the machine disturbs more. A cheap network is the hardest case.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

TRAINING = """
import json, sys, time
from fastgen.recipe import load
from fastgen.train import train
wall, cpu = time.perf_counter(), time.process_time()
train(load("cifar10_mlp_1x512_random", sys.argv[1:]))
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""


def seconds(recorded: bool, epochs: int) -> list[float]:
    """Of one training: by the clock, and of CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ["data.batch_size=128", f"train.epochs={epochs}", f"train.evaluate_epochs={epochs}"]
        settings += [f"train.dynamics={str(recorded).lower()}", f"run.dir={folder}", "run.checkpoint_minutes=1000"]
        done = subprocess.run([sys.executable, "-c", TRAINING, *settings], check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds(True, 1)  # bakes, and warms the disk's cache
    pairs = [(seconds(True, arguments.epochs), seconds(False, arguments.epochs)) for _ in range(arguments.repeats)]
    result: dict[str, object] = {
        "command": "python benchmarks/dynamics.py " + " ".join(sys.argv[1:]),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, no GPU, torch {torch.__version__}",
        "with_and_without": pairs,
    }
    for kind, name in enumerate(("wall", "cpu")):
        ratios = [recorded[kind] / plain[kind] for recorded, plain in pairs]
        result[f"{name}_ratio_median"] = statistics.median(ratios)
        print(f"{name} ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
