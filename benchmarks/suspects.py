"""How many planted labels `fastgen suspects` finds: CIFAR-10 with symmetric noise, and a network of minutes on a CPU.

    FASTGEN_DATA=... python benchmarks/suspects.py FOLDER [--folds 4] [--json OUT.json] [key=value ...]

Trains in FOLDER what is not there yet, the paper's small AlexNet with flips and crops; key=value are of its recipe. Of
each way to rank the labels: the percentage of planted ones among as many suspects as there are planted ones, which is
precision and recall at once, and the area under the ROC curve.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from fastgen.bench.results import write_figures
from fastgen.owndata.ranking import Evidence, found_at, gather, mean_of_known
from fastgen.owndata.suspects import train_folds
from fastgen.recipe.load import load
from fastgen.runs.dynamics import FOLDER
from fastgen.runs.run import Run
from fastgen.sets import bake_recipe
from fastgen.training.loop import train

SETTINGS = [
    "data.labels.kind=symmetric", "data.labels.p=0.1", "data.limit=20000", "data.limit_test=2000", "data.batch_size=64",
    "data.augment.flip=true", "data.augment.random_crop=true", "optim.lr=0.02", "optim.weight_decay=0.0005",
    "schedule.kind=cosine", "train.epochs=6", "train.dynamics=true", "train.evaluate_epochs=100",
    "train.stop_at_interpolation=false", "train.threads=1",
]  # fmt: skip


def ranked(given: np.ndarray, true: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """score: how right each label looks."""
    found = found_at(Evidence(given, true, score, score, None, False))
    known = ~np.isnan(score)
    area = roc_auc_score((given != true)[known], -score[known])
    return {"precision_and_recall_percent": round(found[1], 2) if found else None, "roc_area": round(float(area), 4)}


def recorded(run: Path, measure: str) -> np.ndarray:
    """float64 (epochs, samples), NaN where a sample was in the dropped tail."""
    epochs = [pq.read_table(path)[measure] for path in sorted((run / FOLDER).glob("epoch-*.parquet"))]
    return np.stack([column.to_numpy(zero_copy_only=False).astype(float) for column in epochs])


def ways(run: Path, folds: list[Path]) -> dict[str, dict[str, float]]:
    alone, margins, losses = gather([run]), recorded(run, "margin"), recorded(run, "loss_nats")
    given, true, half = alone.given, alone.true, len(margins) // 2
    found = {
        f"area under the margin, epochs 1 to {last}": mean_of_known(margins[:last])
        for last in range(1, len(margins) + 1)
    }
    found["bounded margin, as fastgen suspects ranks"] = alone.bounded_margin
    found[f"mean margin, epochs {half + 1} to {len(margins)}"] = mean_of_known(margins[half:])
    found[f"mean loss, epochs {half + 1} to {len(margins)}"] = -mean_of_known(losses[half:])
    found["given label's mean probability in training"] = alone.probability_of(given)
    if folds:
        both = gather([run, *folds])
        found["bounded margin, all networks"] = both.bounded_margin
        found["given label's probability out of sample"] = both.probability_of(given)
        found["both, as fastgen suspects --folds ranks"] = both.score
    return {name: ranked(given, true, score) for name, score in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", nargs="*")
    arguments = parser.parse_intermixed_args()
    run = arguments.folder / "run"
    settings = [*SETTINGS, *arguments.settings, f"run.dir={run}", f"run.resume={(run / 'recipe.yaml').exists()}"]
    recipe = load("cifar10_alexnet_true", settings)
    if not Run(run).finished:
        train(recipe)
    folds = train_folds(run, recipe, bake_recipe(recipe), arguments.folds) if arguments.folds else []
    found = ways(run, folds)
    for name, figures in found.items():
        print(f"{figures['precision_and_recall_percent']:6.2f} %  {figures['roc_area']:.4f}  {name}")
    summary = Run(run).summary
    print(f"test accuracy {summary.test_top1:.2f} %, {summary.wall_seconds:,.0f} s")
    if arguments.json:
        figures = {"settings": [*SETTINGS, *arguments.settings], "test_top1_percent": summary.test_top1}
        figures |= {"wall_seconds": summary.wall_seconds, "images_per_second": summary.images_per_second}
        folds_seconds = [Run(fold).summary.wall_seconds for fold in folds]
        command = "python benchmarks/suspects.py " + " ".join(sys.argv[1:])
        write_figures(arguments.json, command, {**figures, "folds_seconds": folds_seconds, "ways": found})


if __name__ == "__main__":
    main()
