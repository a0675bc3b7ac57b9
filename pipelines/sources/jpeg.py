"""JPEG files, opened so that one which lacks a part of its picture is noticed.

Where coded pixels run out, libjpeg paints grey and gives a warning, which Pillow passes over: a file whose end marker
comes early, as a broken download leaves it, is half grey without a word.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageFile

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not what lies among coded pixels: stuffed zeros, restarts
_END, _SCAN, _ADOBE = 0xD9, 0xDA, b"Adobe"
_BARE = {0x01, 0xD8}  # markers without a segment
_NO_FRAME = {0xC4, 0xC8, 0xCC}  # of 0xC0 to 0xCF: tables
_HUFFMAN = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive: what the decoders of all backends read
_PROGRESSIVE = 0xC2
# What libjpeg reads ahead (8 bytes). No code is all ones, so this makes up for three codes of the last block at most.
_ONES = b"\xff\x00" * 8
# Where coded pixels lack, these become pixels that show; behind the last one they are passed over. libjpeg goes on with
# zeros, so these begin with ones.
_NOISE = b"\xf7\xbe" + bytes(37 * i * i % 251 for i in range(256))
_LAST_BLOCKS = 4096  # bytes, more than those of one pixel can take: ten blocks, of which none takes more than 400
_SMALL = 32 * 32  # pixels, of which a last block is no small part


def load_jpeg(encoded: bytes) -> tuple[Image.Image, bool]:
    """The decoded image, and whether its file stores YCbCr or gray, which every decoder turns into the same RGB.

    Raises ValueError or OSError where the file lacks a part of the picture, or is coded as few decoders can read.
    """
    layout = _Layout.of(encoded, first_scan_alone=True)
    image = _load_quickly(encoded) if layout.is_one_scan() and layout.pixels > _SMALL else None
    if image is None:
        layout = _Layout.of(encoded)
        image = _load_carefully(encoded, layout)
    return image, image.format == "JPEG" and image.mode in ("RGB", "L") and not layout.stores_rgb()


def _load_quickly(encoded: bytes) -> Image.Image | None:
    """The image of a file of one scan; None where its end must be looked for. Raises OSError where pixels lack."""
    end = encoded.rfind(bytes((0xFF, _END)))
    if _MARKER.search(encoded, max(0, end - _LAST_BLOCKS), max(0, end)):
        return None
    image = _load_one_scan(encoded, end)
    # If a marker came earlier, all behind it is grey, the last pixel too. To search the whole file would take longer.
    last: Any = image.getpixel((image.width - 1, image.height - 1))
    grey = all(abs(value - 128) <= 2 for value in (last if isinstance(last, tuple) else (last,)))
    return None if grey else image


def _load_carefully(encoded: bytes, layout: "_Layout") -> Image.Image:
    if layout.frame not in _HUFFMAN:
        raise ValueError("it is coded arithmetically or without loss, which few decoders read")
    if not layout.every_pixel_is_coded():
        raise ValueError("it ends early: some of its scans are missing")
    if len(layout.scans) == 1 and layout.pixels > _SMALL:
        return _load_one_scan(encoded, layout.scans[0].end)
    # Of several scans libjpeg shows nothing before the end marker: decode again, with noise behind each scan.
    image = _open(encoded)
    if image.tobytes() != _open(layout.with_noise(encoded)).tobytes():
        raise ValueError("it ends early: coded pixels run out, and the rest would be grey or blurred")
    return image


def _load_one_scan(encoded: bytes, end: int) -> Image.Image:
    """The image of a file whose coded pixels end at byte `end`.

    Without an end marker libjpeg paints no grey: it waits for more, and Pillow calls the file truncated (an OSError).
    """
    image = _open(encoded)
    pieces = _pieces(encoded, end)
    image.load_read = lambda size: next(pieces, b"")  # type: ignore[attr-defined]  # as a file of these would
    image.load()
    return image


def _pieces(encoded: bytes, end: int) -> Iterator[bytes]:
    """The file up to its end marker, without a copy of it all."""
    for begin in range(0, end, ImageFile.MAXBLOCK):
        yield encoded[begin : min(begin + ImageFile.MAXBLOCK, end)]
    yield _ONES


def _open(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded), formats=("JPEG",))


@dataclass
class _Scan:
    """components: their ids. band: of coefficients. low: the lowest bit that is coded. end: the byte behind it."""

    components: bytes
    band: range
    low: int
    end: int = 0


@dataclass
class _Layout:
    """frame: the SOF marker. pixels: width x height. components: their ids. transform: Adobe's, if said."""

    frame: int = 0
    pixels: int = 0
    components: bytes = b""
    transform: int | None = None
    scans: list[_Scan] = field(default_factory=list)

    @classmethod
    def of(cls, encoded: bytes, first_scan_alone: bool = False) -> "_Layout":
        """first_scan_alone: what stands before its coded pixels. Raises ValueError for a file without an end marker."""
        layout, position = cls(), 2
        while found := _MARKER.search(encoded, position):
            if layout.scans and not layout.scans[-1].end:
                layout.scans[-1].end = found.start()
            marker, begin = found[0][1], found.end()
            if marker == _END:
                return layout
            length = 0 if marker in _BARE else int.from_bytes(encoded[begin : begin + 2])
            layout._add(marker, encoded[begin + 2 : begin + length])
            if layout.scans and first_scan_alone:
                return layout
            position = begin + length
        raise ValueError("it is truncated: it has no end marker")

    def _add(self, marker: int, segment: bytes) -> None:
        if marker == _SCAN:
            n = segment[0]
            first, last, bits = segment[1 + 2 * n : 4 + 2 * n]
            if self.frame != _PROGRESSIVE:  # others code all at once, whatever stands here
                first, last, bits = 0, 63, 0
            self.scans.append(_Scan(segment[1 : 1 + 2 * n : 2], range(first, last + 1), bits & 15))
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            self.frame, self.components = marker, segment[6::3]
            self.pixels = int.from_bytes(segment[1:3]) * int.from_bytes(segment[3:5])
        elif marker == 0xEE and segment.startswith(_ADOBE) and len(segment) >= 12:
            self.transform = segment[11]

    def is_one_scan(self) -> bool:
        """Whether the first scan is the only one."""
        scan_has_all = bool(self.scans) and self.scans[0].components == self.components
        return scan_has_all and self.frame in _HUFFMAN - {_PROGRESSIVE}

    def every_pixel_is_coded(self) -> bool:
        """Whether some scan has each coefficient of each component, down to its last bit."""
        coded = {
            component: set().union(*(s.band for s in self.scans if s.low == 0 and component in s.components))
            for component in self.components
        }
        return bool(coded) and all(len(bands) == 64 for bands in coded.values())

    def stores_rgb(self) -> bool:
        return len(self.components) == 3 and (self.transform == 0 or self.components == b"RGB")

    def with_noise(self, encoded: bytes) -> bytes:
        begins = [0, *(scan.end for scan in self.scans)]
        return _NOISE.join(encoded[a:b] for a, b in zip(begins, [*begins[1:], len(encoded)], strict=True))
