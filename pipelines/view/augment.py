"""Batch augmentation and normalisation on the device: seeded, vectorised, the same for every backend.

The random numbers of a sample are a pure function of (seed, epoch, sample index): they depend neither on the
batch it falls into, nor on the process, nor on what was drawn before. Nothing here waits for the device.

The operators take one parameter per image and agree with torchvision.transforms.functional on float images in
[0, 1] (bilinear where it interpolates, zeros where nothing is known); those of colour, in `pipelines.view.color`, with
TensorFlow.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipelines.errors import UserError
from pipelines.randomness import derive_key, philox
from pipelines.view.color import Distortion
from pipelines.view.preparation import AugmentSpec, NormalizeSpec

_LARGE = 1 << 15  # bytes of an image: a CPU flips larger ones faster one by one than as a batch
_BLOCKS = 2  # blocks of four uniforms for each sample: crop y and x, flip and rotation; then four for colour
_COLOR = 4  # the first uniform for colour; a fifth, of a third block, draws the order of its changes


class Preprocess:
    """uint8 images -> network input. One for training, one (train=False: central crop, no change) for evaluation.

    image_size: side of the input in pixels; None where the images come in the input's size. device: of the images.
    """

    def __init__(
        self,
        image_size: int | None,
        augment: AugmentSpec,
        normalize: NormalizeSpec,
        seed: int,
        train: bool,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (it never changes)
    ) -> None:
        self.image_size, self.augment, self.normalize = image_size, augment, normalize
        self.key, self.active = augmentation_key(seed), train and augment.active
        # torch.compile compiles again when an attribute appears later, so these exist before the first call.
        mean, std = (torch.tensor(v, device=device) * 255 for v in (normalize.mean, normalize.std))
        self._mean, self._std = mean[None, :, None, None], std[None, :, None, None]
        self._distortion: Distortion | None = None
        if augment.color:
            strengths = augment.brightness, augment.contrast, augment.saturation, augment.hue
            self._distortion = Distortion(*strengths, augment.color_order, device)
        self._rand: Callable[[torch.Tensor, torch.Tensor, int | torch.Tensor], torch.Tensor] | None = None
        if train and augment.rand_ops:
            from pipelines.view.rand_augment import RandAugment  # imports torchvision, which takes a second

            self._rand = RandAugment(augment.rand_ops, augment.rand_magnitude, seed)
        # A constant in memory: an arange within the call becomes part of a kernel's 32-bit index arithmetic when
        # torch.compile fuses it, and Triton refuses to multiply that by Philox's 32-bit constants.
        blocks = _BLOCKS + (self._distortion is not None and self._distortion.draws > 4)
        self._blocks = torch.arange(blocks, device=device)

    def __call__(self, images: torch.Tensor, index: torch.Tensor, epoch: int | torch.Tensor = 0) -> torch.Tensor:
        """images: uint8 (B, C, H, W), H = W, channels_last. index: sample indices, int64 (B,).

        epoch: an int, or an int64 scalar tensor. Returns float32 (B, C, image_size, image_size), channels_last.
        """
        size = self.image_size or images.shape[-1]
        if not self.active:
            return self._normalized(center_crop(images, size).float())
        spec = self.augment
        draws = uniforms(index, self.key, epoch, self._blocks)
        if spec.random_crop:
            room = images.shape[-1] + 2 * spec.crop_padding - size
            offsets = (draws[:, :2] * (room + 1)).long()
            pixels = crop(images, offsets, size, spec.crop_padding)
        else:
            pixels = center_crop(images, size)
        if spec.flip:
            pixels = flip(pixels, draws[:, 2] < 0.5)
        if self._rand is not None:
            pixels = self._rand(pixels, index, epoch)
        pixels = pixels.float()  # only now: bytes move four times as fast
        if not spec.rotate and self._distortion is None:
            return self._normalized(pixels)
        pixels = pixels / 255
        if spec.rotate:
            pixels = rotate(pixels, (2 * draws[:, 3] - 1) * spec.rotate)
        if self._distortion is not None:
            pixels = self._distortion(pixels, draws[:, _COLOR : _COLOR + self._distortion.draws])
        return self._normalized(pixels * 255)

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: float32 (B, C, H, W) on the 0..255 scale, overwritten."""
        if self.normalize.kind == "whiten":
            return whiten(pixels)
        if self.normalize.kind == "scale":
            return pixels.div_(255)
        return pixels.sub_(self._mean).div_(self._std)


def augmentation_key(seed: int) -> tuple[int, int]:
    """The key that `uniforms` draws with. Made apart from it, as torch.compile cannot follow a hash."""
    return derive_key(seed, "augment")


def uniforms(
    index: torch.Tensor, key: tuple[int, int], epoch: int | torch.Tensor, blocks: torch.Tensor | None = None
) -> torch.Tensor:
    """Four uniforms in [0, 1) for each block of each sample in this epoch: float32 (B, 4 * blocks). index: int64 (B,).

    blocks: the numbers 0, 1, ... as int64 on the index's device (None: of two blocks), to be made beforehand where
    this is compiled for a GPU. The epoch is a part of the counter, not of the key, so that it may be a tensor on the
    device.
    """
    index = index[:, None]
    if blocks is None:
        blocks = torch.arange(_BLOCKS, device=index.device)
    counter = (index & 0xFFFFFFFF, index >> 32, blocks, torch.zeros_like(index) + epoch)
    words = torch.stack(philox(counter, key), dim=2).flatten(1)
    # 24 bits are what a float32 below 1 can hold; a 32-bit word could round up to 1.
    return words.bitwise_right_shift(8).float() * 2.0**-24


def center_crop(images: torch.Tensor, size: int) -> torch.Tensor:
    """The central size x size pixels, as torchvision rounds the offset. A view of (B, C, H, W).

    Raises UserError when the images are smaller: the offset would be negative and count from the other end.
    """
    height, width = images.shape[-2:]
    if size > min(height, width):
        raise UserError(f"no {size}x{size} pixels to crop from images of {width}x{height}; lower data.image_size")
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return images[..., top : top + size, left : left + size]


def crop(images: torch.Tensor, offsets: torch.Tensor, size: int, padding: int = 0) -> torch.Tensor:
    """A patch of size x size pixels of each image, zero-padded on all sides before.

    images (B, C, H, W); offsets: top and left, int64 (B, 2), in 0 .. side + 2 padding - size. Keeps the dtype.
    """
    if padding:
        images = F.pad(images, (padding,) * 4)
    batch, channels, height, width = images.shape
    # A row of a patch lies in one piece in channels_last memory: gather rows, from a view of all pieces of that length.
    pieces = images.permute(0, 2, 3, 1).flatten().unfold(0, size * channels, 1)
    first_row = torch.arange(batch, device=images.device) * height + offsets[:, 0]
    rows = first_row[:, None] + torch.arange(size, device=images.device)
    starts = (rows * width + offsets[:, 1:]) * channels
    return pieces.index_select(0, starts.flatten()).view(batch, size, size, channels).permute(0, 3, 1, 2)


def flip(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Left-right where mask, bool (B,), is true. images (B, C, H, W). Returns them in channels_last memory."""
    batch, channels, height, width = images.shape
    large = channels * height * width * images.element_size() > _LARGE
    if large and images.device.type == "cpu" and not torch.compiler.is_compiling():
        # One image stays in a core's cache: this takes less than half the time of passes over the whole batch.
        out = torch.empty_like(images, memory_format=torch.channels_last)
        for image, target, mirrored in zip(images, out, mask.tolist(), strict=True):
            target.copy_(image.flip(-1) if mirrored else image)
        return out

    def words(pixels: torch.Tensor) -> torch.Tensor:
        # A choice between wide words takes a third of the time of one between bytes.
        pixels = pixels.permute(0, 2, 3, 1).reshape(batch, channels * height * width)
        size = pixels.shape[1] * pixels.element_size()
        wide = next(kind for kind in (torch.int64, torch.int32, torch.int16, torch.uint8) if size % kind.itemsize == 0)
        return pixels.view(wide)

    chosen = torch.where(mask[:, None], words(images.flip(-1)), words(images)).view(images.dtype)
    return chosen.view(batch, height, width, channels).permute(0, 3, 1, 2)


def rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Rotate counter-clockwise about the centre; bilinear, zeros outside. images float (B, C, H, W), degrees (B,)."""
    height, width = images.shape[-2:]
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    zero = torch.zeros_like(cos)
    # From output to input coordinates, in units of half a side.
    matrix = torch.stack([cos, -sin * (height / width), zero, sin * (width / height), cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    rotated = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return rotated.contiguous(memory_format=_memory_format(images))


def _memory_format(images: torch.Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def whiten(pixels: torch.Tensor) -> torch.Tensor:
    """TensorFlow's per_image_standardization of pixels / 255 (paper, appendix A), in two passes over memory.

    pixels: float32 (B, C, H, W) on the 0..255 scale, overwritten. (x - mean) / max(std, 1 / sqrt(n)) over the n values
    of an image, with the population's std; on this scale the bound is 255 / sqrt(n), and the result is the same.
    """
    values = pixels.permute(0, 2, 3, 1).flatten(1)  # no copy in channels_last memory
    n = values.shape[1]
    values -= values.mean(1, keepdim=True)
    std = torch.linalg.vector_norm(values, dim=1, keepdim=True) / math.sqrt(n)
    values *= std.clamp_min(255 / math.sqrt(n)).reciprocal()
    batch, channels, height, width = pixels.shape
    return values.view(batch, height, width, channels).permute(0, 3, 1, 2)
