"""Each kind of image file: its pixels as an independent decoder or the written numbers have them, or one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines.baked.bake import BakeSpec, bake
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec
from pipelines.sources.decoding import decode

RNG = np.random.default_rng(0)
H, W = 11, 16
RAMP = (np.arange(H * W, dtype=np.int64) * 65535 // (H * W - 1)).reshape(H, W)  # every range is used to both its ends
GRAY = (RAMP // 257).astype(np.uint8)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (H, W), dtype=np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(48) * a, np.arange(64) * b) for a, b in ((2, 1), (1, 2), (3, 0))], -1)
SMOOTH = SMOOTH.astype(np.uint8)


def saved(image, kind, **options):
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, kind, **options)
    return out.getvalue()


def png(samples, bits, color):
    """A PNG of samples (H, W) or (H, W, channels), of 8 or 16 bits."""
    rows = samples.astype(f">u{bits // 8}").reshape(len(samples), -1)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, color, 0, 0, 0)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def tiff(data, bits, photometric=1, kind=1, channels=1, order="<", extra=()):
    """An uncompressed TIFF of H x W. kind: 1 unsigned, 2 signed, 3 floating-point. extra: of the fourth channel."""
    tags = [(256, W), (257, H), (258, bits), (259, 1), (262, photometric), (273, 8), (277, channels), (278, H)]
    tags += [(279, len(data)), *((338, value) for value in extra), (339, kind)]
    if channels > 1:
        tags = [(tag, value) for tag, value in tags if tag not in (258, 339)]
    ends = 8 + len(data)
    listed = [struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags]
    if channels > 1:  # the bits of each channel lie behind the list
        behind = ends + 2 + 12 * (len(listed) + 1) + 4
        listed.insert(2, struct.pack(order + "HHII", 258, 3, channels, behind))
    mark = b"II*\0" if order == "<" else b"MM\0*"
    more = struct.pack(order + f"{channels}H", *[bits] * channels)
    return (
        mark + struct.pack(order + "I", ends) + data + struct.pack(order + "H", len(listed)) + b"".join(listed)
        + bytes(4) + more
    )  # fmt: skip


def twelve_bits(values):
    pairs = values.reshape(-1, 2)
    a, b = pairs[:, 0], pairs[:, 1]
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()


def gray(values):
    return np.repeat(np.round(values).astype(np.int64)[..., None], 3, axis=2)


def from_cmyk(cmyk):
    """Ink on white paper, 255 the most."""
    inks = cmyk.astype(np.float64) / 255
    return 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])


PALETTE = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
INDICES = Image.fromarray(GRAY, "L").copy()
INDICES.putpalette(PALETTE.tobytes())
CMYK = np.concatenate([SMOOTH, SMOOTH[..., :1] // 3], 2)
OPAQUE = np.dstack([RGB, ALPHA])
PREMULTIPLIED = np.dstack([RGB.astype(int) * 200 // 255, np.full((H, W), 200)]).astype(np.uint8)

# name: (file, pixels, largest difference)
READ = {
    "16-bit gray PNG": (png(RAMP, 16, 0), gray(RAMP / 257), 0),
    "16-bit gray PNG of Pillow": (saved(RAMP.astype(np.uint16), "PNG"), gray(RAMP / 257), 0),
    "16-bit RGB PNG": (png(np.dstack([RAMP] * 3), 16, 2), gray(RAMP / 257), 1),
    "16-bit gray and alpha PNG": (png(np.dstack([RAMP, RAMP[::-1]]), 16, 4), gray(RAMP / 257), 1),
    "16-bit gray TIFF": (tiff(RAMP.astype("<u2").tobytes(), 16), gray(RAMP / 257), 0),
    "16-bit gray TIFF, big-endian": (tiff(RAMP.astype(">u2").tobytes(), 16, order=">"), gray(RAMP / 257), 0),
    "16-bit gray TIFF, white is 0": (tiff(RAMP.astype("<u2").tobytes(), 16, 0), gray(255 - RAMP / 257), 0),
    "8-bit gray TIFF, white is 0": (tiff(GRAY.tobytes(), 8, 0), gray(255 - GRAY), 0),
    "12-bit gray TIFF": (tiff(twelve_bits(RAMP >> 4), 12), gray((RAMP >> 4) * 255 / 4095), 0),
    "16-bit PGM": (b"P5 %d %d 65535\n" % (W, H) + RAMP.astype(">u2").tobytes(), gray(RAMP / 257), 0),
    "PGM up to 1000": (b"P5 %d %d 1000\n" % (W, H) + (RAMP // 66).astype(">u2").tobytes(), gray(RAMP // 66 * .255), 1),
    "gray PNG": (saved(GRAY, "PNG"), gray(GRAY), 0),
    "gray and alpha PNG": (png(np.dstack([GRAY, ALPHA]), 8, 4), gray(GRAY), 0),
    "1-bit PNG": (saved(Image.fromarray(GRAY > 99), "PNG"), gray((GRAY > 99) * 255), 0),
    "1-bit TIFF, white is 0": (tiff(np.packbits(GRAY > 99, axis=1).tobytes(), 1, 0), gray((GRAY <= 99) * 255), 0),
    "RGB with alpha PNG": (png(OPAQUE, 8, 6), RGB, 0),
    "RGB with alpha WebP": (saved(OPAQUE, "WEBP", lossless=True, exact=True), RGB, 0),
    "palette PNG": (saved(INDICES, "PNG"), PALETTE[GRAY], 0),
    "palette PNG with transparency": (saved(INDICES, "PNG", transparency=bytes(range(256))), PALETTE[GRAY], 0),
    "palette GIF with transparency": (saved(INDICES, "GIF", transparency=3), PALETTE[GRAY], 0),
    "gray PNG, one value transparent": (saved(GRAY, "PNG", transparency=7), gray(GRAY), 0),
    "premultiplied TIFF": (tiff(PREMULTIPLIED.tobytes(), 8, 2, channels=4, extra=(1,)), RGB, 2),
    "CMYK JPEG of Adobe": (saved(Image.fromarray(CMYK, "CMYK"), "JPEG", quality=100), from_cmyk(CMYK), 6),
    "CMYK TIFF": (saved(Image.fromarray(CMYK, "CMYK"), "TIFF"), from_cmyk(CMYK), 1),
    "YCbCr TIFF": (saved(Image.fromarray(SMOOTH).convert("YCbCr"), "TIFF"), SMOOTH, 2),
    "JPEG in TIFF": (saved(SMOOTH, "TIFF", compression="jpeg", quality=100), SMOOTH, 12),
    "LZW TIFF": (saved(RGB, "TIFF", compression="tiff_lzw"), RGB, 0),
    "RGB JPEG": (saved(SMOOTH, "JPEG", quality=100, subsampling=0), SMOOTH, 4),
    "progressive JPEG": (saved(SMOOTH, "JPEG", quality=100, subsampling=0, progressive=True), SMOOTH, 4),
    "JPEG that stores RGB": (saved(SMOOTH, "JPEG", quality=100, keep_rgb=True), SMOOTH, 4),
    "BMP": (saved(RGB, "BMP"), RGB, 0),
    "JPEG 2000": (saved(RGB, "JPEG2000"), RGB, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_pixels_of_each_kind(name, recwarn):
    file, expected, bound = READ[name]
    image = decode(file, "x").image
    assert image.mode == "RGB" and not recwarn.list
    assert np.abs(np.asarray(image).astype(float) - expected).max() <= bound + 0.5


@pytest.mark.parametrize("name", READ)
def test_opencv_sees_the_same(name):
    cv2 = pytest.importorskip("cv2")
    file, expected, bound = READ[name]
    other = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if other is None:
        pytest.skip("OpenCV does not read it")
    print(np.abs(other.astype(float)-expected).max())
    assert np.abs(np.asarray(decode(file, "x").image).astype(int) - other).max() <= bound + 1
