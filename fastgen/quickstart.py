"""`make quickstart`: the randomization test on scikit-learn's digits, in a minute on a CPU.

Trains the recipe `quickstart` twice, with the true labels and with random ones, and shows both side by side.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from rich.table import Table

from fastgen.runs.folder import runs_root
from fastgen.runs.summary import Summary
from fastgen.terminal import console


def train(labels: str, folder: Path) -> Summary:
    """Train `quickstart` with these labels in a process of its own, and return its summary."""
    settings = ["recipe=quickstart", f"data.labels.kind={labels}", f"run.dir={folder}"]
    subprocess.run([sys.executable, "-m", "fastgen.cli", "train", *settings], check=True)
    summary = Summary.read(folder)
    assert summary is not None, "a training that ended well wrote it"
    return summary


def main() -> None:
    out = console()
    runs_root().mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="quickstart-", dir=runs_root()))
    table = Table("labels", "training accuracy", "test accuracy", "epochs to fit", "images/s", "seconds")
    for labels in ("true", "random"):
        summary = train(labels, base / labels)
        epoch = summary.interpolation_epoch
        table.add_row(
            labels,
            f"{summary.train_top1:.1f} %",
            f"{summary.test_top1:.1f} %",
            "never" if epoch is None else f"{epoch:g}",
            f"{summary.images_per_second:,.0f}",
            f"{summary.wall_seconds:.1f}",
        )
    out.print(table)
    out.print(
        "The same network, the same settings: it fits labels that mean nothing as perfectly as true ones.\n"
        f"Runs, with recipe, manifest and metrics: {base}"
    )


if __name__ == "__main__":
    main()
