"""What starting costs: commands import what they use, and timm knows the paper's networks whoever imports it first."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pipelines.sources import SourceSpec, open_source

HEAVY = ("torch", "timm", "accelerate", "wandb", "matplotlib", "scipy", "sklearn")


def run(code: str, *arguments: str, path: Path | None = None) -> None:
    """Run Python code in a new process, with `path` first among the packages."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_only_reads_imports_nothing_heavy(tmp_path):
    """A recipe, its baked set, and the points of a sweep are read without PyTorch and all that builds on it."""
    code = """
import sys
heavy = sys.argv[2].split()
def check(what):
    assert not (found := [name for name in heavy if name in sys.modules]), (what, found)
import fastgen
check("import fastgen")
from fastgen import cli
tiny = ["recipe=quickstart", "data.limit=50"]
for arguments in (["--help"], ["train", "--help"], ["reproduce", "--help"], ["bench", "loaders", "--help"],
                  ["train", "recipe=cifar10_inception_random", "--print"], ["bake", *tiny],
                  ["verify", *tiny], ["inspect", *tiny, "--images", sys.argv[1] + "/sheet.png"],
                  ["sweep", *tiny, "seed=0,1", "--wandb-file", sys.argv[1] + "/sweep.yaml"]):
    assert cli.main(arguments) == 0, arguments
    check(arguments)
assert fastgen.bake("quickstart", **{"data.limit": 50}).manifest.splits["train"].samples == 50
check("fastgen.bake")
import fastgen.recipe.completion, fastgen.paper.experiments
check("what completes words")
import fastgen.sweeps.executor
check("the executor")
"""
    run(code, str(tmp_path), " ".join(HEAVY))


def test_a_training_imports_timm_only_for_its_networks():
    code = """
import sys
import torch
import fastgen.training.loop
from fastgen.recipe.load import load
from fastgen.training.network import make_network
make_network(load("quickstart"), 10, 3, 28, torch.device("cpu"))
assert not (found := {"timm", "wandb", "torchvision", "sklearn", "scipy", "matplotlib"} & sys.modules.keys()), found
"""
    run(code)


USE = """
import pickle, sys, timm
from fastgen.models import INCEPTION_V3, NETWORKS
assert set(timm.list_models("fastgen_*")) == {*NETWORKS, INCEPTION_V3}
for name in (*NETWORKS, INCEPTION_V3):
    network = create_model(name, num_classes=7)
    assert network.num_classes == 7 and network.pretrained_cfg["architecture"] == name
again = pickle.loads(pickle.dumps(network))
assert type(again) is type(network) and type(network).__module__.startswith("fastgen.models.")
"""

ORDERS = {
    "fastgen, then timm": """
import importlib, importlib.util, sys, warnings
import fastgen
assert importlib.util.find_spec("timm").loader.get_source("timm") and "timm" not in sys.modules
importlib.reload(fastgen)
from timm.models import create_model
warnings.simplefilter("error")  # timm warns of a name that is registered twice
import timm
importlib.reload(timm)
importlib.reload(fastgen)
""",
    "timm, then fastgen": "from timm import create_model; import fastgen",
}


@pytest.mark.parametrize("order", ORDERS)
def test_timm_makes_the_papers_networks_whichever_comes_first(order):
    run(ORDERS[order] + USE)


STUB = """
registered = {}
is_model = registered.__contains__
build_model_with_cfg = None
def generate_default_cfgs(cfgs): return cfgs
def register_model(function):
    assert function.__name__ not in registered
    registered[function.__name__] = function
"""


def test_a_timm_that_fails_at_first(tmp_path):
    """Its own error is what one sees; once it can be imported it has the networks. Without timm fastgen imports."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text(
        "import os\nif 'BROKEN' in os.environ: raise RuntimeError('broken')\n"
    )
    (tmp_path / "timm" / "models.py").write_text(STUB)
    code = """
import os, sys
sys.modules["timm"] = None  # as if it were not installed
import fastgen
from fastgen.models import INCEPTION_V3, NETWORKS
del sys.modules["timm"]
os.environ["BROKEN"] = "1"
for attempt in range(2):
    try:
        import timm
    except RuntimeError as error:
        assert str(error) == "broken"
    else:
        raise AssertionError
    assert "timm" not in sys.modules
del os.environ["BROKEN"]
import timm.models
assert list(timm.models.registered) == [*NETWORKS, INCEPTION_V3]
"""
    run(code, path=tmp_path)


def test_digits_are_those_of_scikit_learn():
    """The file is read without its package, which takes seconds to import."""
    theirs = load_digits()
    splits = [open_source(SourceSpec("digits"), split) for split in ("train", "val")]
    images = np.concatenate([[split.image(i)[..., 0] for i in range(len(split))] for split in splits])
    labels = np.concatenate([split.labels for split in splits])

    def sorted_rows(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        rows = np.column_stack([images.reshape(len(images), -1), labels])
        return rows[np.lexsort(rows.T)]

    expected = np.rint(theirs.images * (255 / 16)).astype(np.uint8)
    assert np.array_equal(sorted_rows(images, labels), sorted_rows(expected, theirs.target))
    assert splits[0].class_names == [str(name) for name in theirs.target_names]


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)]
)
def test_threads_wait_as_the_user_wants_or_not_for_long(given, spins):
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, sys, fastgen; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(spins)
