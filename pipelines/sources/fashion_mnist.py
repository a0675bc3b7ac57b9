"""Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 pixels, grayscale, in ten classes of clothes."""

from functools import partial

from pipelines.sources.mnist import read_idx
from pipelines.sources.torchvision_set import TorchvisionSet

_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
_fashion_mnist = TorchvisionSet(
    "fashion_mnist",
    "FashionMNIST/raw",
    _CLASSES,
    partial(read_idx, "FashionMNIST"),
    channels=1,
    spellings={"T - shirt / top": "T-shirt/top"},  # as the Hub writes it
)
open_split, where = _fashion_mnist.open_split, _fashion_mnist.where
