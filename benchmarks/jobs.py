"""How many trainings at a time pay off on one machine or GPU: the same sweep with --jobs 1, 2, ..., in turn, and beside
them a plain loop over `fastgen train`, one command after another.

    FASTGEN_DATA=... python benchmarks/jobs.py [--jobs loop,1,2,4] [--points 4] [--repeats 2] [--recipe NAME]
        [--json OUT.json] [key=value ...]

Seconds from the command to its end, processes started and imports included, as a user waits for them.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastgen.bench.results import write_figures


def seconds(recipe: str, points: int, jobs: str, settings: list[str]) -> float:
    fastgen, settings = [sys.executable, "-m", "fastgen.cli"], [f"recipe={recipe}", *settings]
    with tempfile.TemporaryDirectory() as folder:
        seeds = ",".join(str(seed) for seed in range(points))
        commands = [[*fastgen, "sweep", *settings, f"seed={seeds}", "--jobs", jobs, "--output", folder]]
        if jobs == "loop":
            commands = [[*fastgen, "train", *settings, f"seed={i}", f"run.dir={folder}/{i}"] for i in range(points)]
        started = time.perf_counter()
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default="loop,1,2,4")
    parser.add_argument("--points", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--recipe", default="cifar10_mlp_1x512_random")
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", nargs="*", default=["train.epochs=10", "train.evaluate_epochs=10"])
    arguments = parser.parse_args()
    counts = arguments.jobs.split(",")
    seconds(arguments.recipe, 1, "1", [*arguments.settings, "train.max_steps=1"])  # bakes
    taken: dict[str, list[float]] = {count: [] for count in counts}
    for _ in range(arguments.repeats):
        for count in counts:
            taken[count].append(seconds(arguments.recipe, arguments.points, count, arguments.settings))
    medians = {count: statistics.median(values) for count, values in taken.items()}
    for count, median in medians.items():
        throughput = medians[counts[0]] / median
        form = "a loop over fastgen train" if count == "loop" else f"a sweep, {count} at a time"
        print(f"{form}: {median:.1f} s for {arguments.points} points, {throughput:.2f} x the points an hour")
    if arguments.json:
        command = "python benchmarks/jobs.py " + " ".join(sys.argv[1:])
        settings = [arguments.recipe, *arguments.settings]
        write_figures(arguments.json, command, {"settings": settings, "points": arguments.points, "seconds": taken})


if __name__ == "__main__":
    main()
