"""fastgen bench peers: training the MLP 1x512 on CIFAR-10, beside the loops that a user would write instead."""

import json
import statistics
from pathlib import Path

from fastgen.bench.peer_process import BATCH, LOOPS
from fastgen.bench.results import conclude
from fastgen.bench.subprocesses import chosen, in_turn, measure, ratios, shown, values
from fastgen.report.page import Page
from fastgen.report.plots import bars


def peers(only: list[str], repeats: int, output: Path, command: str, steps: int, precision: str) -> None:
    """only: names among LOOPS (empty: all). steps: that are timed, each time. precision: fp32 or bf16. command: what
    the page says that it was made with.

    Raises UserError for mistakes, SystemExit(1) when a loop failed.
    """
    work = json.dumps({"steps": steps, "precision": precision})
    found, failed = in_turn(
        chosen(only, LOOPS), repeats, lambda loop: measure("fastgen.bench.peer_process", [loop], work)
    )
    rates = {loop: values(measured, "images_per_second") for loop, measured in found.items()}
    rows = []
    for loop, measured in found.items():
        of = "-"
        if "fastgen" in found and loop != "fastgen":
            of = f"{statistics.median(ratios(found['fastgen'], measured, 'images_per_second')):.2f}"
        rows.append([loop, shown(rates[loop]), of])
    page = Page("Training loops")
    page.table(
        ["loop", "images/s", "fastgen is"], [*rows, *([loop, f"failed: {why}", ""] for loop, why in failed.items())]
    )
    page.text(
        f"CIFAR-10, MLP 1x512, batches of {BATCH}, {precision}, random labels: the same work in each "
        "loop, in turn, each time in a process of its own, after a warm-up: median (lowest to highest), and the median "
        "ratio of neighbours in time."
    )
    if rates:
        page.figure("peers", bars(rates, "images/s"), "Images a second: median, lowest and highest")
    conclude(page, output / "peers", command, {"measured": found, "failed": failed})
