"""RandAugment (Cubuk et al., NeurIPS workshops 2020) as torchvision has it, by a function of (seed, epoch, sample)."""

import torch
from torchvision.transforms import v2

from pipelines.randomness import derive_key, philox

# torchvision makes the same changes to all images of a call, and a call for each image takes eight times as long. In an
# epoch's each change a sample belongs to one of so many groups, and groups draw apart.
_GROUPS = 16


class RandAugment:
    """Each image is changed `ops` times, each time in one of torchvision's 14 ways, with the strength `magnitude` (0 to
    30). Samples of one group are changed alike in an epoch; which sample is in which group is drawn anew in each."""

    def __init__(self, ops: int, magnitude: int, seed: int) -> None:
        self._ops, self._seed, self._key = ops, seed, derive_key(seed, "randaugment/groups")
        self._change = v2.RandAugment(num_ops=1, magnitude=magnitude)

    def __call__(self, images: torch.Tensor, index: torch.Tensor, epoch: int | torch.Tensor) -> torch.Tensor:
        """images: uint8 (B, 1 or 3, H, W). index: sample indices, int64 (B,). Waits for the device."""
        images, index, epoch = images.clone(memory_format=torch.channels_last), index.cpu(), int(epoch)
        before = torch.get_rng_state()  # of the generator that torchvision draws from
        try:
            for op in range(self._ops):
                group = philox((index & 0xFFFFFFFF, index >> 32, op, epoch), self._key)[0] % _GROUPS
                for number in group.unique().tolist():
                    rows = (group == number).nonzero()[:, 0].to(images.device)
                    low, high = derive_key(self._seed, "randaugment", epoch, op, number)
                    torch.default_generator.manual_seed(low | high >> 1 << 32)
                    images[rows] = self._change(images[rows])
        finally:
            torch.set_rng_state(before)
        return images
