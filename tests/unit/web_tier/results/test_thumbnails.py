"""Pictures are drawn by us, small, and only of what is safe to draw."""

import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from services.images import ImageLimits
from tests.unit.web_tier.pictures import picture
from web_tier.results.thumbnails import AT_ONCE, NoThumbnailError, Turns, thumbnail

LIMITS = ImageLimits()


def opened(body: bytes) -> Image.Image:
    return Image.open(BytesIO(body))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_kind_of_image_becomes_a_small_webp(form: str) -> None:
    drawn = opened(thumbnail(picture(form, (800, 400)), LIMITS, side=160))
    assert (drawn.format, drawn.size) == ("WEBP", (320, 160))


def test_a_small_image_is_not_enlarged_and_a_long_one_stays_small() -> None:
    assert opened(thumbnail(picture(size=(20, 10)), LIMITS)).size == (20, 10)
    assert opened(thumbnail(picture(size=(3000, 10)), LIMITS)).size[0] == 640


def test_an_image_stands_upright() -> None:
    body, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(body, "JPEG", exif=exif)
    assert opened(thumbnail(body.getvalue(), LIMITS)).size == (20, 40)


def test_what_the_user_hid_in_a_file_is_not_in_its_picture() -> None:
    hidden = b"<script>alert(1)</script>"
    assert hidden not in thumbnail(picture("PNG") + hidden, LIMITS)


def test_a_transparent_image_stays_so() -> None:
    body = BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(body, "PNG")
    assert opened(thumbnail(body.getvalue(), LIMITS)).mode == "RGBA"


@pytest.mark.parametrize("data", [b"", b"text", picture()[:200], picture("PNG")[:40]])
def test_what_is_broken_has_no_picture(data: bytes) -> None:
    with pytest.raises(NoThumbnailError):
        thumbnail(data, LIMITS)


def test_an_image_that_would_take_much_memory_has_no_picture() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(NoThumbnailError, match="5000 x 5000"):
        thumbnail(png, LIMITS)


def test_too_many_who_wait_are_turned_away_at_once() -> None:
    turns = Turns(most=AT_ONCE)
    with turns.one() as first, turns.one() as second, turns.one() as third:
        assert (first, second, third) == (True, True, False)
    with turns.one() as again:
        assert again
