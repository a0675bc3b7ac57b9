"""The parts that ImageNet's recipes use, against their formulas: average, optimizer, loss, sizes, staging."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from whole_runs import fresh_accelerate  # noqa: F401

from fastgen import models
from fastgen.optim.optimizers import OptimSpec, add_clipped_decay, make_optimizer
from fastgen.recipe.schema import ProgressiveSpec, TrainSpec
from fastgen.runs.summary import Evaluation
from fastgen.training import launch
from fastgen.training.averaging import WeightAverage
from fastgen.training.meter import Meter
from fastgen.training.objective import logits_of, training_loss
from fastgen.training.optimization import Learner
from fastgen.training.position import Position
from pipelines.backends import Batch
from pipelines.baked import staging
from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.manifest import STAMP, BakedSet
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec, SyntheticSpec


def test_the_average_is_tensorflows():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    average = WeightAverage(network, 0.5)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for n in range(1, 12):
        with torch.no_grad():
            for value in network.state_dict().values():
                value.add_(1) if value.dtype == torch.int64 else value.normal_()
        average.update(network)
        decay = min(0.5, (1 + n) / (10 + n))
        for name, value in network.state_dict().items():
            whole = value.dtype == torch.int64  # BatchNorm's count of batches
            expected[name] = value.clone() if whole else decay * expected[name] + (1 - decay) * value
    for name, value in average.network.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6)
    other = WeightAverage(network, 0.5)
    other.load_state_dict(average.state_dict())
    for one in (average, other):
        one.update(network)
    assert all(
        torch.equal(a, b)
        for a, b in zip(average.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    )
    assert not any(p.requires_grad for p in average.network.parameters())


@pytest.mark.parametrize("classes", [3, 30_000])  # added up after 64 micro-batches, or after a few
def test_running_loss_and_accuracy_are_those_of_all_samples(classes):
    generator = torch.Generator().manual_seed(0)
    meter, losses, hits = Meter(Accelerator(cpu=True), []), [], []
    for number in range(70):
        size = 5 if number == 69 else 8
        labels = torch.randint(3, (size,), generator=generator)
        logits = torch.randn(size, classes, generator=generator) + 9 * F.one_hot(labels, classes) * (number % 2)
        each = F.cross_entropy(logits, labels, reduction="none")
        meter.batch(Batch(images=labels, label=labels, clean_label=labels, index=labels), logits, each.mean())
        losses += each.tolist()
        hits += (logits.argmax(1) == labels).tolist()
        if number == 66:
            line = meter.take_line()
            assert line == pytest.approx((np.mean(losses), 100 * np.mean(hits)), rel=1e-5)
    rest = 3 * 8 - 3
    assert meter.take_line() == pytest.approx((np.mean(losses[-rest:]), 100 * np.mean(hits[-rest:])), rel=1e-5)
    assert 40 < 100 * np.mean(hits) < 100
    assert meter.take_epoch() == pytest.approx(100 * np.mean(hits))


def test_rmsprop_is_tensorflows():
    """ms = d ms + (1 - d) g^2 from 1; mom = m mom + lr g / sqrt(ms + eps); w -= mom."""
    spec = OptimSpec(name="rmsprop", lr=0.1, momentum=0.9, decay=0.9, eps=1.0, weight_decay=0.01, decay_on="weights")
    network = torch.nn.Linear(3, 2)
    optimizer = make_optimizer(network, spec)
    rng = np.random.default_rng(0)
    for name, parameter in network.named_parameters():
        values, square, step = parameter.detach().numpy().copy(), np.ones(parameter.shape), np.zeros(parameter.shape)
        gradients = rng.normal(size=(5, *parameter.shape))
        for gradient in gradients:
            network.zero_grad()
            parameter.grad = torch.tensor(gradient, dtype=torch.float32)
            optimizer.step()
            gradient = gradient + (0.01 * values if name == "weight" else 0)  # weight decay spares the bias
            square = 0.9 * square + 0.1 * gradient**2
            step = 0.9 * step + 0.1 * gradient / np.sqrt(square + 1.0)
            values = values - step
        assert np.allclose(parameter.detach().numpy(), values, atol=1e-5)


@pytest.mark.parametrize(("decay_on", "shrunk"), [
    ("all", {"convolutions.0", "convolutions.4", "fc1", "fc2", "classifier"}),
    ("weights", {"convolutions.0", "convolutions.4", "fc1", "fc2", "classifier"}),
    ("hidden", {"fc1", "fc2"}),
])  # fmt: skip
def test_weight_decay_shrinks_what_it_says(decay_on, shrunk):
    """Where the loss has no gradient, a step of SGD multiplies what is decayed by 1 - rate * decay."""
    torch.manual_seed(0)
    network = models.make("fastgen_alexnet")
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = make_optimizer(network, OptimSpec(lr=0.5, momentum=0.0, weight_decay=0.1, decay_on=decay_on))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        layer, kind = name.rsplit(".", 1)
        decayed = layer in shrunk and (kind == "weight" or decay_on == "all")
        torch.testing.assert_close(parameter, before[name] * (0.95 if decayed else 1.0))
    with pytest.raises(UserError, match=r"unknown optim.decay_on 'weight'.*weights"):
        OptimSpec(decay_on="weight").validate()


def test_weight_decay_that_would_shrink_nothing_is_refused():
    with pytest.raises(UserError, match="decay_on=hidden"):
        make_optimizer(models.make("fastgen_inception"), OptimSpec(weight_decay=0.1, decay_on="hidden"))
    make_optimizer(models.make("fastgen_inception"), OptimSpec(decay_on="hidden"))  # nothing to shrink by
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2), torch.nn.Linear(3, 2))
    network.get_classifier = lambda: (network[1], network[2])  # as timm's distilled networks
    groups = make_optimizer(network, OptimSpec(weight_decay=0.1, decay_on="hidden")).param_groups
    assert [[p is network[0].weight for p in group["params"]] for group in groups if group["weight_decay"]] == [[True]]


def test_accuracies_are_crossed_where_they_are_reached():
    position = Position(steps_per_epoch=10)
    for step, top1 in ((10, 98.0), (20, 99.5), (30, 99.99996), (40, 100.0)):
        position.step = step
        position.record(Evaluation(train_top1=top1), fitted_at=99.99996)
    assert [position.crossed(level) for level in (98.0, 99, 99.9, 99.99996, 100)] == [None, 2, 3, 3, 4]


def clipped_step(spec, accelerator, decayed=(3.0, 4.0), gradient=(2.7, 3.6)):
    """The two weights and the bias of a linear layer after a step with these gradients (of the bias: 0)."""
    network = torch.nn.Linear(2, 1)
    with torch.no_grad():
        network.weight[:], network.bias[:] = torch.tensor(decayed), 7.0
    network.weight.grad, network.bias.grad = torch.tensor([gradient]), torch.zeros(1)
    learner = Learner(accelerator, network, spec, TrainSpec(), captured=False)
    learner.step()
    return [*network.weight[0].tolist(), network.bias.item()], learner.optimizer


def test_coupled_weight_decay_is_a_part_of_what_is_clipped():
    """(2.7, 3.6) + 0.1 (3, 4) = (3, 4), of norm 5: clipped to 2.5, it is (1.5, 2); clipped before decay, (1.8, 2.4)."""
    accelerator, common = Accelerator(cpu=True), {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.1, "clip": 2.5}
    found, _ = clipped_step(OptimSpec("sgd", decay_on="weights", **common), accelerator)
    assert found == pytest.approx([3 - 0.15, 4 - 0.2, 7], rel=1e-5)
    # 0.1 * 7 is the bias's gradient, so the norm is sqrt(25.49).
    found, _ = clipped_step(OptimSpec("sgd", decay_on="all", **common), accelerator)
    scale = 2.5 / 25.49**0.5
    assert found == pytest.approx([3 - 0.3 * scale, 4 - 0.4 * scale, 7 - 0.07 * scale], rel=1e-5)
    # lr g / sqrt(0.9 + 0.1 g^2 + 1)
    found, _ = clipped_step(OptimSpec("rmsprop", decay_on="weights", **common), accelerator)
    assert found == pytest.approx([3 - 0.15 / 2.125**0.5, 4 - 0.2 / 2.3**0.5, 7], rel=1e-5)
    # Short gradients are not clipped: decay as without.
    found, _ = clipped_step(OptimSpec("sgd", decay_on="weights", **{**common, "clip": 5.1}), accelerator)
    assert found == pytest.approx([3 - 0.3, 4 - 0.4, 7], rel=1e-5)
    # adamw's decay is no gradient: 1 - lr * decay, and a first step of lr in each direction.
    found, _ = clipped_step(OptimSpec("adamw", decay_on="weights", **common), accelerator)
    assert found == pytest.approx([3 * 0.99 - 0.1, 4 * 0.99 - 0.1, 7], rel=1e-5)


def test_a_checkpoint_knows_where_its_weight_decay_goes():
    """Of a run that clipped before decay, as fastgen did: its state has weight_decay, and decays once, where it did."""
    accelerator = Accelerator(cpu=True)
    spec = OptimSpec("sgd", lr=0.1, momentum=0.0, weight_decay=0.1, clip=2.5, decay_on="weights")
    _, optimizer = clipped_step(spec, accelerator)
    state = optimizer.state_dict()
    assert [group["clipped_weight_decay"] for group in state["param_groups"]] == [0.0, 0.1]
    assert [group["weight_decay"] for group in state["param_groups"]] == [0.0, 0.0]
    for group in state["param_groups"]:
        group["weight_decay"] = group.pop("clipped_weight_decay")
    network = torch.nn.Linear(2, 1)
    earlier = make_optimizer(network, spec)
    earlier.load_state_dict(state)
    network.weight.grad = torch.tensor([[1.0, 1.0]])
    add_clipped_decay(earlier)
    assert network.weight.grad.tolist() == [[1, 1]] and earlier.param_groups[1]["weight_decay"] == 0.1


def test_the_auxiliary_loss_is_added_with_its_weight():
    torch.manual_seed(0)
    main, side, labels = torch.randn(6, 5), torch.randn(6, 5), torch.arange(6) % 5
    spec = TrainSpec(label_smoothing=0.1, aux_weight=0.4)
    one, two = (F.cross_entropy(x, labels, label_smoothing=0.1) for x in (main, side))
    assert torch.allclose(training_loss((main, side), labels, spec), one + 0.4 * two)
    assert torch.allclose(training_loss(main, labels, spec), one)
    assert logits_of((main, side)) is main and logits_of(main) is main


def test_without_a_weight_the_auxiliary_head_has_gradients_of_zero():
    """Several processes wait for a gradient of each parameter, of a head that does not count as well."""
    main, side = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    training_loss((main, side), torch.arange(6) % 5, TrainSpec()).backward()
    assert main.grad is not None and main.grad.any() and side.grad is not None and not side.grad.any()


@pytest.mark.parametrize(
    "cores, share",
    [
        ([("here", {0, 1, 2, 3})], 4),
        ([("here", {0, 1, 2, 3}), ("here", {0, 1, 2, 3}), ("there", {0, 1, 2, 3})], 2),
        ([("here", {0, 1, 2, 3}), ("here", {4, 5, 6, 7})], 4),  # each bound to its own
        ([("here", {0, 1, 2}), ("here", {0, 1, 2}), ("here", {0, 1, 2}), ("here", {3, 4, 5})], 1),
        ([("here", {0}), ("here", {0})], 1),
    ],
)
def test_a_process_has_its_share_of_the_cores_that_it_may_use(cores, share, monkeypatch):
    monkeypatch.setattr(launch.platform, "node", lambda: "here")
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda process: cores[0][1])
    monkeypatch.setattr(launch, "gather_object", lambda mine: cores)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert launch.share_of_cores(SimpleNamespace(num_processes=len(cores))) == share
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")  # of a node's launcher, for all that it starts
    processes = sum(where == "here" for where, _ in cores)
    assert launch.share_of_cores(SimpleNamespace(num_processes=len(cores))) == max(1, min(share, 2 // processes))


@pytest.mark.parametrize(
    "wanted, gpu, environment, threads",
    [
        (None, False, {}, 6),
        (3, False, {"OMP_NUM_THREADS": "2"}, 3),
        (3, True, {}, 3),
        (None, True, {}, None),
        (None, False, {"OMP_NUM_THREADS": "1"}, None),
        (None, False, {"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, 6),  # accelerate's own
        (None, False, {"OMP_NUM_THREADS": "2", "ACCELERATE_MIXED_PRECISION": "no"}, None),
    ],
)
def test_threads_that_the_user_has_set_are_respected(wanted, gpu, environment, threads, monkeypatch):
    for name in ("OMP_NUM_THREADS", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.compute_threads(wanted, 6, gpu) == threads


def test_sizes_grow_linearly_in_steps_of_32():
    spec = ProgressiveSpec(start_size=160, start_epoch=16, end_epoch=30)
    sizes = [spec.size(epoch, 299) for epoch in range(40)]
    assert sizes[:17] == [160] * 17 and sizes[30:] == [299] * 10
    assert sizes == sorted(sizes) and set(sizes) <= set(spec.sizes(299))
    assert spec.sizes(299) == [160, 192, 224, 256, 288, 299]
    assert ProgressiveSpec().size(0, 224) == 224 and ProgressiveSpec().sizes(224) == [224]
    assert ProgressiveSpec(start_size=8, end_epoch=10**12).sizes(96) == [32, 64, 96]


@pytest.fixture
def baked(tmp_path):
    source = SourceSpec("synthetic", synthetic=SyntheticSpec(40, 10, 8))
    return bake(source, LabelSpec(), PixelSpec(), BakeSpec(), tmp_path / "cache")


def test_a_set_is_staged_once_and_again_when_it_has_changed(baked, tmp_path):
    local = tmp_path / "local"
    hashed = []
    check = lambda path: hashed.append(BakedSet.open(path).path)  # noqa: E731
    threads = [threading.Thread(target=staging.staged, args=(baked.path, local, check)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    copy = staging.staged(baked.path, local)
    assert hashed == [copy] and (copy / STAMP).is_file()  # which says that opening it need not hash it again
    assert BakedSet.open(copy, full=True).sha256 == baked.sha256
    made = (copy / "train.beton").stat().st_mtime_ns
    assert (staging.staged(baked.path, local) / "train.beton").stat().st_mtime_ns == made
    source = SourceSpec("synthetic", synthetic=SyntheticSpec(40, 10, 8))
    extended = bake(source, LabelSpec("random"), PixelSpec(), BakeSpec(), tmp_path / "cache")
    assert BakedSet.open(staging.staged(extended.path, local)).sha256 == extended.sha256 != baked.sha256


def test_a_full_local_disk_is_named(baked, tmp_path, monkeypatch):
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="has 0.0 GB free and the copy of .*data.stage"):
        staging.staged(baked.path, tmp_path / "local")
