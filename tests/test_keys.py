"""What a user is told of keys and recipes, and what goes on with a run."""

import pytest
from whole_runs import ROOT, SMALL, fresh_accelerate  # noqa: F401

from fastgen import cli
from fastgen.recipe import load
from fastgen.recipe.keys import all_keys, find, told
from fastgen.recipe.schema import known_keys
from fastgen.runs.summary import Summary


def test_each_key_says_what_it_means():
    keys = all_keys()
    assert [key.name for key in keys] == list(known_keys())
    assert [key.name for key in keys if len(key.meaning) < 5] == []
    known = {key.name: key for key in keys}
    assert known["data.batch_size"].meaning == "global: over all processes and accumulation steps"
    assert known["optim.clip"].type == "number or null" and known["optim.clip"].default == "null"
    assert known["data.view.aspect"].meaning.startswith("width over height")  # from a docstring
    assert known["train.cuda_graphs"].values == ("auto", "on", "off")


def test_the_page_of_keys_is_of_these_keys():
    """Made by `fastgen keys --markdown > docs/keys.md`."""
    assert (ROOT / "docs" / "keys.md").read_text() == told(all_keys(), markdown=True) + "\n"


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("eval_batch", ["data.eval_batch_size"]),
        ("schedule.*", ["schedule.kind", "schedule.factor", "schedule.every_samples", "schedule.warmup_samples"]),
        ("rmsprop's running", ["optim.decay"]),
    ],
)
def test_keys_are_found_by_name_pattern_and_meaning(pattern, names):
    assert [key.name for key in find(pattern)] == names


def test_what_other_tools_call_a_key_leads_to_ours(capsys):
    assert set(load._SYNONYMS.values()) <= known_keys().keys() and not load._SYNONYMS.keys() & known_keys().keys()
    for key, meant in (
        ("optim.learning_rate", "'optim.lr'"),
        ("batch_size", "'data.batch_size'"),
        ("amp", "precision"),
    ):
        assert cli.main(["train", "recipe=quickstart", f"{key}=1"]) == 2
        assert f"did you mean {meant}" in (said := capsys.readouterr().err) or meant in said
    assert cli.main(["train", "recipe=cifar_inception_rand"]) == 2
    said = capsys.readouterr().err
    assert "did you mean recipe=cifar10_inception_random or" in said and len(said) < 250 and "`fastgen recipes`" in said
    assert cli.main(["keys", "zebra"]) == 2 and "no key is like 'zebra'" in capsys.readouterr().err


def test_lists_and_version(capsys):
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(load.known_recipes()) and all(len(line.split()) > 3 for line in lines)
    assert cli.main(["--version"]) == 0 and capsys.readouterr().out.startswith("fastgen 0.")
    assert cli.main(["keys", "train.ema"]) == 0
    assert capsys.readouterr().out.startswith("train.ema=0.0   (number)\n    decay of a moving average")


def test_resume_goes_on_with_the_recipe_of_the_run(capsys):
    small = [*SMALL, "schedule.kind=constant", "train.dynamics=true", "train.epochs=2", "train.max_steps=4"]
    assert cli.main(["train", "recipe=quickstart", *small]) == 0
    assert cli.main(["resume"]) == 2 and "no run below fastgen_out/runs is left" in capsys.readouterr().err
    assert cli.main(["resume", "runs/none"]) == 2 and "no run to resume in runs/none" in capsys.readouterr().err
    assert cli.main(["resume", "runs/a", "runs/b"]) == 2 and "one is resumed at a time" in capsys.readouterr().err
    run = next(path for path in (ROOT.cwd() / "fastgen_out" / "runs").iterdir() if path.is_dir())
    (run / "summary.json").unlink()  # as if it had been killed
    assert cli.main(["resume", "train.max_steps=6"]) == 0
    assert (said := capsys.readouterr().out) and f"resuming fastgen_out/runs/{run.name}" in said
    assert "going on from step 4, epoch 1.3333" in said
    summary = Summary.read(run)
    assert summary.steps == 6 and summary.recipe == "quickstart"
