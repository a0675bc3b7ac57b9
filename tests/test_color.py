"""Colours against TensorFlow's kernels, written out in numpy, on photographs of ImageNet and on random images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.errors import UserError
from pipelines.view.augment import Preprocess, augmentation_key, uniforms
from pipelines.view.color import Distortion, saturate_turn, shift_contrast
from pipelines.view.preparation import AugmentSpec, NormalizeSpec

SIDE = 24
CPU = torch.device("cpu")
STRENGTHS = (32 / 255, 0.5, 0.5, 0.2)  # of brightness, contrast, saturation and hue
# Operators by their places in STRENGTHS, in the four orders of slim's distort_color.
ORDERS = ((0, 2, 3, 1), (2, 0, 1, 3), (1, 3, 0, 2), (3, 2, 1, 0))


# ------------------------------------------------ TensorFlow, on one image: float (H, W, 3)


def rgb_to_hsv(image):
    """adjust_saturation_op.cc, rgb_to_hsv."""
    red, green, blue = np.moveaxis(image, -1, 0)
    value = image.max(-1)
    spread = value - image.min(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        saturation = np.where(value > 0, spread / value, 0)
        norm = 1 / (6 * spread)
        hue = np.where(
            red == value,
            norm * (green - blue),
            np.where(green == value, norm * (blue - red) + 2 / 6, norm * (red - green) + 4 / 6),
        )
    hue = np.where(spread <= 0, 0, hue)
    return np.where(hue < 0, hue + 1, hue), saturation, value


def hsv_to_rgb(hue, saturation, value):
    """adjust_saturation_op.cc, hsv_to_rgb."""
    chroma = saturation * value
    sixths = hue * 6
    second = chroma * (1 - np.abs(sixths % 2 - 1))
    zero, category = np.zeros_like(chroma), sixths.astype(int)
    cases = {
        0: (chroma, second, zero), 1: (second, chroma, zero), 2: (zero, chroma, second),
        3: (zero, second, chroma), 4: (second, zero, chroma), 5: (chroma, zero, second),
    }  # fmt: skip
    conditions = [category == number for number in cases]
    channels = [np.select(conditions, [case[i] for case in cases.values()]) for i in range(3)]
    return np.stack(channels, -1) + (value - chroma)[..., None]


def adjust_saturation(image, factor):
    hue, saturation, value = rgb_to_hsv(image)
    return hsv_to_rgb(hue, np.clip(saturation * factor, 0, 1), value)


def adjust_hue(image, delta):
    """adjust_hue_op.cc: the smallest and the largest channel stay, whatever their signs."""
    red, green, blue = np.moveaxis(image, -1, 0)
    category = np.where(
        red < green,
        np.where(blue < red, 1, np.where(blue > green, 3, 2)),
        np.where(blue < green, 0, np.where(blue > red, 4, 5)),
    )
    low, middle, high = np.moveaxis(np.sort(image, -1), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (middle - low) / (high - low)
    hue = np.where(high == low, 0, category + np.where(category % 2 == 0, ratio, 1 - ratio))
    hue = (hue + delta * 6) % 6
    category = np.minimum(hue.astype(int), 5)
    ratio = hue - category
    middle = low + np.where(category % 2 == 0, ratio, 1 - ratio) * (high - low)
    cases = (
        (high, middle, low), (middle, high, low), (low, high, middle),
        (low, middle, high), (middle, low, high), (high, low, middle),
    )  # fmt: skip
    channels = [np.select([category == number for number in range(6)], [case[i] for case in cases]) for i in range(3)]
    return np.stack(channels, -1)


def adjust_contrast(image, factor):
    """adjust_contrast_op.cc, version 2."""
    mean = image.mean((0, 1))
    return (image - mean) * factor + mean


TENSORFLOW = (
    lambda image, delta: image + delta,
    lambda image, deviation: adjust_contrast(image, 1 + deviation),
    lambda image, deviation: adjust_saturation(image, 1 + deviation),
    adjust_hue,
)


def distort_color(image, amounts, order):
    for operator in ORDERS[order]:
        image = TENSORFLOW[operator](image, amounts[operator])
    return np.clip(image, 0, 1)


# ------------------------------------------------ images


def as_batch(images) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def photographs(data_folder):
    """Sixteen of ImageNet's: uint8 (16, 3, SIDE, SIDE) in channels_last memory."""
    paths = sorted((data_folder / "imagenet_sample").rglob("*.JPEG"))[:16]
    images = [Image.open(io.BytesIO(path.read_bytes())).convert("RGB").resize((SIDE, SIDE)) for path in paths]
    return as_batch([np.array(image) for image in images])


def random_images() -> torch.Tensor:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, SIDE, SIDE, 3), dtype=np.uint8)
    images[0], images[1] = 77, 0  # gray, black
    images[2, ..., 1:] = 0  # red
    images[3] = images[3] // 32  # dark: brightness takes it below 0
    images[4] = 255 - images[4] // 32  # bright
    images[5] = images[5, ..., :1]  # gray of all kinds
    images[6] = np.where(images[6] < 128, 0, 255)  # the corners of the colour cube
    return as_batch(images)


def check(images: torch.Tensor, order: int | None) -> None:
    """All of `Preprocess` for an epoch, against one image after another."""
    spec = AugmentSpec(color=True, color_order=order)
    prepare = Preprocess(SIDE, spec, NormalizeSpec("scale"), seed=1, train=True)
    index, epochs = torch.arange(len(images)) + 10_000, range(3)
    seen = set()
    for epoch in epochs:
        draws = uniforms(index, augmentation_key(1), epoch, torch.arange(3)).numpy().astype(np.float64)
        result = prepare(images, index, epoch)
        assert result.is_contiguous(memory_format=torch.channels_last) and result.min() >= 0 and result.max() <= 1
        for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            which = int(draws[i, 8] * 4) if order is None else order
            seen.add(which)
            amounts = (2 * draws[i, 4:8] - 1) * STRENGTHS
            expected = distort_color(image.astype(np.float64) / 255, amounts, which)
            np.testing.assert_allclose(result[i].permute(1, 2, 0).numpy(), expected, atol=1 / 255 / 50)
    assert seen == ({0, 1, 2, 3} if order is None else {order})


@pytest.mark.parametrize("order", [0, 1, 2, 3, None])
def test_photographs_change_as_in_tensorflow(photographs, order):
    check(photographs, order)


@pytest.mark.parametrize("order", [0, 1, 2, 3, None])
def test_random_images_change_as_in_tensorflow(order):
    check(random_images(), order)


def test_some_pixels_are_what_tensorflow_itself_gives():
    """tf.image.adjust_* of TensorFlow 2.21, in the four orders, on one image of 2 x 3 pixels, two of them dark."""
    image = [[[0.9, 0.2, 0.4], [0.1, 0.02, 0.05], [0, 0, 0]], [[0.3, 0.95, 0.9], [0.5, 0.5, 0.5], [0.05, 0.1, 0.02]]]
    amounts = -0.08, -0.3, 0.4, -0.12
    given = {
        0: [0.6304, 0.0614, 0.6418, 0.0723, 0.0614, 0.0818, 0.0037, 0.0054, 0.0118,
            0.0597, 0.6704, 0.1915, 0.3537, 0.3554, 0.3618, 0.0737, 0.0741, 0.0678],
        1: [0.6194, 0.0, 0.6289, 0.0564, 0.0, 0.0689, 0.0, 0.0006, 0.0037,
            0.0269, 0.6625, 0.1621, 0.3475, 0.3506, 0.3537, 0.0675, 0.064, 0.0037],
        2: [0.6338, 0.0, 0.6425, 0.0698, 0.0, 0.0825, 0.0071, 0.0065, 0.0135,
            0.0421, 0.6735, 0.1769, 0.3571, 0.3565, 0.3635, 0.0785, 0.0705, 0.0071],
        3: [0.6277, 0.0, 0.6362, 0.0646, 0.0, 0.0762, 0.0013, 0.0, 0.0062,
            0.0293, 0.662, 0.1636, 0.3513, 0.347, 0.3562, 0.0713, 0.0604, 0.0062],
    }  # fmt: skip
    strengths = torch.tensor(STRENGTHS)
    draws = (torch.tensor(amounts) / strengths + 1)[None] / 2
    for order, expected in given.items():
        ours = Distortion(*STRENGTHS, order, CPU)(as_batch([np.array(image, np.float32)]), draws)
        np.testing.assert_allclose(ours[0].permute(1, 2, 0).flatten().numpy(), expected, atol=1e-4)
        assert np.abs(distort_color(np.array(image), amounts, order).flatten() - expected).max() < 1e-4


@pytest.mark.parametrize("scale, offset", [(1, 0), (1.5, -0.3)])  # within [0, 1], and as brightness may leave them
def test_each_operator_is_tensorflows(scale, offset):
    images = random_images().double() / 255 * scale + offset
    zeros, ones = torch.zeros(16, dtype=torch.float64), torch.ones(16, dtype=torch.float64)
    amounts = torch.linspace(-0.5, 0.5, 16, dtype=torch.float64)
    all_stay = torch.zeros(16, dtype=torch.bool)
    ours = (
        shift_contrast(images, amounts, ones),
        shift_contrast(images, zeros, 1 + amounts),
        saturate_turn(images, 1 + amounts, zeros),
        saturate_turn(images, ones, amounts, saturates=all_stay),
    )
    for operator, result in zip(TENSORFLOW, ours, strict=True):
        expected = [
            operator(image, amount)
            for image, amount in zip(images.permute(0, 2, 3, 1).numpy(), amounts.numpy(), strict=True)
        ]
        np.testing.assert_allclose(result.permute(0, 2, 3, 1).numpy(), np.stack(expected), atol=1e-12)


def test_what_changes_nothing_changes_nothing():
    images = random_images().double() / 255 * 1.5 - 0.3
    zeros, ones = torch.zeros(16, dtype=torch.float64), torch.ones(16, dtype=torch.float64)
    stays = torch.zeros(16, dtype=torch.bool)
    torch.testing.assert_close(shift_contrast(images, zeros, ones), images, atol=1e-12, rtol=0)
    torch.testing.assert_close(saturate_turn(images, ones, zeros, stays), images, atol=1e-12, rtol=0)


def test_gray_images_keep_their_one_channel():
    images = random_images()[:, :1]
    spec = AugmentSpec(color=True)
    result = Preprocess(SIDE, spec, NormalizeSpec("scale"), seed=1, train=True)(images, torch.arange(16))
    draws = uniforms(torch.arange(16), augmentation_key(1), 0).numpy()
    shift, contrast = ((2 * draws[:, i] - 1) * strength for i, strength in ((4, 32 / 255), (5, 0.5)))
    pixels = images.numpy() / 255
    mean = pixels.mean((2, 3), keepdims=True)
    factor = 1 + contrast[:, None, None, None]
    expected = np.clip((pixels - mean) * factor + mean + shift[:, None, None, None], 0, 1)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_draws_of_the_order_change_no_other_draw():
    index = torch.arange(1000)
    two, three = (uniforms(index, augmentation_key(0), 3, torch.arange(n)) for n in (2, 3))
    assert torch.equal(three[:, :8], two) and torch.equal(two, uniforms(index, augmentation_key(0), 3))
    counts = torch.bincount((three[:, 8] * 4).long(), minlength=4)
    assert (counts - 250).abs().max() < 4 * (1000 * 3 / 16) ** 0.5


@pytest.mark.parametrize("order", [0, None])
def test_compiled_code_gives_the_same_and_waits_for_no_value(order, photographs):
    """With inductor, which writes C++ on a CPU and Triton on a GPU; one graph has no place to read a value back."""
    spec = AugmentSpec(flip=True, color=True, color_order=order)
    prepare = Preprocess(SIDE, spec, NormalizeSpec("channel"), seed=3, train=True)
    torch._dynamo.reset()
    compiled = torch.compile(prepare, dynamic=False, fullgraph=True)
    index = torch.arange(16) + (1 << 33)  # both halves of the counter
    for epoch in (torch.tensor(4), torch.tensor(5)):
        expected = prepare(photographs, index, epoch)
        torch.testing.assert_close(compiled(photographs, index, epoch), expected, atol=1e-4, rtol=0)


def test_the_counter_is_read_from_memory():
    """A fused arange is a kernel's own 32-bit index, and Triton refuses to multiply that by Philox's constants."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    prepare = Preprocess(SIDE, AugmentSpec(color=True, color_order=None), NormalizeSpec(), seed=3, train=True)
    torch._dynamo.reset()
    torch.compile(prepare, dynamic=False, fullgraph=True, backend=keep)(random_images(), torch.arange(16))
    called = [str(node.target) for node in graphs[0].graph.nodes]
    assert any("mul" in name for name in called) and not any("arange" in name for name in called)


def test_the_order_must_be_one_of_slims():
    for order in (4, -1):
        with pytest.raises(UserError, match="0 to 3, or null"):
            AugmentSpec(color=True, color_order=order).validate()
    with pytest.raises(UserError, match="no effect"):
        AugmentSpec(color_order=1).validate()
    AugmentSpec(color=True, color_order=None).validate()
    assert [Distortion(*STRENGTHS, order, CPU).draws for order in (0, 3, None)] == [4, 4, 5]
