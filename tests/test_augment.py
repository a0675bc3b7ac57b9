"""Each operator against torchvision's with the same parameters; whitening against TensorFlow's formula. Colours have
tests of their own, in test_color.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from pipelines.errors import UserError
from pipelines.view import augment
from pipelines.view.augment import Preprocess, augmentation_key, flip, uniforms
from pipelines.view.preparation import NORMALIZATIONS, AugmentSpec, NormalizeSpec

B, SIDE = 16, 32
GENERATOR = torch.Generator().manual_seed(0)
UINT8 = torch.randint(0, 256, (B, SIDE, SIDE, 3), dtype=torch.uint8, generator=GENERATOR).permute(0, 3, 1, 2)
UINT8[0] = 77  # a constant image
UINT8[1, 1:] = 0  # pure red
UNIT = UINT8.float() / 255
INDEX = torch.arange(B) + 1000
ALL = AugmentSpec(random_crop=True, crop_padding=2, flip=True, rotate=25, color=True)


def each(operator, images, parameters):
    return torch.stack([operator(image, parameter) for image, parameter in zip(images, parameters, strict=True)])


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    "ours, theirs, parameters",
    [
        (augment.rotate, lambda x, d: TF.rotate(x, d.item(), InterpolationMode.BILINEAR), torch.linspace(-180, 180, B)),
        (augment.flip, lambda x, m: TF.hflip(x) if m else x, torch.arange(B) % 3 == 0),
    ],
    ids=["rotate", "flip"],
)
def test_operators_agree_with_torchvision(ours, theirs, parameters, channels):
    images = UNIT[:, :channels].contiguous(memory_format=torch.channels_last)
    result = ours(images, parameters)
    torch.testing.assert_close(result, each(theirs, images, parameters), atol=2e-5, rtol=0)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_rotation_of_oblong_images_agrees_with_torchvision():
    images, degrees = UNIT[:4, :, :, :20].contiguous(), torch.tensor([10.0, -25.0, 45.0, 90.0])
    expected = each(lambda x, d: TF.rotate(x, d.item(), InterpolationMode.BILINEAR), images, degrees)
    torch.testing.assert_close(augment.rotate(images, degrees), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("padding", [0, 4])
def test_crop_agrees_with_torchvision(padding):
    offsets = torch.randint(0, SIDE + 2 * padding - 28 + 1, (B, 2), generator=GENERATOR)
    padded = TF.pad(UINT8, [padding] * 4)
    expected = each(lambda x, o: TF.crop(x, int(o[0]), int(o[1]), 28, 28), padded, offsets)
    assert torch.equal(augment.crop(UINT8, offsets, 28, padding), expected)


@pytest.mark.parametrize("size", [1, 27, 28, 31, 32])
def test_center_crop_agrees_with_torchvision(size):
    assert torch.equal(augment.center_crop(UINT8, size), TF.center_crop(UINT8, [size, size]))


def test_center_crop_refuses_smaller_images():
    with pytest.raises(UserError, match="33x33 pixels to crop from images of 32x32"):
        augment.center_crop(UINT8, SIDE + 1)


def test_whitening_is_tensorflows():
    pixels = UINT8.numpy().astype(np.float64) / 255
    mean = pixels.mean((1, 2, 3), keepdims=True)
    n = pixels[0].size
    std = np.sqrt(((pixels - mean) ** 2).mean((1, 2, 3), keepdims=True))
    expected = (pixels - mean) / np.maximum(std, 1 / np.sqrt(n))
    whitened = Preprocess(SIDE, AugmentSpec(), NormalizeSpec("whiten"), 0, train=True)(UINT8, INDEX)
    np.testing.assert_allclose(whitened.numpy(), expected, atol=2e-5)
    assert (whitened[0] == 0).all()  # the constant image
    # An image so flat that the bound holds: std 0.5 / 255, bound 1 / sqrt(3072)
    flat = (torch.arange(3 * SIDE * SIDE) % 2 + 100).byte().view(1, 3, SIDE, SIDE)
    assert torch.allclose(augment.whiten(flat.float()).abs(), torch.tensor(0.5 / 255 * n**0.5), atol=1e-6)


def test_channel_and_scale_agree_with_torchvision():
    spec = NormalizeSpec("channel")
    channel = Preprocess(28, AugmentSpec(), spec, 0, train=False)(UINT8, INDEX)
    expected = TF.normalize(TF.center_crop(UNIT, [28, 28]), spec.mean, spec.std)
    torch.testing.assert_close(channel, expected, atol=1e-5, rtol=0)
    scaled = Preprocess(28, AugmentSpec(), NormalizeSpec("scale"), 0, train=False)(UINT8, INDEX)
    torch.testing.assert_close(scaled, TF.center_crop(UNIT, [28, 28]))


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("spec", [AugmentSpec(), ALL, AugmentSpec(flip=True), AugmentSpec(random_crop=True)])
def test_a_sample_does_not_depend_on_its_batch(kind, spec):
    prepare = Preprocess(28, spec, NormalizeSpec(kind), seed=3, train=True)
    before = UINT8.clone()
    whole = prepare(UINT8, INDEX, 5)
    order = torch.randperm(B, generator=GENERATOR)
    torch.testing.assert_close(prepare(UINT8[order], INDEX[order], 5), whole[order], atol=1e-6, rtol=0)
    torch.testing.assert_close(prepare(UINT8[3:4], INDEX[3:4], 5), whole[3:4], atol=1e-6, rtol=0)
    assert torch.equal(UINT8, before)
    assert whole.dtype == torch.float32 and whole.is_contiguous(memory_format=torch.channels_last)
    other_epoch, other_seed = (
        prepare(UINT8, INDEX, 6),
        Preprocess(28, spec, NormalizeSpec(kind), 4, True)(UINT8, INDEX, 5),
    )
    assert torch.equal(whole, other_epoch) == torch.equal(whole, other_seed) == (not spec.active)


def test_an_epoch_may_be_a_tensor():
    prepare = Preprocess(28, ALL, NormalizeSpec(), seed=3, train=True)
    assert torch.equal(prepare(UINT8, INDEX, torch.tensor(5)), prepare(UINT8, INDEX, 5))
    draws = [uniforms(INDEX, augmentation_key(seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(not torch.equal(draws[i], draws[j]) for i in range(4) for j in range(i))


def test_a_flip_comes_half_the_time_and_a_crop_from_everywhere():
    images = torch.arange(64).repeat(2000, 1).view(-1, 1, 8, 8).byte()
    index = torch.arange(2000)
    scale = NormalizeSpec("scale")
    flipped = Preprocess(8, AugmentSpec(flip=True), scale, 0, train=True)(images, index) * 255
    assert abs((flipped[:, 0, 0, 0] > 0.5).float().mean() - 0.5) < 0.05
    first = Preprocess(5, AugmentSpec(random_crop=True), scale, 0, train=True)(images, index)[:, 0, 0, 0] * 255
    counts = torch.bincount(first.round().long(), minlength=64).view(8, 8)
    assert (counts[:4, :4] > 80).all() and counts[:4, :4].sum() == 2000


@pytest.mark.parametrize("kind", ["whiten", "channel"])
@pytest.mark.parametrize("augment", [AugmentSpec(), ALL], ids=["plain", "all"])
def test_it_compiles_into_one_graph(augment, kind):
    """What torch.compile fuses on a GPU; a break would leave small operations between the pieces."""
    prepare = Preprocess(28, augment, NormalizeSpec(kind), seed=3, train=True)
    torch._dynamo.reset()
    compiled = torch.compile(prepare, dynamic=False, fullgraph=True, backend="aot_eager")
    large = UINT8.repeat(1, 1, 4, 4)
    for images in (UINT8, large):  # `flip` treats large ones in another way, unless it is compiled
        with torch._dynamo.config.patch(error_on_recompile=images is UINT8):
            for epoch in (torch.tensor(4), torch.tensor(5)):
                torch.testing.assert_close(
                    compiled(images, INDEX, epoch), prepare(images, INDEX, epoch), atol=1e-4, rtol=0
                )


@pytest.mark.gpu
@pytest.mark.parametrize("augment", [AugmentSpec(), ALL, replace(ALL, color_order=None)])
def test_on_the_gpu(augment):
    """Compiled (Philox's 32-bit products in Triton's arithmetic) or not, it gives what a CPU does."""
    device, index, epoch = torch.device("cuda"), INDEX + (1 << 33), torch.tensor(5)
    expected = Preprocess(28, augment, NormalizeSpec(), seed=3, train=True)(UINT8, index, epoch)
    prepare = Preprocess(28, augment, NormalizeSpec(), seed=3, train=True, device=device)
    for do in (prepare, torch.compile(prepare, dynamic=False, fullgraph=True)):
        found = do(UINT8.to(device), index.to(device), epoch.to(device))
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.cpu(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (5, 3, 7, 5), (5, 1, 7, 6), (5, 3, 7, 4), (3, 3, 120, 110)])
def test_a_flip_moves_whole_images_whatever_their_size(shape, dtype):
    images = torch.randint(0, 256, shape).to(dtype).to(memory_format=torch.channels_last)
    mask = torch.arange(shape[0]) % 2 == 1
    for given in (images, images[..., 1:-1, 1:-1]):  # in one piece, and a view of a part
        flipped = flip(given, mask)
        assert flipped.dtype == dtype and flipped.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(flipped[~mask], given[~mask]) and torch.equal(flipped[mask], given[mask].flip(-1))


def test_evaluation_is_not_augmented():
    evaluation = Preprocess(28, ALL, NormalizeSpec("scale"), 0, train=False)(UINT8, INDEX)
    torch.testing.assert_close(evaluation, TF.center_crop(UNIT, [28, 28]))


def test_the_whole_chain_agrees_with_torchvision():
    spec = AugmentSpec(random_crop=True, crop_padding=2, flip=True, rotate=25)
    prepare = Preprocess(28, spec, NormalizeSpec("scale"), seed=1, train=True)
    draws = uniforms(INDEX, augmentation_key(1), 2)
    for i in range(B):
        u = [float(v) for v in draws[i]]
        image = TF.pad(UINT8[i], [2] * 4)
        image = TF.crop(image, int(u[0] * 9), int(u[1] * 9), 28, 28).float() / 255
        image = TF.hflip(image) if u[2] < 0.5 else image
        image = TF.rotate(image, (2 * u[3] - 1) * 25, InterpolationMode.BILINEAR)
        torch.testing.assert_close(prepare(UINT8, INDEX, 2)[i], image, atol=1e-4, rtol=0)


def test_draws_are_uniform():
    draws = uniforms(torch.arange(20_000), augmentation_key(0), 0)
    assert draws.min() >= 0 and draws.max() < 1
    assert (draws.mean(0) - 0.5).abs().max() < 4 * 0.2887 / 20_000**0.5
    counts = torch.bincount((draws[:, 0] * 5).long(), minlength=5)
    assert (counts - 4000).abs().max() < 5 * 57


@pytest.mark.parametrize(
    "spec, words",
    [
        (AugmentSpec(crop_padding=4), "no effect"),
        (AugmentSpec(random_crop=True, crop_padding=-1), "at least 0"),
        (AugmentSpec(rotate=181), "0 to 180"),
        (AugmentSpec(color=True, hue=0.6), "colour circle"),
        (AugmentSpec(color=True, brightness=-1), "0 to 1"),
    ],
)
def test_augment_errors(spec, words):
    with pytest.raises(UserError, match=words):
        spec.validate()


def test_a_random_crop_needs_room():
    with pytest.raises(UserError, match="no room"):
        AugmentSpec(random_crop=True).check_room(32, 32)
    AugmentSpec(random_crop=True).check_room(32, 28)
    AugmentSpec(random_crop=True, crop_padding=4).check_room(32, 32)


@pytest.mark.parametrize(
    "spec, words",
    [
        (NormalizeSpec("white"), "did you mean 'whiten'"),
        (NormalizeSpec("channel", [0.5], [0.5]), "1 and 1 numbers for 3 channels"),
        (NormalizeSpec("channel", std=[1.0, 0.0, 1.0]), "above 0"),
    ],
)
def test_normalize_errors(spec, words):
    with pytest.raises(UserError, match=words):
        spec.validate(3)
