"""What CUDA graphs gain on a GPU: milliseconds of a step and seconds of an evaluation, with them and without, in turn.

    FASTGEN_DATA=... python benchmarks/cuda_graphs.py [--json OUT.json] [RECIPE ...]

host: of the process, until all steps are launched. whole: until the GPU has done them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch

from fastgen.bench.results import write_figures
from fastgen.recipe.load import load
from fastgen.runs.folder import RunLock
from fastgen.training.loop import prepare, running, steps, update

RECIPES = ["cifar10_inception_random", "cifar10_alexnet_random", "cifar10_mlp_1x512_random"]
_WARM_UP, _STEPS = 30, 100


def measure(recipe: str, choice: str) -> dict[str, list[float]]:
    """Each twice: kernels are still being chosen in the first round."""
    found: dict[str, list[float]] = {"host_ms": [], "whole_ms": [], "evaluation_s": []}
    with tempfile.TemporaryDirectory() as folder, RunLock() as lock:
        run = prepare(load(recipe, [f"run.dir={folder}/run", f"train.cuda_graphs={choice}"]), lock)
        with running(run), closing(steps(run)) as remaining:
            for count in (_WARM_UP, _STEPS, _STEPS):
                torch.cuda.synchronize()
                started = time.perf_counter()
                for _ in range(count):
                    update(run, next(remaining))
                launched = time.perf_counter()
                torch.cuda.synchronize()
                found["host_ms"].append(1000 * (launched - started) / count)
                found["whole_ms"].append(1000 * (time.perf_counter() - started) / count)
            for _ in range(3):
                started = time.perf_counter()
                run.evaluator.splits(lambda batch: False)
                found["evaluation_s"].append(time.perf_counter() - started)
    return {name: [round(value, 4) for value in values[1:]] for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("RECIPE", "CHOICE"), help="one, in this process")
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for recipe in arguments.recipes:
        for choice in ("auto", "off"):
            command = [sys.executable, __file__, "--measure", recipe, choice]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.setdefault(recipe, {})[choice] = json.loads(done.stdout.splitlines()[-1])
        gains = {name: found[recipe]["off"][name][-1] / value[-1] for name, value in found[recipe]["auto"].items()}
        print(recipe, {name: round(gain, 1) for name, gain in gains.items()}, found[recipe])
    if arguments.json:
        write_figures(arguments.json, "python benchmarks/cuda_graphs.py " + " ".join(sys.argv[1:]), found)


if __name__ == "__main__":
    main()
