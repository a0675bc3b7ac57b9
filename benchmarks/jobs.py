"""How many trainings at a time pay off on one machine or GPU: the same sweep with --jobs 1, 2, ..., in turn.

    FASTGEN_DATA=... python benchmarks/jobs.py [--jobs 1,2,4] [--points 4] [--repeats 2] [--recipe NAME]
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


def seconds(recipe: str, points: int, jobs: int, settings: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        seeds = ",".join(str(seed) for seed in range(points))
        command = [sys.executable, "-m", "fastgen.cli", "sweep", f"recipe={recipe}", f"seed={seeds}", *settings]
        started = time.perf_counter()
        subprocess.run([*command, "--jobs", str(jobs), "--output", folder], check=True, capture_output=True)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default="1,2,4")
    parser.add_argument("--points", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--recipe", default="cifar10_mlp_1x512_random")
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", nargs="*", default=["train.epochs=10", "train.evaluate_epochs=10"])
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.jobs.split(",")]
    seconds(arguments.recipe, 1, 1, [*arguments.settings, "train.max_steps=1"])  # bakes
    taken: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(arguments.repeats):
        for count in counts:
            taken[count].append(seconds(arguments.recipe, arguments.points, count, arguments.settings))
    medians = {count: statistics.median(values) for count, values in taken.items()}
    for count, median in medians.items():
        throughput = medians[counts[0]] / median
        print(f"{count} at a time: {median:.1f} s for {arguments.points} points, {throughput:.2f} x the points an hour")
    if arguments.json:
        command = "python benchmarks/jobs.py " + " ".join(sys.argv[1:])
        settings = [arguments.recipe, *arguments.settings]
        write_figures(arguments.json, command, {"settings": settings, "points": arguments.points, "seconds": taken})


if __name__ == "__main__":
    main()
