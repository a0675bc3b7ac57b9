"""What the GPU computes is what the CPU computes; and steps as CUDA graphs are the steps that they replace."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from test_augment import ALL, INDEX, UINT8
from whole_runs import SMALL, fresh_accelerate, lines, weights  # noqa: F401

from fastgen import models
from fastgen.models.mlp import MLP
from fastgen.recipe.load import load
from fastgen.theory.kernels import KernelSpec, kernel_machine
from fastgen.training import capture
from fastgen.training.gaps import Gaps
from fastgen.training.loop import train
from pipelines.errors import Note, UserError
from pipelines.view.augment import Preprocess
from pipelines.view.preparation import NORMALIZATIONS, NormalizeSpec

LOSS = "train_running_loss_nats"
PLAIN = ["model.dropout=0", "train.precision=fp32", "train.compile=false", "train.evaluate_epochs=2"]
OPTIMIZERS = {
    "sgd": ["optim.nesterov=true"],
    "adamw": ["optim.name=adamw", "optim.lr=0.001", "optim.weight_decay=0.1"],
    "clipped, averaged": ["optim.clip=0.5", "optim.weight_decay=0.01", "train.ema=0.9", "train.dynamics=true"],
    "rmsprop": ["optim.name=rmsprop", "optim.lr=0.01"],
    "in two parts": ["train.accumulate=2"],
}


def run(folder, *settings):
    """The losses by step, and the last weights, of a small run."""
    with_defaults = [*SMALL, *PLAIN, f"run.dir={folder}", *settings]
    summary = train(load("quickstart", with_defaults))
    return summary, lines(folder, LOSS), weights(folder)


def assert_same(found, expected, rtol):
    summary, losses, last = found
    assert losses == pytest.approx(expected[1], rel=rtol)
    assert summary.train_loss == pytest.approx(expected[0].train_loss, rel=rtol)
    assert summary.test_top1 == pytest.approx(expected[0].test_top1, abs=4)
    for name, value in expected[2].items():
        torch.testing.assert_close(last[name], value, rtol=rtol, atol=rtol)


@dataclass
class Device:
    type: str = "cuda"


def wants(settings, device="cuda", processes=1, scaler=None):
    accelerator = SimpleNamespace(device=Device(device), num_processes=processes, scaler=scaler, is_main_process=True)
    return capture.wants_capture(load("quickstart", list(settings)), accelerator)


GROWING = ["data.view.fraction=0.875", "data.image_size=64", "data.progressive.start_size=32"]
GROWING += ["data.progressive.end_epoch=3"]


@pytest.mark.parametrize(
    "settings, where, missing",
    [
        ([], {"device": "cpu"}, "a GPU"),
        ([], {"processes": 2}, "one process"),
        ([], {"scaler": object()}, "precision"),
        (["train.accumulate=2"], {}, "accumulate"),
        (["optim.name=rmsprop"], {}, "sgd or adamw"),
        (GROWING, {}, "images of one size"),
        (["train.mixup=1.0"], {}, "no train.mixup or train.cutmix"),
        (["train.cutmix=1.0"], {}, "no train.mixup or train.cutmix"),
        (["data.augment.rand_ops=2"], {}, "data.augment.rand_ops=0"),
    ],
)
def test_cuda_graphs_are_used_where_they_can_be(settings, where, missing):
    assert wants([]) and wants(["train.cuda_graphs=on", "optim.name=adamw"]) and not wants(["train.cuda_graphs=off"])
    silent = "device" in where  # nobody expects CUDA graphs without a GPU
    with nullcontext() if silent else pytest.warns(Note, match=f"steps are no CUDA graphs, which need .*{missing}"):
        assert not wants(settings, **where)
    with pytest.raises(UserError, match=f"cuda_graphs=on needs .*{missing}"):
        wants([*settings, "train.cuda_graphs=on"], **where)
    with pytest.raises(UserError, match="did you mean 'auto'"):
        load("quickstart", ["train.cuda_graphs=aut"])


@pytest.mark.gpu
@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_is_the_same_as_on_the_cpu(settings, tmp_path, monkeypatch):
    found = run(tmp_path / "gpu", *settings)
    assert found[0].device == "cuda"
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        AcceleratorState._reset_state(True)
        expected = run(tmp_path / "cpu", *settings)
    assert expected[0].device == "cpu"
    assert_same(found, expected, rtol=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [OPTIMIZERS[name] for name in ("sgd", "adamw", "clipped, averaged")])
@pytest.mark.parametrize("compiled", ["true", "false"])
def test_cuda_graphs_compute_the_same(settings, compiled, tmp_path):
    settings = [*settings, f"train.compile={compiled}"]
    with_graphs = run(tmp_path / "on", "train.cuda_graphs=on", *settings)
    AcceleratorState._reset_state(True)
    assert_same(with_graphs, run(tmp_path / "off", "train.cuda_graphs=off", *settings), rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graphs", ["on", "off"])
def test_a_resumed_run_is_its_twin(cuda_graphs, tmp_path):
    """With dropout, whose random numbers are the GPU's, and stopped in the middle of an epoch."""
    settings = ["model.dropout=0.3", f"train.cuda_graphs={cuda_graphs}", "schedule.kind=constant"]
    whole = run(tmp_path / "whole", *settings)
    AcceleratorState._reset_state(True)
    run(tmp_path / "parts", *settings, "train.max_steps=8")
    AcceleratorState._reset_state(True)
    resumed = run(tmp_path / "parts", *settings, "run.resume=true")
    assert_same(resumed, whole, rtol=1e-4)


@pytest.mark.gpu
def test_a_network_that_waits_for_the_gpu(tmp_path, monkeypatch):
    forward = MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda self, x: forward(self, x * (1 + 0 * x.sum().item())))
    with pytest.raises(UserError, match="whole_step cannot be recorded .*: set train.cuda_graphs=off"):
        run(tmp_path / "on", "train.cuda_graphs=on", "model.dropout=0.3")
    AcceleratorState._reset_state(True)
    with pytest.warns(Note, match="whole_step cannot be recorded"):
        found = run(tmp_path / "auto", "model.dropout=0.3")
    AcceleratorState._reset_state(True)
    assert_same(found, run(tmp_path / "off", "train.cuda_graphs=off", "model.dropout=0.3"), rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", ["true", "false"])
def test_every_precision_learns(precision, compiled, tmp_path):
    settings = ["model.dropout=0", f"train.precision={precision}", f"train.compile={compiled}", "train.epochs=20"]
    settings += ["data.labels.kind=true"]
    summary = train(load("quickstart", [*settings, f"run.dir={tmp_path}", "train.evaluate_epochs=20"]))
    assert summary.train_top1 > 90 and math.isfinite(summary.test_loss)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("order", [0, None])
def test_preparation_compiled_for_the_gpu_is_that_of_the_cpu(kind, order):
    spec, normalize = replace(ALL, color_order=order), NormalizeSpec(kind)
    expected = Preprocess(28, spec, normalize, 3, True)(UINT8.clone(), INDEX, 5)
    on_gpu = Preprocess(28, spec, normalize, 3, True, torch.device("cuda"))
    epoch = torch.tensor(5, device="cuda")
    for prepare in (on_gpu, torch.compile(on_gpu, dynamic=False)):
        found = prepare(UINT8.cuda(), INDEX.cuda(), epoch)
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.cpu(), expected, atol=2e-2, rtol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fastgen_inception", "fastgen_alexnet", "fastgen_inception_nobn"])
def test_networks_are_those_of_the_cpu(name):
    network, images = models.make(name).eval(), torch.randn(8, 3, 28, 28)
    expected = network(images)
    moved = network.to("cuda", memory_format=torch.channels_last)
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = moved(images.to("cuda", memory_format=torch.channels_last))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("solver", ["exact", "iterative"])
def test_kernel_machines_are_those_of_the_cpu(solver):
    generator = torch.Generator().manual_seed(0)
    points, labels = torch.randn(700, 12, generator=generator), torch.randint(0, 3, (700,), generator=generator)
    train_on, test_on = slice(0, 500), slice(500, 700)
    spec, found = KernelSpec(gamma=0.05, ridge=1e-3, panel=128, solver=solver), {}
    for device in ("cpu", "cuda"):
        x, y = points.to(device), labels.to(device)
        found[device] = kernel_machine(x[train_on], y[train_on], x[test_on], y[test_on], 3, spec)
    assert found["cuda"].mistakes == found["cpu"].mistakes
    assert found["cuda"].norm == pytest.approx(found["cpu"].norm, rel=1e-6)
    assert found["cuda"].residual < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("late", [False, True])
def test_the_gpu_stands_still_where_a_batch_comes_late(late):
    """Steps of some 20 ms of the GPU's time, launched at once; batches that come at once, or after 50 ms."""
    gaps = Gaps()
    for _ in range(6):
        if late:
            torch.cuda.synchronize()
            time.sleep(0.05)
        gaps.begin()
        torch.cuda._sleep(30_000_000)
        gaps.end()
    torch.cuda.synchronize()
    assert 0.2 < gaps.seconds < 0.5 if late else gaps.seconds < 0.02
