"""What recording per-example dynamics costs: CIFAR-10, MLP 1x512, batch 128.

    FASTGEN_DATA=... python benchmarks/dynamics.py [--repeats 5] [--epochs 4] [--json OUT.json]

Trainings with and without it take turns, each in a process of its own. All their time counts but the imports: the files
written at the ends of epochs and one evaluation, too. Other work on the machine disturbs such ratios by more than the
recording costs. So the trainings that record also add up the seconds within the recording's own calls (on a CPU all of
it happens there); over the seconds of the rest, they are its share. A cheap network is the hardest case.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fastgen.bench.results import write_figures

TRAINING = """
import json, sys, time
from fastgen.recipe.load import load
from fastgen.training.loop import train
from fastgen.training.recorder import Recorder

recording, depth = 0.0, 0

def timed(method):
    def call(*arguments, **named):
        global recording, depth
        depth += 1
        started = time.perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            depth -= 1
            if not depth:
                recording += time.perf_counter() - started
    return call

for name in ("__init__", "start", "batch", "epoch", "finish", "state_dict"):
    setattr(Recorder, name, timed(getattr(Recorder, name)))
wall, cpu = time.perf_counter(), time.process_time()
train(load("cifar10_mlp_1x512_random", sys.argv[1:]))
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, recording]))
"""


def seconds(recorded: bool, epochs: int) -> list[float]:
    """One training's seconds by the clock, of CPU time, and by the clock within the recording's calls."""
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
    figures = {
        "recording's share": [within / (wall - within) for (wall, _, within), _ in pairs],
        "wall ratio": [recorded[0] / plain[0] for recorded, plain in pairs],
        "cpu ratio": [recorded[1] / plain[1] for recorded, plain in pairs],
    }
    for name, values in figures.items():
        print(f"{name} {statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})")
    if arguments.json:
        medians = {name: statistics.median(values) for name, values in figures.items()}
        command = "python benchmarks/dynamics.py " + " ".join(sys.argv[1:])
        write_figures(arguments.json, command, {"medians": medians, "with_and_without": pairs})


if __name__ == "__main__":
    main()
