"""Makes the pictures of README and docs again.

    python scripts/make_pictures.py [RUN_OF_TRUE_LABELS RUN_OF_RANDOM_LABELS]
    python scripts/make_pictures.py --memorization FOLDER

Without run directories the quickstart is trained twice, as `make quickstart` does. FOLDER is one that `fastgen
memorization` has filled.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import pyarrow.parquet as pq

import fastgen
from fastgen.runs.summary import metric

IMAGES = Path(__file__).parent.parent / "docs" / "images"
ROWS, COLUMNS = 4, 6
plt.rcParams |= {"svg.hashsalt": "fastgen", "svg.fonttype": "none", "font.size": 9}


def draw(runs: dict[str, object], to: Path) -> None:
    """A sheet of training images with their given labels, wrong ones red, beside the curves, a row for each run."""
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


def draw_memorization(folder: Path, to: Path) -> None:
    """The most memorised training images, and test images beside the training images that moved them most."""
    run = next(folder.glob("runs/*/recipe.yaml"))
    data = fastgen.open(run, **{"data.subset.fraction": 1.0})
    samples = pq.read_table(folder / "samples.parquet").to_pandas()
    moved = pq.read_table(folder / "influence.parquet").to_pandas()
    images = {
        (split, index): image
        for split in ("train", "test")
        for batch in data.batches(split, shuffle=False, raw=True)
        for index, image in zip(batch.index.tolist(), batch.images.permute(0, 2, 3, 1).numpy(), strict=True)
    }
    names = data.class_names
    figure = plt.figure(figsize=(9, 4))
    left, right = figure.subfigures(1, 2)
    first = samples.sort_values(["memorization", "margin_out"], ascending=[False, True]).head(ROWS * COLUMNS)
    for axes, row in zip(
        left.subplots(ROWS, COLUMNS, gridspec_kw={"hspace": 0.5}).flat, first.itertuples(), strict=True
    ):
        wrong = row.given_label != row.true_label
        axes.imshow(images["train", row.index])
        axes.set_title(names[row.given_label], color="tab:red" if wrong else "black", pad=2, fontsize=7)
        axes.axis("off")
    left.suptitle("most memorised, given label (red: wrong)", fontsize=9)
    memorised = samples.set_index("index").memorization
    pairs = moved[moved.train_index.map(memorised) >= 0.25].sort_values("influence", ascending=False)
    tests = pairs.drop_duplicates("test_index").head(ROWS).test_index
    for line, test in zip(right.subplots(ROWS, 5, gridspec_kw={"hspace": 0.5}), tests, strict=True):
        shown = [("a test image", images["test", test])]
        best = pairs[pairs.test_index == test].head(4)
        shown += [(f"{row.influence:+.2f}", images["train", row.train_index]) for row in best.itertuples()]
        for axes, (text, image) in zip(line, shown, strict=False):
            axes.imshow(image)
            axes.set_title(text, pad=2, fontsize=7)
        for axes in line:
            axes.axis("off")
    right.suptitle("what moved a test image most", fontsize=9)
    figure.savefig(to, metadata={"Date": None, "Creator": None}, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--memorization", type=Path)
    arguments = parser.parse_args()
    if arguments.memorization:
        draw_memorization(arguments.memorization, IMAGES / "memorization.svg")
        return
    how = ("true", "random")
    if arguments.runs:
        runs = [fastgen.load_run(folder) for folder in arguments.runs]
    else:
        runs = [fastgen.train("quickstart", **{"data.labels.kind": labels}) for labels in how]
    draw(dict(zip(how, runs, strict=True)), IMAGES / "true_and_random.svg")


if __name__ == "__main__":
    main()
