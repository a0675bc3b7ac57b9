"""Images made from the sample index: any number, any size, learnable classes; for tests and benchmarks."""

import hashlib
import io

import numpy as np
from PIL import Image

from pipelines.errors import UserError
from pipelines.randomness import stream, words_of
from pipelines.sources.base import Source, SourceSpec, SyntheticSpec


class SyntheticSource(Source):
    """Each image is its class's smooth pattern plus noise of its own; nothing is stored.

    The pattern makes the true labels learnable; the noise tells the samples of a class apart.
    """

    def __init__(self, spec: SyntheticSpec, split: str) -> None:
        self.spec, self.split = spec, split
        n = spec.samples if split == "train" else spec.test_samples
        for name, value in (("samples", n), ("size", spec.size), ("classes", spec.classes)):
            if value < 1:
                raise UserError(f"data.synthetic.{name}={value} must be at least 1")
        if spec.channels not in (1, 3):
            raise UserError(f"data.synthetic.channels={spec.channels} must be 1 or 3")
        self.labels = words_of(np.arange(n), 0, "synthetic/label", split)[:, 0] % spec.classes
        self.class_names = [str(c) for c in range(spec.classes)]
        self.channels = spec.channels
        self.fingerprint = hashlib.sha256(repr((spec, split)).encode()).hexdigest()

    def _pixels(self, index: int) -> np.ndarray:
        size, label = self.spec.size, int(self.labels[index])
        cells = stream(2 * 2 * 3, 0, "synthetic/pattern", index=label).view(np.uint8)[:12].reshape(2, 2, 3)
        pattern = cells.repeat(-(-size // 2), axis=0).repeat(-(-size // 2), axis=1)[:size, :size]
        noise = stream(-(-size * size * 3 // 8), 0, "synthetic/noise", self.split, index=index).view(np.uint8)
        image = pattern // 2 + noise[: size * size * 3].reshape(size, size, 3) // 2
        return image if self.channels == 3 else np.repeat(image[:, :, :1], 3, axis=2)

    def read(self, index: int) -> bytes | np.ndarray:
        pixels = self._pixels(index)
        if not self.spec.jpeg:
            return pixels
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=90)
        return out.getvalue()

    def sample_name(self, index: int) -> str:
        return f"synthetic/{self.split}[{index}]"


def open_split(spec: SourceSpec, split: str) -> SyntheticSource | None:
    if split == "val" and spec.synthetic.test_samples == 0:
        return None
    return SyntheticSource(spec.synthetic, split)
