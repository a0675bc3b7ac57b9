"""The paper's numbers (Zhang et al., ICLR 2017, arXiv 1611.03530v2) as its tables print them; accuracies in percent."""

import csv
from pathlib import Path


def table(number: int) -> list[dict[str, str]]:
    """The rows of table 1, 2, 3 or 4: column -> the printed text ("" for an empty cell).

    1: CIFAR-10, training and test accuracy with and without random crops and weight decay, true and random labels.
    2: ImageNet, top-1 and top-5 accuracy with and without augmentation, dropout and weight decay (the last two
    columns are the best test accuracies on the way, in brackets there). 3: test errors of kernel machines.
    4: training accuracy on random labels with regularisers, CIFAR-10.
    """
    with open(Path(__file__).parent / f"table{number}.csv", newline="") as file:
        return list(csv.DictReader(file))
