"""torch.compile in a training: a graph for each size of images and none for any size, however many there are."""

import functools
from collections import Counter

import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from torch._dynamo.testing import CompileCounterWithBackend
from whole_runs import fresh_accelerate, lines, same_weights, weights  # noqa: F401

from fastgen.recipe.load import load
from fastgen.training.loop import train

SIZES = range(32, 321, 32)  # more than PyTorch compiles a function for if nobody asks it to
GROWING = [
    "data.source=synthetic", "data.synthetic.samples=10", "data.synthetic.test_samples=3", "data.synthetic.size=16",
    "data.batch_size=4", "data.eval_batch_size=6", "data.image_size=320", "data.eval_size=48", "data.view.fraction=0.9",
    "data.progressive.start_size=32", "data.progressive.end_epoch=9", "train.epochs=10",
    "train.stop_at_interpolation=false", "train.evaluate_epochs=5", "model.name=tiny_for_any_size", "optim.lr=0.001",
]  # fmt: skip


class Tiny(torch.nn.Module):
    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.convolution, self.norm = torch.nn.Conv2d(channels, 4, 3, stride=4), torch.nn.BatchNorm2d(4)
        self.classifier = torch.nn.Linear(4, classes)

    def forward(self, images):
        return self.classifier(self.norm(self.convolution(images)).relu().mean((2, 3)))


@timm.models.register_model
def tiny_for_any_size(pretrained=False, num_classes=10, in_chans=3, drop_rate=0.0, **_):
    return Tiny(in_chans, num_classes)


def images_of(graph: torch.fx.GraphModule) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Types and shapes of the inputs that are images."""
    inputs = [node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"]
    values = [value for value in inputs if not isinstance(value, torch.nn.Parameter) and value.dim() == 4]
    return [(value.dtype, tuple(value.shape)) for value in values]


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.9])  # evaluations of the network itself, or of another
def test_every_size_gets_its_own_graph(ema, tmp_path, monkeypatch):
    """And so do evaluations one alone, whose last batches are smaller; the results are those without compilation."""
    settings = [*GROWING, f"train.ema={ema}"]
    train(load("quickstart", [*settings, f"run.dir={tmp_path / 'plain'}"]))
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    AcceleratorState._reset_state(True)
    train(load("quickstart", [*settings, "train.compile=true", f"run.dir={tmp_path / 'compiled'}"]))
    of_training = [(kind, (4, 3, size, size)) for size in SIZES for kind in (torch.uint8, torch.float32)]
    compiled = Counter(image for graph in counter.graphs for image in images_of(graph))
    assert compiled == Counter([*of_training, (torch.float32, (6, 3, 48, 48))])
    assert same_weights(weights(tmp_path / "plain"), weights(tmp_path / "compiled"))
    for key in ("train_loss_nats", "test_loss_nats"):
        plain, other = (lines(tmp_path / name, key) for name in ("plain", "compiled"))
        assert len(plain) == 2 and other == pytest.approx(plain)
