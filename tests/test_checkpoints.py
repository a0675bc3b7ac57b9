"""Checkpoints: what goes in comes out, every damage is found and named, and nothing in them is ever executed."""

import ast
import json
import os
import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from test_architecture import ROOT
from whole_runs import fresh_accelerate  # noqa: F401

from fastgen.training import checkpoints
from fastgen.training.averaging import WeightAverage
from fastgen.training.generators import generator_states, set_generator_states
from fastgen.training.position import Position
from fastgen.training.states import read_state, write_state
from pipelines.errors import UserError

STATE = {
    "numbers": [1, -2.5, float("inf"), 1e-300, True, None, "text \u00e9"],
    "tuple": (0.9, 0.999),
    "state": {0: {"step": torch.tensor(3.0), "buffer": torch.randn(2, 3, 4, 5)}, 7: {}},
    "types": [torch.arange(3), torch.zeros(0, 4), torch.randn(2).bfloat16(), torch.tensor([True, False])],
    "": {"nested": [[], {}, [{"x": torch.tensor(-0.0)}]]},
}


def same(one, two):
    if isinstance(one, torch.Tensor):
        alike = one.dtype == two.dtype and one.shape == two.shape and one.stride() == two.stride()
        return alike and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return one == two and type(one) is type(two)


def test_a_state_comes_back_as_it_was(tmp_path):
    write_state(tmp_path / "state", STATE)
    assert same(read_state(tmp_path / "state"), STATE)
    for turned in (
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.randn(3, 4).t(), torch.randn(2, 3, 4).mT
    ):  # fmt: skip
        write_state(tmp_path / "state", {"turned": turned, "again": turned})
        assert same(read_state(tmp_path / "state"), {"turned": turned, "again": turned})
    with pytest.raises(TypeError, match="cannot hold a set"):
        write_state(tmp_path / "state", {"of": {1, 2}})


def test_all_random_numbers_go_on():
    def drawn():
        legacy = np.random.rand(5), np.random.randn(3)  # noqa: NPY002
        return torch.rand(5), legacy[0], [random.random() for _ in range(5)], legacy[1]

    states = generator_states()
    first = drawn()
    set_generator_states(states)
    again = drawn()
    assert torch.equal(first[0], again[0]) and first[2] == again[2]
    assert np.array_equal(first[1], again[1]) and np.array_equal(first[3], again[3])


def made(seed=0):
    """A network that has taken a step, and its states."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, fused=True)
    average = WeightAverage(network, 0.9)
    network(torch.randn(5, 3, 6, 6)).square().mean().backward()
    optimizer.step()
    average.update(network)
    return network, {"optimizer": optimizer, "average": average}


@pytest.fixture
def saved(tmp_path):
    """Accelerator and the newest of two checkpoints."""
    accelerator, (network, states) = Accelerator(cpu=True), made()
    for step in (3, 4):
        checkpoints.save(accelerator, tmp_path, Position(steps_per_epoch=5, step=step), 2, network, states)
    return accelerator, checkpoints.latest(tmp_path)


def test_a_checkpoint_restores_everything(saved):
    accelerator, folder = saved
    (network, states), (other, others) = made(), made(seed=1)
    assert not same(dict(network.state_dict()), dict(other.state_dict()))
    position = checkpoints.restore(accelerator, folder, other, others)
    assert position == Position(steps_per_epoch=5, step=4)
    assert same(dict(network.state_dict()), dict(other.state_dict()))
    for name, state in states.items():
        assert same(others[name].state_dict(), state.state_dict())
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "optimizer.safetensors", "average.safetensors", "generators_0.safetensors", "position.json"
    }  # fmt: skip


FILES = ["model.safetensors", "optimizer.safetensors", "average.safetensors", "generators_0.safetensors"]


@pytest.mark.parametrize("name", [*FILES, "position.json"])
def test_every_damage_is_found_and_named(name, saved):
    accelerator, folder = saved
    path = folder / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)

    def flipped():
        at, damaged = int(rng.integers(len(whole))), bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        return bytes(damaged)

    damages = [b"", whole[:-1], whole[: len(whole) // 2], whole + b"\n ", b"null", b"[]", b"{}", b"\0" * len(whole)]
    for damaged in [*damages, *(flipped() for _ in range(25))]:
        path.write_bytes(damaged)
        if name == "position.json" and damaged.split() == whole.split():
            continue  # white space at the end says nothing
        with pytest.raises(UserError, match=name) as caught:
            checkpoints.restore(accelerator, folder, *made(seed=1))
        assert "step_00000003, the one before" in str(caught.value) or "version" in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=name):
        checkpoints.restore(accelerator, folder, *made(seed=1))
    path.mkdir()
    with pytest.raises(UserError, match=name):
        checkpoints.restore(accelerator, folder, *made(seed=1))
    shutil.rmtree(folder)
    checkpoints.restore(accelerator, folder.parent / "step_00000003", *made(seed=1))  # as the message says


def test_a_checkpoint_in_anothers_place_is_named(saved):
    """Two whose folders changed names, and one that lacks its position."""
    accelerator, folder = saved
    before = folder.parent / "step_00000003"
    for one, other in ((folder, folder.parent / "x"), (before, folder), (folder.parent / "x", before)):
        one.rename(other)
    with pytest.raises(UserError, match=r"step_00000004 holds step 3: it was renamed .* step_00000003, the one before"):
        checkpoints.restore(accelerator, checkpoints.latest(folder.parent), *made())
    (network, states), position = made(), Position(steps_per_epoch=5, step=3)
    with pytest.raises(UserError, match="step_00000003 holds step 4"):  # and not taken for what is to be written
        checkpoints.save(accelerator, folder.parent, position, 2, network, states)
    (folder / "position.json").unlink()
    with pytest.raises(UserError, match=r"step_00000004.position.json is damaged"):
        checkpoints.restore(accelerator, checkpoints.latest(folder.parent), *made())


def test_the_newest_goes_by_its_number(saved):
    _, folder = saved
    for name in ("step_99999999", "step_100000000", "step_100000001.old"):
        (folder.parent / name).mkdir()
    assert checkpoints.latest(folder.parent).name == "step_100000000"


def test_another_network_is_told_from_damage(saved):
    accelerator, folder = saved
    other = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"model.safetensors does not fit this run: .*Linear"):
        checkpoints.restore(accelerator, folder, other, {})
    network, states = made()
    with pytest.raises(UserError, match=r"scaler.safetensors does not fit this run"):
        checkpoints.restore(accelerator, folder, network, {**states, "scaler": states["average"]})


def test_an_earlier_versions_checkpoint_says_so(saved):
    accelerator, folder = saved
    (folder / "position.json").write_text(json.dumps({"steps_per_epoch": 5, "step": 3, "interpolation_epoch": None}))
    with pytest.raises(UserError, match="earlier version"):
        checkpoints.restore(accelerator, folder, *made())


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", FILES)
def test_nothing_in_a_checkpoint_is_executed(name, saved, tmp_path):
    """By one who also knows how to make the digests right."""
    accelerator, folder = saved
    marker = tmp_path / "executed"
    for payload in (pickle.dumps(Exploit(marker)), None):
        if payload is None:
            torch.save(Exploit(marker), folder / name)
        else:
            (folder / name).write_bytes(payload)
        files = {path.name: checkpoints._described(path) for path in folder.iterdir() if path.name != "position.json"}
        checkpoints._write_position(folder, Position(steps_per_epoch=5, step=4), files)
        with pytest.raises(UserError, match=name):
            checkpoints.restore(accelerator, folder, *made())
    assert not marker.exists()


# numba's machine code, which is executed in any case, in the user's own cache.
EXECUTED = {
    ROOT / "pipelines/backends/kernel_cache.py",
    ROOT / "pipelines/sources/cifar100.py",  # of the checksum that torchvision knows, and has just unpickled itself
}


def dangers(tree: ast.AST) -> list[str]:
    """Calls and imports that execute what they read."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [n for n in names if n.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "shelve")]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            loader = ast.unparse(node.args[1]) if len(node.args) > 1 else given.get("Loader", "")
            if name == "torch.load" and given.get("weights_only") != "True":
                found.append(name)
            if name.endswith("np.load") and given.get("allow_pickle", "False") != "False":
                found.append(name)
            if name in ("yaml.load", "yaml.load_all") and not loader.endswith(("SafeLoader", "BaseLoader")):
                found.append(name)
            if name in ("eval", "exec", "joblib.load", "pd.read_pickle", "yaml.unsafe_load", "yaml.full_load"):
                found.append(name)
    return found


def test_no_code_reads_what_could_execute():
    for text in ("import pickle", "torch.load(x)", "np.load(x, allow_pickle=True)", "yaml.load(x)", "eval(x)"):
        assert dangers(ast.parse(text)), text
    for text in ("torch.load(x, weights_only=True)", "np.load(x)", "yaml.load(x, yaml.BaseLoader)"):
        assert not dangers(ast.parse(text)), text
    for package in ("fastgen", "pipelines", "benchmarks"):
        for path in sorted({*(ROOT / package).rglob("*.py")} - EXECUTED):
            assert not dangers(ast.parse(path.read_text())), path
