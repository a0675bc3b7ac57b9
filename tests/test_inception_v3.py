"""fastgen_inception_v3 against timm's network and against what TensorFlow's slim says of it."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.inception_v3 import InceptionV3

import fastgen  # noqa: F401 (registers it)
from fastgen.models.inception_v3 import ShiftBatchNormAct2d, SlimInceptionV3
from fastgen.optim.optimizers import make_optimizer
from fastgen.recipe.load import load
from fastgen.training.averaging import WeightAverage
from fastgen.training.network import make_network
from pipelines.errors import UserError


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model("fastgen_inception_v3", aux_logits=True)


@pytest.fixture(scope="module")
def of_timm():
    return InceptionV3(aux_logits=True)


def test_its_parameters_are_timms_less_the_scales(network, of_timm):
    timms, slims = of_timm, network
    norms = {name for name, module in timms.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    scales = {f"{name}.weight" for name in norms}
    shapes = {name: value.shape for name, value in timms.named_parameters() if name not in scales}
    assert {name: value.shape for name, value in slims.named_parameters()} == shapes and len(norms) == 96
    assert sum(p.numel() for p in slims.parameters()) == 27_143_152
    # The count of trainable parameters of Keras' InceptionV3, which is slim's network without the auxiliary head.
    assert sum(p.numel() for p in SlimInceptionV3().parameters()) == 23_817_352
    assert not scales & slims.state_dict().keys() and slims.pretrained_cfg["input_size"] == (3, 299, 299)


def test_its_batch_norm_is_slims(network):
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 96 and all(isinstance(norm, ShiftBatchNormAct2d) for norm in norms)
    for norm in norms:
        assert norm.momentum == pytest.approx(3e-4) and norm.eps == 1e-3
        assert (norm.weight == 1).all() and not norm.weight.requires_grad and (norm.bias == 0).all()
    norm = copy.deepcopy(norms[0]).train()
    x = torch.randn(8, 32, 5, 5) * 3 + 2
    with torch.no_grad():
        norm.bias.fill_(0.25)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    expected = F.relu((x - mean[:, None, None]) / (variance[:, None, None] + 1e-3).sqrt() + 0.25)
    torch.testing.assert_close(norm(x.clone()), expected, atol=1e-5, rtol=1e-5)
    # moving = 0.9997 moving + 0.0003 mean, from 0
    torch.testing.assert_close(norm.running_mean, 3e-4 * mean, atol=1e-8, rtol=1e-4)


def test_its_weights_are_cut_off_at_two_standard_deviations(network):
    stddevs = {"AuxLogits.conv1.conv.weight": 0.01, "AuxLogits.fc.weight": 0.001}
    seen = 0
    for name, values in network.named_parameters():
        if values.dim() == 1:
            assert (values == 0).all(), name
            continue
        stddev = stddevs.get(name, 0.1)
        assert values.abs().max() <= 2 * stddev, name
        if values.numel() > 10_000:  # cutting off leaves 0.8796 of the standard deviation
            assert values.std().item() == pytest.approx(0.8796 * stddev, rel=0.03), name
        seen += 1
    assert seen == 98


def test_a_forward_pass_is_timms_but_for_the_pools(network, of_timm):
    """With the same weights and statistics, and pools that count as timm's do, all logits are the same."""
    images = torch.randn(2, 3, 299, 299)
    ours = copy.deepcopy(network).eval()
    timms = copy.deepcopy(of_timm).eval()
    assert set(timms.load_state_dict(ours.state_dict(), strict=False).missing_keys) == {
        name for name, _ in timms.named_parameters() if name.endswith(".bn.weight")
    }
    with torch.no_grad():
        main, side = ours(images)
        assert main.shape == side.shape == (2, 1000) and main.isfinite().all()
        assert not torch.allclose(main, timms(images)[0], rtol=1e-3)
        for module in ours.modules():
            module._forward_pre_hooks.clear()
        for mine, theirs in zip(ours(images), timms(images), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_average_pools_leave_padding_out(network, dtype):
    """As TensorFlow's avg_pool with padding SAME."""
    block, given = copy.deepcopy(network.Mixed_5b).to(dtype), []
    block.branch_pool.conv.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    x = torch.randn(2, 192, 7, 6).to(dtype)
    block(x)
    expected = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    assert given[0].dtype == dtype
    torch.testing.assert_close(given[0], expected)
    pools = [module for name, module in network.named_modules() if name.endswith("branch_pool")]
    assert len(pools) == 9 and all(len(pool._forward_pre_hooks) == 1 for pool in pools)


def test_it_trains_as_the_recipe_says():
    recipe = load("imagenet_inception_true")
    network = make_network(recipe, 1000, 3, 299, torch.device("cpu"))
    assert isinstance(network, SlimInceptionV3) and network.head_drop.p == 0.2
    optimizer = make_optimizer(network, recipe.optim)
    decayed = [group["params"] for group in optimizer.param_groups if group.get("clipped_weight_decay")]
    assert len(decayed) == 1 and len(decayed[0]) == 98  # 94 convolutions of branches, two of the head, two classifiers
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 98 + 96 + 2
    average = WeightAverage(network, 0.9999)
    average.update(network)
    assert all((module.weight == 1).all() for module in average.network.modules() if hasattr(module, "running_mean"))


def test_its_parts_compile_into_one_graph(network):
    block, x = copy.deepcopy(network.Mixed_5b).train(), torch.randn(2, 192, 9, 9)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(block), dynamic=False, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), block(x))


def test_it_has_no_pretrained_weights():
    with pytest.raises(UserError, match="starts from random ones"):
        timm.create_model("fastgen_inception_v3", pretrained=True)
