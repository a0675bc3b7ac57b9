"""The paper's five networks: exact counts, other sizes, timm's interface."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

import fastgen  # noqa: F401 (registers them)
from fastgen.models import NETWORKS
from fastgen.models.alexnet import LocalResponseNorm
from fastgen.models.tensorflow import SameConv2d, SameMaxPool2d, same_padding, without_scale
from fastgen.recipe.load import load
from fastgen.training.network import make_network
from pipelines.errors import UserError

COUNTS = {  # table 1 of the paper
    "fastgen_inception": 1_649_402,
    "fastgen_inception_nobn": 1_649_402,
    "fastgen_alexnet": 1_387_786,
    "fastgen_mlp_3x512": 1_735_178,
    "fastgen_mlp_1x512": 1_209_866,
}
NAMES = tuple(COUNTS)


def test_all_five_are_registered_and_inception_v3():
    assert set(timm.list_models("fastgen_*")) == {*NAMES, "fastgen_inception_v3"}


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts_are_the_papers(name):
    assert sum(p.numel() for p in timm.create_model(name).parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size, channels, classes", [(28, 3, 10), (8, 1, 7), (33, 3, 1000)])
def test_other_sizes_channels_and_classes(name, size, channels, classes):
    network = timm.create_model(name, img_size=size, in_chans=channels, num_classes=classes)
    images = torch.randn(2, channels, size, size)
    logits = network(images)
    assert logits.shape == (2, classes)
    # The memory format is no part of the function.
    network.eval()
    last = network.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, network(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_timms_interface(name):
    network = timm.create_model(name, drop_rate=0.5)
    images = torch.randn(2, 3, 28, 28)
    features = network.forward_head(network.forward_features(images), pre_logits=True)
    assert features.shape == (2, network.num_features)
    network.reset_classifier(3)
    assert network(images).shape == (2, 3) and network.get_classifier().out_features == 3
    network.reset_classifier(0, global_pool="avg")
    assert network(images).shape == (2, network.num_features)
    with pytest.raises(UserError, match="global_pool"):
        network.reset_classifier(3, "max")
    network.reset_classifier(3)
    assert network.pretrained_cfg["input_size"] == (3, 28, 28)
    network.train()
    assert not torch.equal(network(images), network(images))  # dropout
    network.eval()
    assert torch.equal(network(images), network(images))
    with pytest.raises(UserError, match="no pretrained weights"):
        timm.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_gradient_descent_lowers_the_loss(name):
    torch.manual_seed(0)
    network = timm.create_model(name)
    images, labels = torch.randn(32, 3, 28, 28), torch.randint(0, 10, (32,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(10):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["fastgen_inception", "fastgen_alexnet"])
def test_too_small_images_are_refused(name):
    with pytest.raises(UserError, match="at least 4x4"):
        timm.create_model(name, img_size=3)


def test_a_network_is_one_file_and_its_registry_line(tmp_path, monkeypatch):
    code = "from fastgen.models.mlp import MLP\n\n\ndef mlp_2x512(**arguments):\n    return MLP(depth=2, **arguments)\n"
    (tmp_path / "deeper.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="mlp_2x512"):
        load("quickstart", ["model.name=mlp_2x512"])
    monkeypatch.setitem(NETWORKS, "mlp_2x512", "deeper")  # for this test alone
    network = make_network(load("quickstart", ["model.name=mlp_2x512"]), 10, 3, 16, torch.device("cpu"))
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.options.num_classes=5"], "model.options.num_classes follows from the data"),
        (["model.options.in_chans=1"], "model.options.in_chans follows from the data"),
        (["model.name=vit_tiny_patch16_224"], "cannot be made for 3 x 8 x 8 images"),
        (["model.name=resnet18", "model.options.features_only=true"], "it gives no logits"),
        (["model.name=resnet18", "model.options.checkpoint_path=/dev/null"], "cannot be made"),
        (["model.options.surprise=1"], "unexpected keyword argument 'surprise'"),
    ],
)
def test_what_cannot_be_trained_is_said_before(settings, words):
    with pytest.raises(UserError, match=words):
        make_network(load("quickstart", settings), 10, 3, 8, torch.device("cpu"))


def windows(image, size, stride, fill):
    """Of (H, W): (rows, columns, size, size) as TensorFlow's SAME lays them, from its documentation's formula."""
    padded, starts = image, []
    for axis, side in enumerate(image.shape):
        out = int(np.ceil(side / stride))
        total = max((out - 1) * stride + size - side, 0)
        around = [(0, 0), (0, 0)]
        around[axis] = (total // 2, total - total // 2)
        padded = np.pad(padded, around, constant_values=fill)
        starts.append(range(0, out * stride, stride))
    return np.array([[padded[y : y + size, x : x + size] for x in starts[1]] for y in starts[0]])


@pytest.mark.parametrize("sides", [(28, 28), (14, 14), (7, 7), (33, 8), (5, 6), (3, 4)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_lie_where_tensorflows_do(sides, stride):
    image = np.random.default_rng(0).normal(size=sides).astype(np.float32)
    convolution = SameConv2d(1, 1, 3, stride=stride, bias=False)
    expected = windows(image, 3, stride, 0.0)
    kernel = convolution.weight.detach().numpy()[0, 0]
    tensor = torch.from_numpy(image)[None, None]
    assert np.allclose(convolution(tensor).detach().numpy()[0, 0], (expected * kernel).sum((2, 3)), atol=1e-5)
    pooled = SameMaxPool2d(3, stride)(tensor).numpy()[0, 0]
    assert np.array_equal(pooled, windows(image, 3, stride, -np.inf).max((2, 3)))
    for memory in (torch.contiguous_format, torch.channels_last):
        batch = torch.randn(2, 8, *sides).contiguous(memory_format=memory)
        assert torch.equal(SameMaxPool2d(3, stride)(batch)[1, 5], SameMaxPool2d(3, stride)(batch[1:, 5:6])[0, 0])


def test_padding_same_by_hand():
    """28 -> 14 -> 7 -> 4 with windows of 3 and stride 2: behind alone where the side is even."""
    assert [same_padding(side, 3, 2) for side in (28, 14, 7)] == [(0, 1), (0, 1), (1, 1)]
    assert same_padding(28, 5, 1) == (2, 2) and same_padding(28, 1, 2) == (0, 0)


def test_every_shift_of_the_inception_is_alive():
    """A convolution's bias before batch norm does nothing, and its gradient is zero; batch norm's own shift learns."""
    torch.manual_seed(0)
    network = timm.create_model("fastgen_inception")
    F.cross_entropy(network(torch.randn(16, 3, 28, 28)), torch.arange(16) % 10).backward()
    shifts = {name: p for name, p in network.named_parameters() if name.endswith("bias")}
    assert sum(p.numel() for p in shifts.values()) == 1712 + 10
    largest = {name: p.grad.abs().max().item() for name, p in network.named_parameters()}
    assert min(largest.values()) > 1e-6, min(largest, key=largest.get)
    assert not any("1.weight" in name for name in network.state_dict())  # no scale, not even a fixed one


def test_batch_norm_with_a_shift_alone():
    norm = without_scale(torch.nn.BatchNorm2d(3, eps=0.001, momentum=3e-4))
    assert [name for name, _ in norm.named_parameters()] == ["bias"]
    norm.bias.data = torch.tensor([1.0, -2.0, 0.5])
    x = torch.randn(8, 3, 4, 4) * 3 + 1
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    expected = (x - mean[:, None, None]) / (variance[:, None, None] + 0.001).sqrt() + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)
    assert norm.state_dict().keys() == {"bias", "running_mean", "running_var", "num_batches_tracked"}


def test_inception_pools_seven_by_seven():
    network = timm.create_model("fastgen_inception")
    assert network.body(torch.randn(2, 3, 28, 28)).shape == (2, 336, 7, 7)


def test_without_batch_norm_the_signal_survives():
    """What tells images apart reaches the classifier: with PyTorch's default initialisation it fades on the way."""
    torch.manual_seed(0)
    network = timm.create_model("fastgen_inception_nobn")
    images = torch.randn(8, 3, 28, 28)

    def differences() -> float:
        features = network.forward_features(images)
        return (features.std(0).mean() / features.mean()).item()

    assert differences() > 0.03
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.reset_parameters()
    assert differences() < 0.003


def test_local_response_norm_agrees_with_torch():
    x = torch.randn(4, 64, 7, 7, dtype=torch.float64, requires_grad=True)
    ours = LocalResponseNorm(64).double()(10 * x)
    theirs = F.local_response_norm(10 * x, 9, alpha=0.001, beta=0.75, k=1.0)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    (grad_ours,) = torch.autograd.grad(ours.square().sum(), x)
    (grad_theirs,) = torch.autograd.grad(theirs.square().sum(), x)
    torch.testing.assert_close(grad_ours, grad_theirs, atol=1e-5, rtol=1e-5)
