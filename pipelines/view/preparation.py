"""The settings of what `augment` does to a batch of images before the network sees them."""

from dataclasses import dataclass, field

from pipelines.errors import UserError, did_you_mean

ORDERS = 4  # of the changes of colour that TensorFlow's slim knows
_MOST_OPS, _LARGEST_MAGNITUDE = 14, 30  # of RandAugment
NORMALIZATIONS = ("whiten", "channel", "scale")


@dataclass
class AugmentSpec:
    """Random changes of the training images (data.augment.*), drawn for each image and epoch.

    random_crop: a random patch of the input's size instead of the central one, from the image with crop_padding
    zero pixels around it. flip: left-right, with probability one half. rotate: up to so many degrees either way (the
    paper uses 25).

    color: brightness, contrast, saturation and hue as TensorFlow's Inception changes them (`pipelines.view.color`),
    with its strengths by default. brightness: added to pixels in [0, 1], at most so much either way. contrast and
    saturation: factors, at most so much above or below 1. hue: at most so far around the colour circle either way.
    color_order: which of slim's four orders (its color_ordering: 0 is brightness, saturation, hue, contrast); null
    draws one of them for each image and epoch, as slim does.
    """

    random_crop: bool = False
    crop_padding: int = 0  # zero pixels around an image before a random crop
    flip: bool = False
    rotate: float = 0.0
    color: bool = False
    brightness: float = 32 / 255
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.2
    color_order: int | None = 0
    rand_ops: int = 0  # changes that torchvision's RandAugment makes to each image, after crop and flip (0: none)
    rand_magnitude: int = 9  # the strength of RandAugment's changes, 0 to 30

    @property
    def active(self) -> bool:
        return self.random_crop or self.flip or self.rotate > 0 or self.color or self.rand_ops > 0

    def validate(self) -> None:
        """Raises UserError on settings that cannot work or have no effect."""
        if self.crop_padding < 0:
            raise UserError(f"data.augment.crop_padding={self.crop_padding} must be at least 0 pixels")
        if self.crop_padding and not self.random_crop:
            raise UserError("data.augment.crop_padding has no effect without data.augment.random_crop=true")
        if not 0 <= self.rotate <= 180:
            raise UserError(f"data.augment.rotate={self.rotate} must be 0 to 180 degrees")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"data.augment.{name}={getattr(self, name)} must be 0 to 1")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"data.augment.hue={self.hue} must be 0 to 0.5 of the colour circle")
        if self.color_order not in (None, *range(ORDERS)):
            raise UserError(f"data.augment.color_order={self.color_order} must be 0 to {ORDERS - 1}, or null for all")
        for name in ("brightness", "contrast", "saturation", "hue", "color_order"):
            if not self.color and getattr(self, name) != getattr(AugmentSpec, name):
                raise UserError(f"data.augment.{name} has no effect without data.augment.color=true")

        if not 0 <= self.rand_ops <= _MOST_OPS:
            raise UserError(f"data.augment.rand_ops={self.rand_ops} must be 0 to {_MOST_OPS}")
        if not 0 <= self.rand_magnitude <= _LARGEST_MAGNITUDE:
            raise UserError(f"data.augment.rand_magnitude={self.rand_magnitude} must be 0 to {_LARGEST_MAGNITUDE}")
        if not self.rand_ops and self.rand_magnitude != AugmentSpec.rand_magnitude:
            raise UserError("data.augment.rand_magnitude has no effect without data.augment.rand_ops")

    def check_room(self, source_size: int, image_size: int) -> None:
        """Sizes are sides in pixels. Raises UserError where a random crop could only be the whole image."""
        if self.random_crop and source_size + 2 * self.crop_padding <= image_size:
            raise UserError(
                f"data.augment.random_crop has no room: the images have {source_size} pixels and the network's input "
                f"{image_size}; set data.image_size lower, or data.augment.crop_padding"
            )


@dataclass
class NormalizeSpec:
    """How pixels become the network's input (data.normalize.*).

    whiten: TensorFlow's per_image_standardization, the paper's. channel: (pixel / 255 - mean) / std, by default
    with ImageNet's numbers. scale: pixel / 255.
    """

    kind: str = "whiten"  # whiten (each image by its own mean and deviation), channel, scale (to 0..1)
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])  # with kind=channel: of pixels / 255
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])  # the same

    def validate(self, channels: int) -> None:
        if self.kind not in NORMALIZATIONS:
            raise UserError(f"unknown data.normalize.kind '{self.kind}': {did_you_mean(self.kind, NORMALIZATIONS)}")
        if self.kind == "channel":
            if not len(self.mean) == len(self.std) == channels:
                raise UserError(
                    f"data.normalize.mean and .std have {len(self.mean)} and {len(self.std)} numbers for "
                    f"{channels} channels"
                )
            if min(self.std) <= 0:
                raise UserError(f"data.normalize.std={self.std} must be above 0")
