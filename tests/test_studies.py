"""The theory's experiments by their command, on small sets: what is shown is what an own computation gives."""

import json
from pathlib import Path

import pytest

from fastgen import cli
from fastgen.paper import bandwidth, table3
from fastgen.paper.experiments import EXPERIMENTS, STUDIES, Scope
from fastgen.paper.studies import find_study
from pipelines.errors import UserError


def run(*arguments):
    return cli.main(["reproduce", *arguments])


def measured(folder, name):
    """What is kept of each case: file name -> rows."""
    return {path.name: json.loads(path.read_text())["measured"] for path in (folder / "theory").glob(f"{name}-*.json")}


def test_theorem1(tmp_path, capsys):
    command = ["theorem1", "--models", "digits", "data.limit=200", "--output", str(tmp_path)]
    assert run(*command) == 0
    ((_, rows),) = measured(tmp_path, "theorem1").items()
    signs, labels, *deep = rows
    n, d = labels["samples"], labels["dimensions"]
    assert n == 200 and signs["weights"] == 2 * n + d and labels["weights"] == 11 * n + d
    assert all(row["recovered"] == 100 and row["largest_error"] < 1e-6 for row in rows)
    assert [row["width"] for row in deep] == [-(-n // hidden) + 21 for hidden in (2, 9, 99)]
    text = (tmp_path / "theorem1.md").read_text()
    assert f"{2 * n + d:,}" in text and "fastgen reproduce theorem1" in text and "data.limit=200" in text
    assert (tmp_path / "theorem1_files" / "theorem1.svg").is_file()
    # What is done is not done again, and another seed is something else.
    capsys.readouterr()
    assert run(*command) == 0 and "fitting" not in capsys.readouterr().out
    assert run(*command, "seed=1", "--show") == 2
    assert "nothing of theorem1 with these settings" in capsys.readouterr().err
    assert run(*command, "--show") == 0
    assert run(*command, "seed=1") == 0 and len(measured(tmp_path, "theorem1")) == 2


def test_theorem1_of_few_points_has_the_depths_that_there_are(tmp_path):
    arguments = ["--models", "digits", "data.limit=50", "data.limit_test=7", "--output", str(tmp_path)]
    assert run("theorem1", *arguments) == 0
    ((_, rows),) = measured(tmp_path, "theorem1").items()
    assert [row and row["samples"] for row in rows] == [50, 50, 50, 50, None]
    text = (tmp_path / "theorem1.md").read_text()
    assert "| 100 |" not in text and "Not the whole test set: data.limit_test=7" in text


def test_all_shows_what_there_is(tmp_path, capsys):
    assert run("theorem1", "--models", "digits", "data.limit=50", "--output", str(tmp_path)) == 0
    assert run("all", "--show", "--output", str(tmp_path), "data.limit=50") == 0
    said = capsys.readouterr().out
    assert "minnorm: nothing of minnorm with these settings" in said and "nothing of table4 with these" in said
    assert (tmp_path / "theorem1.md").is_file() and not (tmp_path / "table4.md").exists()


def test_minimum_norm(tmp_path):
    assert run("minnorm", "--models", "digits", "data.limit=20", "sgd.epochs=1500", "--output", str(tmp_path)) == 0
    ((_, (pseudo, zero, elsewhere)),) = measured(tmp_path, "minnorm").items()
    assert zero["distance"] < 1e-3 < 0.1 < elsewhere["distance"]
    assert zero["test_error"] == pytest.approx(pseudo["test_error"], abs=0.5) and elsewhere["norm"] > pseudo["norm"]
    assert {path.name for path in (tmp_path / "minnorm_files").glob("*.svg")} == {"minnorm.svg", "minnorm-1.svg"}


@pytest.mark.parametrize(("case", "key"), [("mnist", "test_error"), ("mnist_gabor", "test_error")])
def test_table3_on_mnist(case, key, data_folder, tmp_path):
    limits = ["data.limit=1500", "data.limit_test=500"]
    assert run("table3", "--models", case, *limits, "--output", str(tmp_path)) == 0
    ((_, (row,)),) = measured(tmp_path, "table3").items()
    assert row["samples"] == 1500 and row["train_error"] == 0 and row["residual"] < 1e-5
    assert row[key] < (8 if case == "mnist" else 5)  # of 500; chance is 90
    text = (tmp_path / "table3.md").read_text()
    assert f"{row['test_error']:.2f}" in text and ("about 220" if case == "mnist" else "about 390") in text


def test_table3_on_cifar10(data_folder, tmp_path):
    limits = ["data.limit=600", "data.limit_test=200", "kernel.filters=250", "kernel.panel=256"]
    assert run("table3", "--models", "cifar10,cifar10_convnet", *limits, "--output", str(tmp_path)) == 0
    rows = {name.rsplit("-", 1)[0]: rows for name, rows in measured(tmp_path, "table3").items()}
    (raw,), (plain, ridge) = rows["table3-cifar10"], rows["table3-cifar10-random_convnet"]
    assert raw["train_error"] == plain["train_error"] == 0
    assert max(plain["test_error"], ridge["test_error"]) < raw["test_error"] < 85
    assert (plain["ridge"], ridge["ridge"]) == (0, table3.CONVOLUTION_RIDGE)  # and nothing but l2 differs
    assert plain["gamma"] == ridge["gamma"] == table3.CONVOLUTION_GAMMA and ridge["norm"] < plain["norm"]
    assert max(row["residual"] for row in (raw, plain, ridge)) < 1e-5
    assert plain["filters"] == 250 and raw["filters"] is None


def test_bandwidths_are_chosen_on_held_out_samples(data_folder, tmp_path):
    models = ["--models", "mnist,cifar10_convnet"]
    assert run("table3_bandwidth", *models, "data.limit=600", "kernel.filters=60", "--output", str(tmp_path)) == 0
    rows = {name.rsplit("-", 1)[0]: rows for name, rows in measured(tmp_path, "table3_bandwidth").items()}
    pixels, convnet = rows["table3_bandwidth-mnist"], rows["table3_bandwidth-cifar10_convnet"]
    assert all(row["samples"] == 400 and row["held_out"] == 200 and row["residual"] < 1e-3 for row in pixels + convnet)
    plain = [row for row in convnet if not row["ridge"]]
    for tried in (pixels, plain):
        (chosen,) = (row for row in tried if row["chosen"])
        alike = [row for row in tried if row["above_the_best"] <= row["standard_error"]]
        assert chosen["gamma"] == min(row["gamma"] for row in alike)
        assert min(row["above_the_best"] for row in tried) == 0
    ridged = [row for row in convnet if row["ridge"]]
    (chosen,) = (row for row in ridged if row["chosen"])
    assert chosen["held_out_error"] == min(row["held_out_error"] for row in ridged)
    assert {row["gamma"] for row in ridged} == {row["gamma"] for row in plain if row["chosen"]}
    assert "fastgen reproduce table3_bandwidth" in (tmp_path / "table3_bandwidth.md").read_text()


def test_the_smoothest_of_equally_accurate_kernels_is_chosen():
    best = set(range(100))
    near, far = set(range(4, 107)), {*range(98), *range(200, 205)}  # 3 more each; 11 and 7 samples tell them apart
    assert bandwidth.standard_error(best, near) == pytest.approx(11**0.5) and bandwidth.standard_error(best, best) == 0
    assert bandwidth.choose_gamma((0.2, 0.4, 0.8), [near, best, far]) == 0
    assert bandwidth.choose_gamma((0.2, 0.4, 0.8), [far, best, near]) == 1
    assert bandwidth.choose_gamma((0.8, 0.4, 0.2), [best, near, far]) == 1
    assert bandwidth.choose_gamma((1.0,), [best]) == 0


def test_table3_has_the_bandwidths_that_were_chosen():
    """Those of the page that the command wrote."""
    page = (Path(__file__).parents[1] / "docs/results/table3_bandwidth.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    header = lines[0]
    chosen = [dict(zip(header, line, strict=True)) for line in lines if "chosen" in line and line != header]
    found = [(row["row"], float(row["gamma"]), float(row["l2"])) for row in chosen]
    ours = [
        ("mnist", table3.MNIST_GAMMA, 0),
        ("mnist_gabor", table3.GABOR_GAMMA, 0),
        ("cifar10", table3.CIFAR_GAMMA, 0),
        ("cifar10_convnet", table3.CONVOLUTION_GAMMA, 0),
        ("cifar10_convnet", table3.CONVOLUTION_GAMMA, table3.CONVOLUTION_RIDGE),
    ]
    shown = {row["row"] for row in chosen}
    assert {"mnist", "mnist_gabor"} <= shown and found == [row for row in ours if row[0] in shown]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["theorem1", "kernel.gamma=1"], "theorem1 does not use kernel.gamma=1"),
        (["minnorm", "sgd.epoch=1"], "did you mean 'sgd.epochs'"),
        (["minnorm", "sgd.epochs=0"], "sgd.epochs=0 must be at least 1"),
        (["theorem1", "data.limit=0"], "data.limit=0 must be at least 1"),
        (["theorem1", "--models", "cifar11"], "did you mean 'cifar10'"),
        (["table1", "seed=1"], "seed=1: seeds are given as --seeds"),
        (["rademacher", "data.labels.kind=true"], "the labels of this experiment are random signs"),
        (["table3", "kernel.filters=0"], "kernel.filters=0 must be at least 1"),
        (["table3", "kernel.memory_gb=-1"], "kernel.memory_gb=-1.0 must be above 0"),
        (["table3", "kernel.precision=bf16"], "kernel.precision=bf16 must be"),
        (["table3", "--models", "cifar10_convnet", "kernel.solver=iterative"], "too many for"),
        (["minnorm", "--models", "digits", "data.limit=300"], "have no two solutions"),
        (["table3", "--models", "digits"], "--models has 'digits', and table3 has mnist,"),
        (["table3_bandwidth", "--models", "digits"], "--models has 'digits', and table3_bandwidth has mnist,"),
        (["table3_bandwidth", "kernel.gamma=1"], "table3_bandwidth does not use kernel.gamma=1"),
        (["table3_bandwidth", "--models", "mnist", "data.limit=2"], "data.limit=2 leaves no sample to hold out"),
        (["table3", "--seeds", "1"], "--seeds is for trainings"),
        (["table3", "kernel.solver=fast"], "kernel.solver=fast must be"),
    ],
)
def test_mistakes_are_told(arguments, message, tmp_path, capsys, data_folder):
    limited = arguments if "data.limit" in " ".join(arguments) else [*arguments, "data.limit=50"]
    assert run(*limited, "--output", str(tmp_path)) == 2
    assert message in capsys.readouterr().err


def test_every_study_names_what_it_shows():
    for study in map(find_study, STUDIES):
        for case in study.cases(None):
            assert case.rows and all(row.labels.keys() == case.rows[0].labels.keys() for row in case.rows)
    with pytest.raises(UserError, match="did you mean 'table3'"):
        find_study("tabel3")


# ---------------------------------------------------------------- Rademacher complexity, which is trained


def test_rademacher_of_any_network_and_source(tmp_path):
    arguments = ["rademacher", "--models", "fastgen_mlp_3x512", "--seeds", "0", "--output", str(tmp_path)]
    arguments += ["data.source=digits", "data.limit=64", "data.image_size=null", "train.epochs=60", "optim.lr=0.05"]
    assert run(*arguments) == 0
    found = {}
    for path in (tmp_path / "runs").glob("*/summary.json"):
        summary = json.loads(path.read_text())
        found.setdefault(summary["recipe"], []).append(summary)
        assert summary["rademacher_complexity"] == pytest.approx(2 * summary["train_top1"] / 100 - 1)
        assert summary["test_top1"] is None and summary["train_top1_true_labels"] is None
    fitted = found["rademacher"]
    assert len(fitted) == 1 and fitted[0]["train_top1"] == 100
    assert cli.main(["report", str(tmp_path), "--output", str(tmp_path / "report.html")]) == 0
    told = (tmp_path / "report.md").read_text()
    assert "| complexity |" in told and "signs in place of classes" in told and "Not evaluated" not in told
    text = (tmp_path / "rademacher.md").read_text()
    assert "| fastgen_mlp_3x512 | 100.00 | close to 1 | 1.00 |" in text


def test_rademachers_entries():
    experiment = EXPERIMENTS["rademacher"]
    assert experiment.seeds == (0, 1, 2)
    for entry in experiment.entries(Scope(["alexnet", "resnet18"], smoke=False)):
        first, second = (entry.point(seed, ()).load() for seed in (0, 1))
        assert first.data.labels.signs and first.data.labels.column_name != second.data.labels.column_name
    with pytest.raises(UserError, match="'resnet19', and is one of"):
        experiment.entries(Scope(["resnet19"], smoke=False))
