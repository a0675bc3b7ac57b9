"""What a GPU is given to do, and where training waits for it: on a CUDA runtime that does nothing (nullcuda.cpp).

All of PyTorch's code for CUDA runs, torch.compile compiles for it, and kernels are counted. They compute nothing, so
no number that comes from the device means anything here; tests/test_on_a_gpu.py is about those.
"""

import re
import subprocess
import sys

import pytest
import torch
from kernels import HEAD, MAIN, first_steps, kernels
from runtime import ROOT, Run, Runtime, missing

from fastgen.recipe.load import known_recipes
from fastgen.training.states import read_state

pytestmark = [pytest.mark.nullcuda, pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

QUICK = ["recipe=quickstart", "train.compile=false", "train.max_steps=8", "track.log_steps=4"]
QUICK += ["train.stop_at_interpolation=false", "schedule.kind=constant", "model.dropout=0.3"]
OFF, ON = "train.cuda_graphs=off", "train.cuda_graphs=on"
FP16 = [*QUICK, "train.precision=fp16", "optim.clip=1.0"]
CROPS = ["data.augment.random_crop=true", "data.augment.crop_padding=1"]
ALL = [*CROPS, "data.augment.flip=true", "data.augment.rotate=10", "train.accumulate=2", "optim.clip=1.0"]
ALL += ["train.ema=0.99", "train.dynamics=true"]
RUNS = {
    "everything": [*QUICK, *ALL, OFF, "data.batch_size=32", "data.eval_batch_size=100"],
    "graphs": [*QUICK, ON, "train.ema=0.99", "train.dynamics=true", "optim.clip=1.0"],
    "adamw": [*QUICK, ON, "optim.name=adamw"],
    "looks": [*QUICK, ON, "train.stop_at_interpolation=true", "train.max_steps=64", "data.eval_batch_size=100"],
    "fp16": FP16,
    "fp16 rmsprop": [*FP16, "optim.name=rmsprop"],
    "4 steps": [*QUICK, OFF, "train.max_steps=4"],
    "4 steps, resumed": [*QUICK, OFF, "run.resume=true"],
    "8 steps": [*QUICK, OFF],
}
# No convolutions: without cuDNN, they would be compiled for another memory format than with it.
COMPILED = {"compiled": [*QUICK, *CROPS, ON, "train.compile=true", "model.name=fastgen_mlp_1x512"]}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime.build(tmp_path_factory.mktemp("nullcuda"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def trained(runtime, folder, runs):
    """What was found in each run, which ended well and in a folder of its name up to a comma."""
    asked = [Run([*settings, f"run.dir={folder / name.partition(',')[0]}"]) for name, settings in runs.items()]
    found = dict(zip(runs, runtime.train(asked), strict=True))
    assert {name: run["error"] for name, run in found.items() if "error" in run} == {}
    assert {run["device"] for run in found.values()} == {"cuda"}
    return found


@pytest.fixture(scope="module")
def found(runtime, folder):
    return trained(runtime, folder, RUNS)


@pytest.fixture(scope="module")
def compiled(runtime, folder):
    return trained(runtime, folder, COMPILED)["compiled"]


@pytest.fixture(scope="module")
def shipped(runtime, folder):
    """Of every recipe, three steps in its own settings, but for the number and size of images."""
    return first_steps(runtime, known_recipes(), folder)


def waits(run, first=2):
    """Of its steps and their batches, from `first` on: who waited how often."""
    numbers = range(first, run["steps"] + 1)
    phases = [f"{part} {number}" for number in numbers for part in ("step", "batch")]
    assert all(phase in run["phases"] for phase in phases)
    return {phase: said for phase in phases if (said := run["phases"][phase]["waits"])}


def lines(waits):
    """file.py:function of each."""
    return {line.partition(": ")[0] for line in waits}


@pytest.mark.parametrize("name", ["everything", "fp16", "8 steps"])
def test_a_step_waits_for_nothing_but_its_line_of_metrics(name, found):
    assert found[name]["steps"] == 8 and waits(found[name]) == {}
    # Of each epoch, the first: its number goes to the device.
    assert found[name]["phases"]["between"]["waits"] == {"fastgen/training/loop.py:steps: cudaStreamSynchronize": 1}
    assert lines(found[name]["phases"]["log"]["waits"]) == {"fastgen/training/meter.py:totals"}


@pytest.mark.parametrize("name", ["graphs", "adamw"])
def test_a_step_is_one_launch_from_the_fifth_on(name, found):
    phases = found[name]["phases"]
    average = 1 if name == "graphs" else 0  # of the weights, which is no part of the graph
    assert phases["step 4"]["recorded"] + average == phases["step 3"]["kernels"] > 50
    # Beside the recording's own waits, dropout's for a stream that is not recorded.
    assert lines(phases["step 4"]["waits"]) == {
        "fastgen/training/capture.py:_record",
        "fastgen/models/base.py:forward_head",
    }
    assert waits(found[name], first=5) == {}
    for step in range(5, 9):
        assert phases[f"step {step}"]["calls"]["cudaGraphLaunch"] == 1
        assert phases[f"step {step}"]["kernels"] + phases[f"batch {step}"]["kernels"] <= 8


def test_a_compiled_step_waits_for_nothing_and_becomes_one_launch(compiled):
    phases = compiled["phases"]
    assert any(kernel.startswith("triton_") for kernel in phases["step 3"]["by_kernel"])
    assert waits(compiled).keys() == {"step 4"} and 0 < phases["step 4"]["recorded"] == phases["step 3"]["kernels"] < 40
    assert phases["step 6"]["calls"]["cudaGraphLaunch"] == 1 and phases["step 6"]["kernels"] <= 2


def test_rmsprop_waits_once_a_step_for_what_scaling_found(found):
    """PyTorch's GradScaler looks at whether a gradient overflowed before an optimizer that is not fused may step."""
    said = waits(found["fp16 rmsprop"])
    assert said.keys() == {f"step {number}" for number in range(2, 9)}
    assert all(step == {"fastgen/training/optimization.py:step: cudaStreamSynchronize": 1} for step in said.values())


def test_what_waits_is_not_recorded(runtime):
    program = (
        "import torch, warnings; from fastgen.training.capture import Captured\n"
        "captured = Captured(lambda x: (x * x.sum().item(),), needed=False)\n"
        "x = torch.ones(3, device='cuda')\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(5): captured(x)\n"
        "print(*(warning.message for warning in told))"
    )
    environment = runtime.environment()
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "cannot be recorded as a CUDA graph" in done.stdout and "stream is capturing" in done.stdout


def test_a_look_waits_for_its_batches_and_shares_the_graph_of_evaluations(found):
    look, evaluate = (found["looks"]["phases"][phase] for phase in ("look", "evaluate"))
    assert look["recorded"] > 50 and evaluate["recorded"] == 0
    assert look["calls"]["cudaGraphLaunch"] > 0 and evaluate["calls"]["cudaGraphLaunch"] > 10
    # Its samples and labels, in an order of their own, go to the device; recording waits once.
    begins = {"pipelines/backends/columns.py:of", "pipelines/backends/resident.py:_whole"}
    own = {"fastgen/training/evaluation.py:may_reach", "fastgen/training/evaluation.py:reaches"}
    assert lines(look["waits"]) == own | begins | {"fastgen/training/capture.py:_record"}


def test_an_evaluation_waits_for_each_split_and_not_for_batches(found):
    # Of both splits: row numbers for the images and for the columns go to the device, and the sums come back.
    assert found["everything"]["phases"]["evaluate"]["waits"] == {
        "pipelines/backends/columns.py:of: cudaStreamSynchronize": 2,
        "pipelines/backends/resident.py:_whole: cudaStreamSynchronize": 2,
        "fastgen/training/evaluation.py:measure: copy device to pageable": 2,
        "fastgen/training/evaluation.py:measure: cudaStreamSynchronize": 2,
    }


def test_a_checkpoint_waits_once_for_each_file(found, folder):
    files = {path.stem for path in (folder / "everything" / "checkpoints").glob("*/*.safetensors")}
    assert files == {"model", "optimizer", "average", "dynamics", "generators_0"}  # the last are not on the device
    assert found["everything"]["phases"]["save"]["waits"] == {
        "fastgen/training/states.py:on_the_host: cudaStreamSynchronize": 4
    }


def generator(folder, step, rank=0):
    """The state of the device's random numbers: its seed, and how many were drawn."""
    return read_state(folder / "checkpoints" / f"step_{step:08d}" / f"generators_{rank}.safetensors")["cuda"]


def test_a_resumed_run_does_and_draws_what_its_twin_does(folder, found):
    whole, part = generator(folder / "8 steps", 8), generator(folder / "4 steps", 4)
    assert torch.equal(generator(folder / "4 steps", 8), whole) and not torch.equal(part, whole)
    for step in range(5, 9):
        phases = [run["phases"][f"step {step}"] for run in (found["4 steps, resumed"], found["8 steps"])]
        assert phases[0]["by_kernel"] == phases[1]["by_kernel"]


def test_two_devices_train_and_drop_different_units(runtime, folder):
    [run] = runtime.train([Run([*QUICK, "train.max_steps=3", f"run.dir={folder / 'two'}"])], processes=2)
    assert "error" not in run, run["error"]
    assert run["steps"] == 3
    drawn = [generator(folder / "two", 3, rank) for rank in (0, 1)]
    assert not torch.equal(*drawn)
    assert torch.equal(*(state[8:] for state in drawn))  # other seeds, and as many numbers drawn


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_takes_its_first_steps(name, shipped):
    run = shipped[name]
    assert "error" not in run, run["error"]
    assert run["device"] == "cuda" and run["steps"] == 3 and waits(run) == {}


def documented():
    """The table of docs/gpu.md: recipe -> kernels, and which of them are products."""
    text = (ROOT / "docs" / "gpu.md").read_text()
    rows = re.findall(r"\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \|", text[text.index(HEAD) :])
    return {name: tuple(int(number.replace(",", "")) for number in numbers) for name, *numbers in rows}


@pytest.mark.parametrize("name", MAIN)
def test_a_step_launches_no_more_kernels_than_documented(name, shipped):
    found, most = kernels(shipped[name]), documented()[name]
    assert found[1] == most[1] and 0.9 * most[0] <= found[0] <= most[0]
