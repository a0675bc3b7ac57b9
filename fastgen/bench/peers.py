"""fastgen bench peers: training the MLP 1x512 on CIFAR-10, beside the loops that a user would write instead."""

import json
import shlex
import statistics
from pathlib import Path

from fastgen.bench.options import Options
from fastgen.bench.peer_process import BATCH, LOOPS
from fastgen.bench.results import conclude
from fastgen.bench.subprocesses import in_turn, measure, ratios, shown, values
from fastgen.report.page import Page
from fastgen.report.plots import bars
from pipelines.errors import UserError

_DEFAULTS = {"--only": "", "--steps": "800", "--repeats": "3", "--precision": "fp32", "--output": "bench"}


def peers(arguments: list[str]) -> None:
    """[--steps 800] [--repeats 3] [--precision fp32|bf16] [--only a;b] [--output FOLDER].

    Raises UserError for mistakes, SystemExit(1) when a loop failed.
    """
    command = shlex.join(["fastgen", "bench", "peers", *arguments])
    options = Options(arguments, _DEFAULTS)
    if options["--precision"] not in ("fp32", "bf16"):
        raise UserError(f"--precision={options['--precision']} must be fp32 or bf16")
    work = json.dumps({"steps": options.count("--steps"), "precision": options["--precision"]})
    found, failed = in_turn(
        options.chosen("--only", list(LOOPS)),
        options.count("--repeats"),
        lambda loop: measure("fastgen.bench.peer_process", [loop], work),
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
        f"CIFAR-10, MLP 1x512, batches of {BATCH}, {options['--precision']}, random labels: the same work in each "
        "loop, in turn, each time in a process of its own, after a warm-up: median (lowest to highest), and the median "
        "ratio of neighbours in time."
    )
    if rates:
        page.figure("peers", bars(rates, "images/s"), "Images a second: median, lowest and highest")
    conclude(page, Path(options["--output"]) / "peers", command, {"measured": found, "failed": failed})
