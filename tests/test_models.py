"""The paper's five networks: exact counts, other sizes, timm's interface."""

import pytest
import timm
import torch
import torch.nn.functional as F

import fastgen  # noqa: F401 (registers them)
from fastgen.models import NETWORKS
from fastgen.models.alexnet import LocalResponseNorm
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
