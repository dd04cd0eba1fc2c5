"""Thumbnails are small, have only pixels of the file, and are drawn only if that is cheap enough."""

import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image, JpegImagePlugin

from core.images import FORMATS, ImageLimits, ImageRejectedError
from tests.support.hostile_images import (
    HONEST,
    POLYGLOTS,
    SCRIPT,
    SECRETS,
    WITHOUT_EXIF,
    WITHOUT_METADATA,
    with_metadata,
)
from tests.support.jobs import picture
from web_tier.results.drawing import draw
from web_tier.results.thumbnails import TILE

LIMITS = ImageLimits()


def drawn(data: bytes, side: int = TILE) -> Image.Image:
    return Image.open(BytesIO(draw(data, LIMITS, side)))


@pytest.mark.parametrize("form", FORMATS)
def test_every_kind_of_image_becomes_a_small_jpeg(form: str) -> None:
    small = drawn(picture(form, (800, 400)), side=160)
    assert (small.format, small.size) == ("JPEG", (320, 160))


def test_a_small_image_is_not_enlarged_and_a_long_one_stays_small() -> None:
    assert drawn(picture(size=(20, 10))).size == (20, 10)
    assert drawn(picture(size=(3000, 10))).size[0] == 640


@pytest.mark.parametrize("kind", [kind for kind in HONEST if "16-bit" in kind])
def test_16_bits_keep_their_brightness(kind: str) -> None:
    level = drawn(HONEST[kind]()).convert("L").getpixel((20, 20))
    assert level == pytest.approx(40_000 / 256, abs=3)


@pytest.mark.parametrize("form", sorted(FORMATS.keys() - WITHOUT_EXIF))
def test_a_thumbnail_is_upright(form: str) -> None:
    body, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(body, form, exif=exif.tobytes())
    assert drawn(body.getvalue()).size == (20, 40)


@pytest.mark.parametrize("form", sorted(FORMATS.keys() - WITHOUT_METADATA))
def test_a_thumbnail_has_only_pixels_of_the_file(form: str) -> None:
    data = with_metadata(form)
    assert any(secret in data for secret in SECRETS)
    body = draw(data, LIMITS, TILE)
    assert not [secret for secret in SECRETS if secret in body]
    assert markers(body) <= {"SOI", "APP0", "DQT", "SOF0", "DHT", "SOS"}
    assert body[6:11] == b"JFIF\0"  # of APP0, which has the pixels' density


@pytest.mark.parametrize("kind", ["png with metadata", "webp with metadata"])
def test_a_transparent_thumbnail_has_only_pixels_and_transparency(kind: str) -> None:
    body = BytesIO()
    image = Image.open(BytesIO(HONEST[kind]())).convert("RGBA")
    image.putalpha(128)
    image.save(body, "PNG", icc_profile=b"acsp" * 40)
    assert chunks(draw(body.getvalue(), LIMITS, TILE)) in ([b"VP8X", b"ALPH", b"VP8 "], [b"VP8 "], [b"VP8L"])


def markers(jpeg: bytes) -> set[str]:
    """Return the kinds of segments in a JPEG before its pixels."""
    found, place = {"SOI"}, 2
    while "SOS" not in found:
        found.add(JpegImagePlugin.MARKER[int.from_bytes(jpeg[place : place + 2])][0])
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4])
    return found


def chunks(webp: bytes) -> list[bytes]:
    """Return the kinds of chunks in a WebP, in order."""
    found, place = [], 12
    while place < len(webp):
        kind, size = struct.unpack_from("<4sI", webp, place)
        found.append(kind)
        place += 8 + size + size % 2
    return found


@pytest.mark.parametrize("kind", POLYGLOTS)
def test_row_35_content_hidden_in_a_file_is_not_in_its_thumbnail(kind: str) -> None:
    assert SCRIPT not in draw(POLYGLOTS[kind][1](), LIMITS, TILE)


def test_an_image_with_nothing_transparent_in_it_becomes_a_jpeg() -> None:
    body = BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 255)).save(body, "PNG")
    assert drawn(body.getvalue()).format == "JPEG"


def test_a_transparent_image_stays_transparent() -> None:
    body = BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(body, "PNG")
    assert drawn(body.getvalue()).mode == "RGBA"


def test_an_image_that_would_need_much_memory_has_no_thumbnail() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(ImageRejectedError, match="5000 x 5000"):
        draw(png, LIMITS, TILE)
