"""Where the small Inception's shifts lie: in batch norm, as now, or in convolutions before a batch norm without any.

    python benchmarks/batch_norm_shift.py FOLDER [key=value ...]

trains both on the first 5,000 images of CIFAR-10, runs in FOLDER, and prints their evaluations side by side. Both have
the paper's 1,649,402 parameters; batch norm takes a convolution's bias out again, so of the second network 1,712 have
no effect.
"""

import sys
from pathlib import Path

from torch import nn

from fastgen.models import NETWORKS
from fastgen.models.inception import ConvModule, SmallInception
from fastgen.models.tensorflow import SameConv2d
from fastgen.recipe.load import load
from fastgen.runs.folder import RECIPE
from fastgen.runs.run import Run
from fastgen.runs.summary import metric
from fastgen.training.loop import train
from fastgen.training.network import parameter_count

_DEFAULTS = ["data.limit=5000", "data.limit_test=5000", "train.epochs=12"]


def inception_with_dead_biases(**arguments) -> SmallInception:
    """As `fastgen_inception`, from the same random numbers, with convolution biases and no shift in batch norm."""
    network = SmallInception(True, **arguments)
    for module in network.modules():
        if isinstance(module, ConvModule):
            before = module[0]
            assert isinstance(before, SameConv2d)
            biased = SameConv2d(before.in_channels, before.out_channels, before.kernel_size[0], before.stride[0])
            biased.weight = before.weight
            nn.init.zeros_(biased.bias)
            module[0], module[1] = biased, nn.BatchNorm2d(before.out_channels, affine=False)
    return network


NETWORKS.add("inception_with_dead_biases", __name__)


def main(folder: Path, settings: list[str]) -> None:
    curves = {}
    for name in ("fastgen_inception", "inception_with_dead_biases"):
        run = folder / name
        own = [f"model.name={name}", f"run.dir={run}", f"run.resume={str((run / RECIPE).is_file()).lower()}"]
        if not Run(run).finished:
            train(load("cifar10_inception_true", [*_DEFAULTS, *settings, *own]))
        curves[name] = [line for line in Run(run).lines if metric("train_top1") in line]
    assert parameter_count(inception_with_dead_biases()) == parameter_count(SmallInception(True)) == 1_649_402
    keys = [metric("train_loss"), metric("train_top1"), metric("test_top1")]
    print(f"| epoch | {' | '.join(f'{key}, {name}' for key in keys for name in curves)} |")
    print(f"| --- |{' --- |' * len(keys) * len(curves)}")
    for lines in zip(*curves.values(), strict=False):
        print(f"| {lines[0]['epoch']:g} | {' | '.join(f'{line[key]:.2f}' for key in keys for line in lines)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
