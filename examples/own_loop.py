"""A training loop of one's own over a baked set, in plain PyTorch: python examples/own_loop.py [RECIPE] [EPOCHS]

The set is baked on first use. To stop and go on, keep the network, the optimizer, the epoch and the step.
"""

import sys

import timm
import torch
from torch.nn.functional import cross_entropy

import fastgen  # also tells timm the paper's networks

recipe, epochs = sys.argv[1:] or ("quickstart", "10")
device = "cuda" if torch.cuda.is_available() else "cpu"
data = fastgen.open(recipe, **{"data.labels.kind": "random"})

torch.manual_seed(0)
example = next(iter(data.batches("test", batch_size=1))).images  # (1, channels, height, width)
network = timm.create_model(
    "fastgen_mlp_1x512", num_classes=len(data.class_names), in_chans=example.shape[1], img_size=example.shape[-1]
).to(device)
optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)


@torch.inference_mode()
def accuracy(split: str) -> float:
    """Percent of a split's samples that are classified as labelled."""
    hits = [
        (network(batch.images).argmax(1) == batch.label).sum().item()
        for batch in data.batches(split, shuffle=False, batch_size=512, device=device)
    ]
    return 100 * sum(hits) / data.samples["train" if split == "train" else "val"]


for epoch in range(int(epochs)):
    for batch in data.batches("train", epoch=epoch, batch_size=64, device=device):  # step=... goes on within an epoch
        loss = cross_entropy(network(batch.images), batch.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"{recipe}, random labels, {epochs} epochs: training {accuracy('train'):.1f} %, test {accuracy('test'):.1f} %")
