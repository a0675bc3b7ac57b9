"""CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels in a hundred classes, five to a superclass.

`cifar100` has the classes for labels, `cifar100_coarse` the twenty superclasses; the files are the same.
"""

import pickle
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.sources.torchvision_set import TorchvisionSet

_LAYOUT = "cifar-100-python"
_FINE = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
]  # fmt: skip
_COARSE = [
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices",
    "household_furniture", "insects", "large_carnivores", "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes", "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates",
    "people", "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
]  # fmt: skip


def _read(labels: str, folder: str, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """labels: what the files call them."""
    from torchvision.datasets import CIFAR100

    data = CIFAR100(folder, train, download=download)
    ((file, _),) = data.train_list if train else data.test_list
    # A pickle can execute code: this one has the checksum that torchvision has just compared.
    entry = pickle.loads((Path(folder) / _LAYOUT / file).read_bytes(), encoding="latin1")
    return data.data, np.asarray(entry[labels]), [file]


_fine = TorchvisionSet(
    "cifar100",
    _LAYOUT,
    _FINE,
    partial(_read, "fine_labels"),
    spellings={"cra": "crab"},  # as the Hub writes it
)
coarse = TorchvisionSet("cifar100", _LAYOUT, _COARSE, partial(_read, "coarse_labels"), label_column="coarse_label")
open_split, where = _fine.open_split, _fine.where
