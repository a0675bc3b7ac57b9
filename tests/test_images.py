"""Each kind of image file: its pixels as an independent decoder or the written numbers have them, or one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec
from pipelines.sources.decoding import decode, read_image

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
    return bytes_png(samples.shape[1], samples.shape[0], bits, color, b"".join(b"\0" + row.tobytes() for row in rows))


def bytes_png(width, height, bits=8, color=0, raw=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
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
INDICES = Image.fromarray(GRAY)
INDICES.putpalette(PALETTE.tobytes())
CMYK = np.concatenate([SMOOTH, SMOOTH[..., :1] // 3], 2)
INKS = Image.frombytes("CMYK", (64, 48), CMYK.tobytes())
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
    "CMYK JPEG of Adobe": (saved(INKS, "JPEG", quality=100), from_cmyk(CMYK), 6),
    "CMYK TIFF": (saved(INKS, "TIFF"), from_cmyk(CMYK), 1),
    "YCbCr TIFF": (saved(Image.fromarray(SMOOTH).convert("YCbCr"), "TIFF"), SMOOTH, 3),
    "JPEG in TIFF": (saved(SMOOTH, "TIFF", compression="jpeg", quality=100), SMOOTH, 12),
    "LZW TIFF": (saved(RGB, "TIFF", compression="tiff_lzw"), RGB, 0),
    "RGB JPEG": (saved(SMOOTH, "JPEG", quality=100, subsampling=0), SMOOTH, 4),
    "progressive JPEG": (saved(SMOOTH, "JPEG", quality=100, subsampling=0, progressive=True), SMOOTH, 4),
    "JPEG that stores RGB": (saved(SMOOTH, "JPEG", quality=100, keep_rgb=True), SMOOTH, 4),
    "BMP": (saved(RGB, "BMP"), RGB, 0),
    "JPEG 2000": (saved(RGB, "JPEG2000"), RGB, 0),
    "16-bit gray JPEG 2000": (saved(RAMP.astype(np.uint16), "JPEG2000"), gray(RAMP / 257), 0),
    "JPEG with a second picture": (saved(SMOOTH, "MPO", save_all=True, append_images=[INKS.convert("RGB")]), SMOOTH, 6),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_pixels_of_each_kind(name, recwarn):
    file, expected, bound = READ[name]
    image = decode(file, "x")
    assert image.mode == "RGB" and not recwarn.list
    assert np.abs(np.asarray(image).astype(float) - expected).max() <= bound + 0.5


# OpenCV does not stretch a range that the file itself states, and leaves premultiplied colours darkened.
@pytest.mark.parametrize("name", sorted({*READ} - {"PGM up to 1000", "premultiplied TIFF"}))
def test_opencv_sees_the_same(name):
    cv2 = pytest.importorskip("cv2")
    file, _, bound = READ[name]
    other = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)
    if other is None:
        pytest.skip("OpenCV does not read it")
    assert np.abs(np.asarray(decode(file, "x")).astype(int) - other).max() <= bound + 1


LOSSY = saved(SMOOTH, "JPEG", quality=95)
FLOATS = tiff(RNG.random((H, W)).astype("<f4").tobytes(), 32, kind=3)
UNKNOWN = "does not begin as JPEG, PNG, .* do"


def promising(file, old, new, layout):
    """A file whose header has other numbers than its pixels."""
    assert file.count(struct.pack(layout, *old)) == 1
    return file.replace(struct.pack(layout, *old), struct.pack(layout, *new))


REFUSED = {
    "float TIFF": (FLOATS, "floating-point"),
    "32-bit TIFF": (tiff(RAMP.astype("<u4").tobytes(), 32), "32-bit or signed"),
    "signed 16-bit TIFF": (tiff(RAMP.astype("<i4").astype("<i2").tobytes(), 16, kind=2), "32-bit or signed"),
    "PFM": (b"Pf\n2 1\n-1.0\n" + np.ones(2, "<f4").tobytes(), "floating-point"),
    "Lab TIFF": (saved(Image.new("LAB", (4, 4)), "TIFF"), "LAB"),
    "Radiance HDR": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n\x80\x80\x80\x81", UNKNOWN),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", UNKNOWN),
    "arithmetic JPEG": (LOSSY.replace(b"\xff\xc0", b"\xff\xc9"), "coded arithmetically"),
    "lossless JPEG": (LOSSY.replace(b"\xff\xc0", b"\xff\xc3"), "coded arithmetically or without loss"),
    "12-bit JPEG": (LOSSY.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c"), "does not begin as"),
    "no bytes": (b"", UNKNOWN),
    "text": (b"not an image", UNKNOWN),
    "a JPEG's first bytes": (LOSSY[:3], "no end marker"),
    "JPEG without a scan": (LOSSY[: LOSSY.index(b"\xff\xda")] + b"\xff\xd9", "some of its scans are missing"),
    "no pixels": (b"P6 0 0 255\n", ""),
    "no width": (bytes_png(0, 1), ""),
    "gigapixel PNG": (bytes_png(1 << 16, 1 << 16), "limit of"),
    "gigapixel JPEG": (promising(LOSSY, (48, 64), (65500, 65500), ">HH"), "limit of"),
    "gigapixel TIFF": (promising(tiff(b"", 8), (257, 4, 1, H), (257, 4, 1, 2**31), "<HHII"), "limit of"),
    "gigapixel BMP": (promising(saved(RGB, "BMP"), (W, H), (60000, 60000), "<II"), "limit of"),
    "JPEG of too many rows": (promising(LOSSY, (48, 64), (65535, 64), ">HH"), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name):
    file, words = REFUSED[name]
    with pytest.raises(UserError, match=f"the file: cannot be decoded .*{words}.*Replace, ") as error:
        decode(file, "the file")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind, options", [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_of_several_images_the_first_is_taken_and_it_is_said(kind, options):
    frames = [Image.fromarray(np.full((H, W, 3), value, np.uint8)) for value in (10, 200)]
    file = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match=f"of {kind} files with several images, the first is taken"):
        image = decode(file, "x")
    assert (np.asarray(image) == 10).all()


UPRIGHT = {  # the stored image's rows and columns by orientation, as EXIF defines them
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: a[::-1].swapaxes(0, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}  # fmt: skip


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_turned_upright(kind, orientation):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    file = saved(SMOOTH, kind, exif=exif(orientation), **options)
    stored = decode(saved(SMOOTH, kind, **options), "x")
    decoded = read_image(file, "x")
    assert np.array_equal(np.asarray(decoded.image), UPRIGHT[orientation](np.asarray(stored)))
    assert decoded.plain_jpeg == (kind == "JPEG" and orientation == 1)


@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\0\0\0", exif(9).tobytes(), exif(0).tobytes()]
)
def test_damaged_exif_turns_nothing(block):
    decoded = read_image(saved(SMOOTH, "JPEG", exif=block), "x")
    assert decoded.image.size == (64, 48) and decoded.plain_jpeg


JPEGS = {
    "": {}, "gray": {"mode": "L"}, "CMYK": {"mode": "CMYK"}, "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0}, "with restarts": {"restart_marker_blocks": 3}, "optimized": {"optimize": True},
    "progressive gray": {"mode": "L", "progressive": True}, "tiny": {"size": (9, 9)},
    "tiny gray": {"size": (8, 8), "mode": "L"}, "one pixel": {"size": (1, 1)}, "large": {"size": (640, 480)},
    "large with restarts": {"size": (640, 480), "restart_marker_rows": 1},
    "large gray": {"size": (640, 480), "mode": "L"},
}  # fmt: skip


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_ends_early_is_noticed(name):
    """Wherever the end marker comes: the rest would be grey, or blurred, and Pillow says nothing."""
    options = dict(JPEGS[name])
    mode, size = options.pop("mode", "RGB"), options.pop("size", (64, 48))
    pixels = np.asarray(Image.fromarray(SMOOTH).resize(size))
    photograph = Image.fromarray(pixels ^ RNG.integers(0, 16, pixels.shape, dtype=np.uint8)).convert(mode)
    whole = saved(photograph, "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB"))
    assert np.array_equal(np.asarray(decode(whole, "x")), expected)
    begin, passed = whole.index(b"\xff\xda"), 0
    begin += 2 + int.from_bytes(whole[begin + 2 : begin + 4])
    cuts = range(begin, len(whole) - 2)
    for cut in cuts if len(cuts) < 2000 else [*cuts[:: len(cuts) // 50], *cuts[-80:]]:
        if whole[cut - 1] == 255:
            continue  # would make another marker
        # As a broken download that was closed, and as a stray marker, which in a table would be none.
        for behind in (b"", b"" if "progressive" in name else whole[cut:]):
            try:
                got = np.asarray(decode(whole[:cut] + b"\xff\xd9" + behind, "x"))
            except UserError as error:
                assert "cannot be decoded (" in str(error)
                continue
            different = np.argwhere((got != expected).any(axis=2))
            passed += len(different) > 0
            assert (different >= (size[1] - 24, size[0] - 24)).all()
    # In a larger one of a single scan, what is lacking may be the end of the last blocks.
    assert passed <= (20 if min(size) >= 48 and "progressive" not in name else 0)


@pytest.mark.parametrize("pixels", [SMOOTH, np.full((48, 64, 3), 128, np.uint8)])
@pytest.mark.parametrize("behind", [b"", b"\0", b"more\xff\xd9", b"more" * 2000 + b"\xff\xd9", LOSSY])
def test_what_follows_a_whole_jpeg_is_passed_over(pixels, behind):
    whole = saved(np.tile(pixels, (8, 8, 1)), "JPEG", exif=exif(1), comment=b"\xff\xd9 and \xff\xda")
    decoded = read_image(whole + behind, "x")
    assert decoded.plain_jpeg and np.array_equal(np.asarray(decoded.image), np.asarray(Image.open(io.BytesIO(whole))))


def test_a_progressive_jpeg_without_its_last_scans_is_noticed():
    whole = saved(SMOOTH, "JPEG", progressive=True)
    begins = [i for i in range(len(whole) - 1) if whole[i : i + 2] == b"\xff\xda"]
    assert len(begins) > 4
    for begin in begins[1:]:
        with pytest.raises(UserError, match="ends early: some of its scans are missing"):
            decode(whole[:begin] + b"\xff\xd9", "x")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "PPM", "TIFF", "JPEG2000", "GIF"])
def test_every_truncation_is_an_error(kind):
    file = saved(Image.fromarray(SMOOTH), kind)
    for length in range(0, len(file) - 16, 7):
        with pytest.raises(UserError, match="x: cannot be decoded"):
            decode(file[:length], "x")


def test_every_changed_byte_of_a_png_is_noticed():
    file = saved(SMOOTH, "PNG")
    for at in range(len(file)):
        with pytest.raises(UserError, match="x: cannot be decoded"):
            decode(file[:at] + bytes([file[at] ^ 4]) + file[at + 1 :], "x")


def folder_with(tmp_path, name, file):
    (tmp_path / "set" / "class").mkdir(parents=True)
    (tmp_path / "set" / "class" / "0.png").write_bytes(saved(RGB, "PNG"))
    (tmp_path / "set" / "class" / name).write_bytes(file)
    return SourceSpec("imagefolder", str(tmp_path / "set"))


def wide(width, height=1, kind="PNG"):
    return saved(Image.new("RGB", (width, height), (9, 99, 199)), kind)


@pytest.mark.parametrize(
    "file, spec, words",
    [
        (wide(65_536), BakeSpec(), "65,536 x 1 pixels, and a side has 65,535 at most.*Set bake.resolution"),
        (wide(1, 65_536), BakeSpec("jpeg"), "1 x 65,536 pixels, and a side has 65,500 at most.*Set bake.resolution"),
        (wide(65_501), BakeSpec("jpeg"), "65,501 x 1 pixels, and a side has 65,500 at most"),
        (wide(2000, 2000), BakeSpec(), "2,000 x 2,000 pixels take 12,000,000 bytes, more than a page.*bake.resolution"),
        (wide(65_500, 2740), BakeSpec(), "limit of .* pixels"),
        (LOSSY[:-200] + b"\xff\xd9", BakeSpec("jpeg"), "cannot be decoded .*truncated"),
        (LOSSY[:-200] + b"\xff\xd9", BakeSpec(), "cannot be decoded .*truncated"),
        (LOSSY[:-200] + b"\xff\xd9", BakeSpec(resolution=8, square=True), "cannot be decoded .*truncated"),
        (FLOATS, BakeSpec(), "cannot be decoded .*floating-point"),
    ],
)
def test_what_cannot_be_baked_is_named_and_leaves_nothing(file, spec, words, tmp_path):
    source = folder_with(tmp_path, "bad.png", file)
    with pytest.raises(UserError, match=f"class/bad.png: .*{words}") as error:
        bake(source, LabelSpec(), PixelSpec(), spec, tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and path.name != "baked"]


@pytest.mark.parametrize(
    "file, spec", [(wide(65_535), BakeSpec()), (wide(65_500), BakeSpec("jpeg")), (wide(70_000), BakeSpec(resolution=9))]
)
def test_the_largest_sides_are_baked(file, spec, tmp_path):
    baked = bake(folder_with(tmp_path, "1.png", file), LabelSpec(), PixelSpec(), spec, tmp_path / "cache")
    row = int(np.flatnonzero(baked.splits["train"].columns["index"] == 1)[0])
    assert np.abs(baked.splits["train"].image(row).astype(int) - (9, 99, 199)).max() <= 3


@pytest.mark.parametrize(
    "file, kept",
    [
        (LOSSY, True),
        (saved(SMOOTH[..., 0], "JPEG"), True),
        (saved(SMOOTH, "JPEG", progressive=True), True),
        (saved(SMOOTH, "JPEG", exif=exif(1)), True),
        (saved(SMOOTH, "JPEG", exif=exif(6)), False),
        (saved(SMOOTH, "JPEG", keep_rgb=True), False),
        (saved(INKS, "JPEG"), False),
    ],
)
def test_an_original_is_kept_where_every_decoder_shows_the_same(file, kept, tmp_path):
    """So that no backend shows it turned and another does not."""
    spec = BakeSpec("jpeg", quality=95)
    baked = bake(folder_with(tmp_path, "1.jpg", file), LabelSpec(), PixelSpec(), spec, tmp_path / "cache")
    train = baked.splits["train"]
    row = int(np.flatnonzero(train.columns["index"] == 1)[0])
    begin = int(train.ptr[row])
    stored = train.data[begin : begin + int(train.sizes[row])].tobytes()
    assert (stored == file) == kept
    assert np.abs(np.asarray(decode(file, "x")).astype(int) - train.image(row)).mean() < 3
    assert Image.open(io.BytesIO(stored)).getexif().get(0x0112, 1) == 1
