"""What recording per-example dynamics costs: CIFAR-10, MLP 1x512, batch 128, with and without, in turn.

    FASTGEN_DATA=... python benchmarks/dynamics.py [--repeats 5] [--epochs 4] [--json OUT.json]

Each training runs in a process of its own. Its whole time counts, from opening the data to the last file, the
files written at the ends of epochs and one evaluation included. A cheap network is the hardest case.
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


def seconds(recorded: bool, epochs: int) -> float:
    """wall_seconds of one training."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ["data.batch_size=128", f"train.epochs={epochs}", f"train.evaluate_epochs={epochs}"]
        settings += [f"train.dynamics={str(recorded).lower()}", f"run.dir={folder}", "run.checkpoint_minutes=1000"]
        command = [sys.executable, "-m", "fastgen.cli", "train", "recipe=cifar10_mlp_1x512_random", *settings]
        subprocess.run(command, check=True, capture_output=True)
        return json.loads((Path(folder) / "summary.json").read_text())["wall_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds(True, 1)  # bakes, and warms the disk's cache
    pairs = [(seconds(True, arguments.epochs), seconds(False, arguments.epochs)) for _ in range(arguments.repeats)]
    ratios = [recorded / plain for recorded, plain in pairs]
    print(f"seconds with, without: {pairs}")
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    if arguments.json:
        result = {
            "command": "python benchmarks/dynamics.py " + " ".join(sys.argv[1:]),
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, no GPU used",
            "seconds_with_and_without": pairs,
            "ratio_median": statistics.median(ratios),
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
