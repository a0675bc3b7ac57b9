"""Random colours as TensorFlow's Inception distorts them, for a batch at once on its device.

The operators are tf.image.adjust_brightness, adjust_contrast, adjust_saturation and adjust_hue, put together in the
orders of distort_color in slim's inception_preprocessing.py. As there, nothing is clipped between the operators: what
brightness pushed out of [0, 1] is what saturation and hue then see, and one clip comes at the end.

Their algebra makes all four orders two kinds of passes. Brightness and contrast commute, as a shift moves each
channel's mean with the channel: one pass. Saturation and hue commute, as hue keeps the largest and the smallest channel
and saturation keeps hue and the largest: another. So each order is a part of four passes that take turns, whatever
an image's order is: a batch whose images have different orders needs no branches.
"""

import torch

from pipelines.view.preparation import ORDERS

# The pass, 0 to 3, in which each order does brightness, contrast, saturation and hue. Even passes are `shift_contrast`.
_TURNS = (
    (0, 2, 1, 1),  # brightness, saturation, hue, contrast
    (2, 2, 1, 3),  # saturation, brightness, contrast, hue
    (2, 0, 3, 1),  # contrast, hue, brightness, saturation
    (2, 2, 1, 1),  # hue, saturation, contrast, brightness
)


class Distortion:
    """slim's distort_color.

    brightness: largest shift either way, on images in [0, 1]. contrast, saturation: largest deviation of the factor
    from 1. hue: largest shift either way, in parts of the colour circle. order: one of slim's four for all images;
    None takes one of them for each image, from the fifth draw. device: of the images.
    """

    def __init__(
        self, brightness: float, contrast: float, saturation: float, hue: float, order: int | None, device: torch.device
    ) -> None:
        strengths = (brightness, contrast, saturation, hue)
        turns = _TURNS if order is None else (_TURNS[order],)
        # Tensors from the start: made in a call, they would be copied to the device in each.
        self._strengths = torch.tensor(strengths, device=device)
        self._turns = torch.tensor(turns, device=device)
        self._passes = sorted({turn for each in turns for turn in each})
        self.draws = 5 if order is None else 4

    def __call__(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """images: float (B, C, H, W) in [0, 1]. draws: uniforms in [0, 1), float (B, self.draws): brightness,
        contrast, saturation, hue, and the order where it is drawn. Returns float (B, C, H, W) in [0, 1]."""
        amount = (2 * draws[:, :4] - 1) * self._strengths
        order = (draws[:, 4] * ORDERS).long() if self.draws == 5 else torch.zeros_like(draws[:, 0], dtype=torch.int64)
        turns = self._turns[order]
        for number in self._passes:
            # An operator whose turn it is not gets the parameter that changes nothing.
            now = turns == number
            shift, contrast, saturation, hue = torch.where(now, amount, 0).unbind(1)
            if number % 2 == 0:
                images = shift_contrast(images, shift, 1 + contrast)
            elif images.shape[1] == 3:
                images = saturate_turn(images, 1 + saturation, hue, saturates=now[:, 2])
        return images.clamp(0, 1)


def shift_contrast(images: torch.Tensor, shift: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """tf.image.adjust_brightness and adjust_contrast, in either order: (x - mean) * factor + mean + shift, with the
    mean of each channel of each image.

    images: float (B, C, H, W); shift: float (B,), on their scale; factor: float (B,), 1 changes nothing.
    """
    mean = images.mean((2, 3), keepdim=True)
    factor, shift = factor[:, None, None, None], shift[:, None, None, None]
    return images * factor + (mean * (1 - factor) + shift)


def saturate_turn(
    images: torch.Tensor, factor: torch.Tensor, turn: torch.Tensor, saturates: torch.Tensor | None = None
) -> torch.Tensor:
    """tf.image.adjust_saturation and adjust_hue, in either order, as their fused kernels treat values of any size.

    Saturation is s = (largest - smallest channel) / largest, or 0 where the largest is not above 0: such a pixel gets
    the largest in all channels. factor * s is clipped to [0, 1].

    images: float (B, 3, H, W). factor: float (B,), at least 0. turn: float (B,), parts of the colour circle. saturates:
    bool (B,), where False saturation stays as it is, unclipped too (None: True for all). Returns the images' memory
    format.
    """
    red, green, blue = images.unbind(1)
    high, low = images.amax(1), images.amin(1)
    chroma = high - low
    divisor = torch.where(chroma == 0, 1, chroma)  # of a gray pixel, whose hue then is 0
    # Counted in sixths of the circle: 0 red, 2 green, 4 blue.
    hue = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = hue + 6 * turn[:, None, None]
    # s * largest, which is what saturation means for the channels; clipped like s.
    clipped = torch.minimum(chroma * factor[:, None, None], high).clamp_min(0)
    if saturates is not None:
        clipped = torch.where(saturates[:, None, None], clipped, chroma)
    channels = []
    for start in (5.0, 3.0, 1.0):
        # Back to RGB without cases: over the circle, each channel is a trapezium.
        place = (hue + start) % 6
        channels.append(high - clipped * torch.minimum(place, 4 - place).clamp(0, 1))
    last = images.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.stack(channels, dim=1).contiguous(memory_format=memory_format)
