"""Makes the README's picture again: python scripts/make_pictures.py [RUN_OF_TRUE_LABELS RUN_OF_RANDOM_LABELS]

Without run directories the quickstart is trained twice, as `make quickstart` does.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

import fastgen
from fastgen.runs.summary import metric

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "true_and_random.svg"
ROWS, COLUMNS = 4, 6


def draw(runs: dict[str, object], to: Path) -> None:
    """A sheet of training images with their given labels, wrong ones red, beside the curves, a row for each run."""
    plt.rcParams |= {"svg.hashsalt": "fastgen", "svg.fonttype": "none", "font.size": 9}
    figure = plt.figure(figsize=(9, 5))
    halves = figure.subfigures(2, 2, width_ratios=[1, 1.15])
    for (sheet, plot), (labels, run) in zip(halves, runs.items(), strict=True):
        data = fastgen.open(run.folder / "recipe.yaml")
        batch = next(iter(data.batches("train", shuffle=False, batch_size=ROWS * COLUMNS, raw=True)))
        for number, axes in enumerate(sheet.subplots(ROWS, COLUMNS, gridspec_kw={"hspace": 0.7, "top": 0.82}).flat):
            given, true = batch.label[number].item(), batch.clean_label[number].item()
            axes.imshow(batch.images[number, 0], cmap="gray_r", interpolation="nearest")
            axes.set_title(str(given), color="black" if given == true else "tab:red", pad=2, fontsize=8)
            axes.axis("off")
        sheet.suptitle(f"{labels} labels", fontsize=10)
        axes = plot.subplots(gridspec_kw={"bottom": 0.22})
        for name, text, style in (("train_top1", "training", "-"), ("test_top1", "test", "--")):
            axes.plot(*run.curve(metric(name), "epoch"), style, color="tab:blue", label=text)
        axes.set(xlabel="epoch", ylabel="accuracy, %", ylim=(0, 104), xlim=(0, None))
        axes.legend(loc="center right")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(to, metadata={"Date": None, "Creator": None}, facecolor="white")


def main(folders: list[str]) -> None:
    if folders:
        runs = [fastgen.load_run(folder) for folder in folders]
    else:
        how = ("true", "random")
        runs = [fastgen.train("quickstart", **{"data.labels.kind": labels}) for labels in how]
    draw(dict(zip(("true", "random"), runs, strict=True)), PICTURE)


if __name__ == "__main__":
    main(sys.argv[1:])
