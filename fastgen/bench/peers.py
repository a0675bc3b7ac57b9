"""fastgen bench peers: training the MLP 1x512 on CIFAR-10, beside the loops that a user would write instead."""

import statistics
from pathlib import Path

from fastgen.bench.peer_process import BATCH, LOOPS
from fastgen.bench.results import conclude
from fastgen.bench.subprocesses import chosen, in_turn, measure, median_and_range, ratios, values


def peers(only: list[str], repeats: int, output: Path, command: str, steps: int, precision: str) -> None:
    """only: names among LOOPS (empty: all). command: as the page quotes it. steps: timed in each repetition. precision:
    fp32 or bf16.

    Raises UserError for mistakes, SystemExit(1) when a loop failed.
    """
    names, work = chosen(only, LOOPS), {"steps": steps, "precision": precision}
    found, failed = in_turn(names, repeats, lambda loop: measure("fastgen.bench.peer_process", loop, work))
    rows = []
    for loop, measured in found.items():
        of = "-"
        if "fastgen" in found and loop != "fastgen":
            of = f"{statistics.median(ratios(found['fastgen'], measured, 'images_per_second')):.2f}"
        rows.append([loop, median_and_range(values(measured, "images_per_second")), of])
    rows += [[loop, f"failed: {why}", ""] for loop, why in failed.items()]
    note = (
        f"CIFAR-10, MLP 1x512, batches of {BATCH}, {precision}, random labels: the same work in each "
        "loop, in turn, each time in a process of its own, after a warm-up: median (lowest to highest), and the median "
        "ratio of neighbours in time."
    )
    table, figures = (["loop", "images/s", "fastgen is"], rows), {"measured": found, "failed": failed}
    conclude(output / "peers", "Training loops", table, [note], command, figures, "Images a second")
