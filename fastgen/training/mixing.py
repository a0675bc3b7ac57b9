"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) of a batch, by timm."""

from typing import Any

import numpy as np
import torch

from fastgen.recipe.schema import TrainSpec
from pipelines.errors import UserError
from pipelines.randomness import derive_key


class Mixer:
    """Mixes each micro-batch with itself in reverse order, in shares that are a function of (seed, step, micro-batch).

    Which samples are mixed follows from the order, so from the number of processes, too, among which a batch is split.
    """

    def __init__(self, train: TrainSpec, classes: int, rows: int, seed: int) -> None:
        """rows: of a micro-batch of this process. Raises UserError for an odd number of them."""
        if rows % 2:
            raise UserError(
                "train.mixup and train.cutmix pair the samples of a batch, and a process has "
                f"{rows} of each: set data.batch_size so that it is even for each process and accumulation step"
            )
        from timm.data import Mixup  # takes seconds

        # Labels are smoothed by the loss, as those of other batches: smoothing and mixing may change places.
        self._mix: Any = Mixup(train.mixup, train.cutmix, label_smoothing=0.0, num_classes=classes)
        self._seed = seed

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, step: int, micro: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """images: the network's input, (B, C, H, W), overwritten; labels: int64 (B,).

        Returns the mixed images, and each class's share of them, float32 (B, classes).
        """
        before = np.random.get_state()  # noqa: NPY002 (what timm draws from)
        np.random.seed(derive_key(self._seed, "mix", step, micro))  # noqa: NPY002
        try:
            return self._mix(images, labels)
        finally:
            np.random.set_state(before)  # noqa: NPY002
