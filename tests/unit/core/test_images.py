"""What is taken for an image, and what is refused with which words."""

import pickle
import struct
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.image_errors import ImageRejectedError
from core.image_limits import ImageLimits
from core.images import inspect

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


def encoded(format_name: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: Any) -> bytes:
    buffer = BytesIO()
    Image.new(mode, size, 100 if mode in {"L", "P"} else None).save(buffer, format_name, **options)
    return buffer.getvalue()


def refusal(data: bytes, limits: ImageLimits | None = None) -> ImageRejectedError:
    with pytest.raises(ImageRejectedError) as caught:
        inspect(data, limits or ImageLimits())
    return caught.value


@pytest.mark.parametrize("name", FORMATS)
def test_each_allowed_format_is_known_by_its_content(name: str) -> None:
    info = inspect(encoded(name))
    assert (info.format, info.width, info.height) == (name, 40, 30)
    assert (info.extension, info.content_type) == (FORMATS[name], f"image/{name.lower()}")


def test_a_phone_photo_with_a_second_picture_in_it_is_a_jpeg() -> None:
    second = Image.new("RGB", (40, 30))
    data = encoded("MPO", save_all=True, append_images=[second])
    assert inspect(data).format == "JPEG"


def test_an_empty_file_is_refused_as_empty() -> None:
    assert refusal(b"").code == "empty"


def test_a_file_with_too_many_bytes_is_refused_with_both_numbers() -> None:
    error = refusal(b"\xff\xd8\xff" + bytes(3_000_000), ImageLimits(max_bytes=2_000_000))
    assert error.code == "too_large"
    assert error.message == "3.0 MB is more than the 2.0 MB allowed: shrink it"


def test_text_called_jpg_is_not_an_image() -> None:
    assert refusal(b"hello, I am a text file").code == "not_an_image"


FOREIGN = {
    "tiff": encoded("TIFF"),
    "big-endian tiff": b"MM\x00*" + bytes(20),
    "eps": encoded("EPS"),
    "pdf": encoded("PDF"),
    "psd": b"8BPS\x00\x01" + bytes(30),
    "fits": b"SIMPLE  =                    T" + bytes(60),
    "jpeg 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(30),
    "avif": b"\x00\x00\x00 ftypavif" + bytes(30),
    "svg": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "ico": encoded("ICO"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_formats_are_refused_by_name_with_a_remedy(kind: str) -> None:
    error = refusal(FOREIGN[kind])
    assert error.code == "format_not_allowed"
    assert "JPEG or PNG" in error.message or "export it as PNG" in error.message


def bomb_png(width: int, height: int) -> bytes:
    """A PNG whose header alone is large: it holds no pixels at all."""
    header = encoded("PNG", (1, 1))
    ihdr = struct.pack(">II", width, height) + header[24:29]
    import zlib

    return (
        header[:8]
        + struct.pack(">I", 13)
        + b"IHDR"
        + ihdr
        + struct.pack(">I", zlib.crc32(b"IHDR" + ihdr))
        + header[33:]
    )


def test_a_bomb_is_refused_from_its_header_in_the_owners_words() -> None:
    error = refusal(bomb_png(20_000, 20_000))
    assert error.code == "too_many_pixels"
    assert error.message == "20000 x 20000 pixels is more than the 50 megapixels allowed: shrink it"


def webp_header(chunk: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBP" + chunk + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "data",
    [
        webp_header(b"VP8X", bytes(4) + (15_999).to_bytes(3, "little") * 2),
        webp_header(b"VP8L", b"\x2f" + (15_999 | 15_999 << 14).to_bytes(4, "little") + bytes(5)),
        webp_header(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 16_000, 16_000)),
    ],
    ids=["extended", "lossless", "lossy"],
)
def test_a_webp_bomb_is_refused_before_its_canvas_is_reserved(data: bytes) -> None:
    error = refusal(data)
    assert error.code == "too_many_pixels"
    assert error.message.startswith("16000 x 16000 pixels")


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}, {"quality": 80, "exif": b"Exif\x00\x00"}])
def test_a_webp_of_any_kind_at_the_pixel_limit_is_taken(options: dict[str, Any]) -> None:
    data = encoded("WEBP", (40, 30), **options)
    assert inspect(data, ImageLimits(max_pixels=1200)).width == 40
    assert refusal(data, ImageLimits(max_pixels=1199)).code == "too_many_pixels"


def test_a_webp_of_unknown_kind_is_undecodable() -> None:
    assert refusal(webp_header(b"VP9 ", bytes(10))).code == "undecodable"


def test_a_webp_that_ends_early_says_how_far_it_got() -> None:
    data = encoded("WEBP")
    assert (
        refusal(data[:-5]).message == f"only {len(data) - 5} of the WebP's {len(data)} bytes are here: send it again"
    )
    assert refusal(data[:18]).code == "truncated"


def test_an_image_without_pixels_is_undecodable() -> None:
    assert refusal(webp_header(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + bytes(4))).code == "undecodable"


@pytest.mark.parametrize("name", FORMATS)
@given(length=st.integers(min_value=0, max_value=60))
def test_a_header_that_ends_early_is_refused_and_never_crashes(name: str, length: int) -> None:
    try:
        inspect(encoded(name)[:length])
    except ImageRejectedError as error:
        assert error.code in {"empty", "not_an_image", "truncated", "undecodable"}
        assert ": " in error.message


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF1234WEBP"]),
)
def test_no_bytes_make_it_raise_anything_else(data: bytes, start: bytes) -> None:
    try:
        inspect(start + data)
    except ImageRejectedError as error:
        assert error.message


def test_a_polyglot_is_what_its_pixels_are() -> None:
    assert inspect(encoded("GIF") + b"<script>alert(1)</script>").content_type == "image/gif"


def test_a_refusal_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageRejectedError("empty", "the file is empty: send it again")))  # noqa: S301 - made on this line
    assert (error.code, error.message) == ("empty", "the file is empty: send it again")


def test_row_34_no_frame_of_a_gif_has_memory_reserved_when_its_header_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by fuzzing: 89 bytes took 4 GB, since Pillow fills what stands between two frames on opening."""

    def reserved(*size: object) -> None:
        raise AssertionError(f"memory was reserved for {size}")

    monkeypatch.setattr("PIL.Image.core.fill", reserved)
    frame = b"\x21\xf9\x04\x08\x00\x00\x00\x00\x2c" + struct.pack("<HHHH", 0, 0, 60_000, 60_000) + b"\x00\x02\x00"
    data = b"GIF89a" + struct.pack("<HH", 9, 5) + b"\x00\x00\x00" + frame + b";"
    assert refusal(data).message.startswith("60000 x 60000 pixels is more than")
