"""Memorization of CIFAR-10 with wrong labels, estimated twice by different networks: how well do the two agree?

    FASTGEN_DATA=... python benchmarks/memorization.py [--networks 100] [--jobs N] [--output FOLDER] [--json OUT.json]
        [key=value ...]

The first 5,000 samples, a tenth of them with wrong labels, MLP 1x512. Repeated, it goes on where it was stopped, and
trains no finished network again. Seconds are those of the commands; of what is repeated they say nothing.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from fastgen.bench.results import write_figures

SETTINGS = [
    "recipe=cifar10_mlp_1x512_true", "data.limit=5000", "data.labels.kind=symmetric", "data.labels.p=0.1",
    "train.epochs=60", "train.stop_at_interpolation=true", "train.evaluate_epochs=7",
]  # fmt: skip
FIRST_SEEDS = {"first": 0, "second": 100_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("memorization_cifar10"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", nargs="*")
    arguments = parser.parse_args()
    figures: dict[str, object] = {"settings": [*SETTINGS, *arguments.settings], "networks": arguments.networks}
    values = []
    for name, seed in FIRST_SEEDS.items():
        command = [sys.executable, "-m", "fastgen.cli", "memorization", *SETTINGS, f"seed={seed}", *arguments.settings]
        command += ["--networks", str(arguments.networks), "--jobs", str(arguments.jobs)]
        started = time.perf_counter()
        subprocess.run([*command, "--output", str(arguments.output / name)], check=True)
        table = pq.read_table(arguments.output / name / "samples.parquet")
        value, corrupted = (
            table["memorization"].to_numpy(),
            table["given_label"].to_numpy() != table["true_label"].to_numpy(),
        )
        known = ~np.isnan(value)
        margin = table["margin_out"].to_numpy()
        order = np.lexsort((margin, np.where(known, -value, np.inf)))  # as on the page
        figures[name] = {
            "seconds": round(time.perf_counter() - started, 1),
            "known": int(known.sum()),
            "mean_clean": value[known & ~corrupted].mean(),
            "mean_corrupted": value[known & corrupted].mean(),
            "auroc": roc_auc_score(corrupted[known], value[known]),
            "auroc_of_margin_out": roc_auc_score(corrupted[known], -margin[known]),
            "corrupted_of_32_most_memorised": int(corrupted[order[:32]].sum()),
        }
        values.append(value)
    known = ~np.isnan(values[0] + values[1])
    figures["spearman_of_the_two"] = spearmanr(values[0][known], values[1][known]).statistic
    print(figures)
    if arguments.json:
        write_figures(arguments.json, "python benchmarks/memorization.py " + " ".join(sys.argv[1:]), figures)


if __name__ == "__main__":
    main()
