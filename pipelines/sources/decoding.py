"""Image files to RGB pixels: each kind rightly, or refused with the file's name (docs/images.md has the table)."""

import functools
import io
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pipelines.errors import Note, UserError
from pipelines.sources.jpeg import load_jpeg

_FORMATS = ("PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF", "JPEG2000", "AVIF")  # others than JPEG, as Pillow names them
_RGB_BY_WAY_OF = {"1": "L", "P": "RGBA", "PA": "RGBA", "LA": "L", "La": "LA", "RGBa": "RGBA"}
_RGB_AT_ONCE = {"L", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_TURNS = {  # by the EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF
# Of odd tags, as in the EXIF blocks of a few ImageNet photographs, which are none the worse for them.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")


@dataclass(frozen=True)
class Decoded:
    """image: RGB, upright. plain_jpeg: whether the file is a JPEG that every decoder turns into this image. turned:
    whether its EXIF orientation turned it."""

    image: Image.Image
    plain_jpeg: bool = False
    turned: bool = False


def decode(encoded: bytes, name: str) -> Image.Image:
    """An image file's picture: RGB, whole, upright. Raises UserError as `read_image` does."""
    return read_image(encoded, name).image


def read_image(encoded: bytes, name: str) -> Decoded:
    """An image file's picture, whole. Raises UserError naming a file that is damaged or of a kind that is not read."""
    try:
        if encoded.startswith(b"\xff\xd8\xff"):
            image, plain = load_jpeg(encoded)
        else:
            image, plain = _load(encoded), False
        if 0 in image.size:
            raise ValueError("it has no pixels")
        turn = _TURNS.get(_orientation(image))
        rgb = _rgb(image)
        return Decoded(rgb, plain) if turn is None else Decoded(rgb.transpose(turn), turned=True)
    except Exception as error:  # of a damaged file, Pillow raises whatever its parsing comes upon
        what = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # says where in memory the file is
            what = f"it does not begin as JPEG, {', '.join(_formats())} do"
        raise UserError(
            f"{name}: cannot be decoded ({what}); nothing was baked. Replace, convert, reduce or remove it"
        ) from error


def _load(encoded: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(encoded), formats=_formats())
    if getattr(image, "is_animated", False):
        warnings.warn(f"of {image.format} files with several images, the first is taken", Note, stacklevel=2)
    if image.format == "PNG":
        _check_png(encoded)
    image.load()
    return image


def _check_png(encoded: bytes) -> None:
    """Compares each chunk with its checksum, which Pillow does not do for pixels unless it reads the file twice."""
    begin = 8
    while begin < len(encoded):
        data = begin + 8
        end = data + int.from_bytes(encoded[begin : begin + 4])
        if zlib.crc32(encoded[begin + 4 : end]) != int.from_bytes(encoded[end : end + 4]):
            raise ValueError(f"its part at byte {begin:,} is damaged")
        if encoded[begin + 4 : data] == b"IEND":
            break
        begin = end + 4


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with. No others are tried: it would run Ghostscript on PostScript, for one."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits, without transparency: the colours as stored, as OpenCV and torchvision show them."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_16_bits(image)
    image.info.pop("transparency", None)  # else Pillow would turn pixels of one colour transparent, or warn of it
    if image.mode in _RGB_BY_WAY_OF:
        image = image.convert(_RGB_BY_WAY_OF[image.mode])
    if image.mode not in _RGB_AT_ONCE:
        kind = {"F": "floating-point numbers", "I": "32-bit or signed integers"}.get(image.mode, image.mode)
        raise ValueError(f"its pixels are {kind}, of no known range; convert it to 8 bits a channel")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Gray of up to 16 bits, the whole range scaled to 0..255 and rounded."""
    tags = getattr(image, "tag_v2", {})
    highest = 2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1
    gray = (np.asarray(image).astype(np.int64) * 255 + highest // 2) // highest
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        gray = 255 - gray  # Pillow does so for 8 bits, not for 16
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block, as above
        return 1
