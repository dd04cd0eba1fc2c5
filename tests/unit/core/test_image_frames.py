"""Frames and pieces are counted from the structure alone, in one walk: `docs/faults.md` rows 33 and 34."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.image_errors import ImageRejectedError
from core.image_frames import MAX_EXIF_BYTES, check_frames
from core.image_limits import ImageLimits
from core.images import inspect

FORMATS = ("GIF", "PNG", "WEBP", "MPO")


def animation(form: str, frames: int, **options: Any) -> bytes:
    pictures = [Image.new("RGB", (8, 6), (number * 40 % 256, number % 256, 80)) for number in range(frames)]
    body = io.BytesIO()
    pictures[0].save(body, form, save_all=True, append_images=pictures[1:], **options)
    return body.getvalue()


def refusal(data: bytes, most: int = 1_000) -> ImageRejectedError:
    with pytest.raises(ImageRejectedError) as refused:
        inspect(data, ImageLimits(max_frames=most))
    return refused.value


@pytest.mark.parametrize("form", FORMATS)
def test_an_animation_with_as_many_frames_as_allowed_is_taken_and_one_with_more_is_not(form: str) -> None:
    data = animation(form, 5)
    assert inspect(data, ImageLimits(max_frames=5)).width == 8
    error = refusal(data, 4)
    assert (error.code, error.message) == (
        "too_many_frames",
        "it has more than the 4 frames allowed: send one of them",
    )


def test_frames_are_counted_behind_comments_and_palettes_of_their_own() -> None:
    data = animation("GIF", 6, comment=b"c" * 1_000, optimize=False)
    assert refusal(data, 5).code == "too_many_frames"


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(*chunks: bytes) -> bytes:
    plain = animation("PNG", 1)
    return plain[:33] + b"".join(chunks) + plain[33:]


def test_a_png_s_frames_are_those_that_it_declares_and_those_that_it_has_whichever_is_more() -> None:
    declares = png_with(chunk(b"acTL", struct.pack(">II", 2_000_000_000, 0)))
    has = png_with(chunk(b"acTL", struct.pack(">II", 1, 0)), *[chunk(b"fcTL", bytes(26))] * 11)
    assert refusal(declares).code == "too_many_frames"
    assert refusal(has, 10).code == "too_many_frames"


def mpo_index(count: int, order: str) -> bytes:
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entry = struct.pack(f"{order}HHII", 0xB001, 4, 1, count)
    body = b"MPF\0" + mark + struct.pack(f"{order}IH", 8, 1) + entry
    return b"\xff\xe2" + struct.pack(">H", 2 + len(body)) + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_jpeg_s_pictures_are_those_of_its_index(order: str) -> None:
    plain = jpeg()
    assert refusal(plain[:2] + mpo_index(3_000_000_000, order) + plain[2:]).code == "too_many_frames"


def jpeg() -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (8, 6)).save(body, "JPEG")
    return body.getvalue()


MANY = 400_000
GIF = b"GIF89a" + struct.pack("<HHBBB", 8, 6, 0, 0, 0)
"""The start of one without a palette."""

FLOODS: dict[str, Callable[[], bytes]] = {
    "gif of empty extensions": lambda: GIF + b"\x21\xfe\x00" * MANY,
    "gif comment in blocks of one byte": lambda: GIF + b"\x21\xfe" + b"\x01a" * MANY,
    "gif of rubbish between blocks": lambda: GIF + b"\x01" * 2 * MANY,
    "png of empty chunks": lambda: png_with(chunk(b"teSt") * MANY),
    "png of text": lambda: png_with(chunk(b"tEXt", b"a\0b") * MANY),
    "webp of empty chunks": lambda: webp_with(b"teSt" + bytes(4), MANY),
    "jpeg of empty segments": lambda: b"\xff\xd8" + b"\xff\xe5\x00\x02" * MANY + jpeg()[2:],
    "jpeg of padding": lambda: b"\xff\xd8" + b"\xff" * 2 * MANY + jpeg()[2:],
    "jpeg of rubbish between segments": lambda: jpeg()[:20] + b"\x01" * 2 * MANY + jpeg()[20:],
    "jpeg of restarts": lambda: b"\xff\xd8" + b"\xff\xd0" * 2 * MANY + jpeg()[2:],
    "jpeg of exif": lambda: b"\xff\xd8" + b"\xff\xe1\x00\x0dExif\0\0hello" * MANY + jpeg()[2:],
}


def webp_with(piece: bytes, times: int) -> bytes:
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(10) + piece * times
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("kind", FLOODS)
def test_a_file_of_countless_pieces_is_refused_before_any_reader_walks_them(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = FLOODS[kind]()
    opened: list[object] = []
    monkeypatch.setattr(Image, "open", lambda *arguments, **_: opened.append(arguments))
    assert refusal(data).code == "too_costly"
    assert opened == []


def test_exif_in_many_segments_is_refused_where_a_reader_would_copy_it_again_and_again() -> None:
    segment = b"\xff\xe1\xff\xffExif\0\0" + bytes(0xFFFF - 8)
    plain = jpeg()
    few = plain[:2] + segment * 2 + plain[2:]
    many = plain[:2] + segment * (MAX_EXIF_BYTES // 0xFFFF + 1) + plain[2:]
    assert inspect(few).format == "JPEG"
    assert refusal(many).code == "too_costly"


def test_large_honest_files_are_not_taken_for_floods() -> None:
    noise = Image.effect_noise((1_500, 1_000), 90).convert("RGB")
    for form in ("PNG", "GIF", "JPEG", "WEBP"):
        body = io.BytesIO()
        noise.save(body, form)
        assert inspect(body.getvalue()).width == 1_500


@pytest.mark.parametrize("name", ["PNG", "GIF", "WEBP", "JPEG", "BMP"])
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", jpeg(), animation("GIF", 3), animation("PNG", 3)]))
def test_no_structure_makes_the_walk_raise_anything_else(name: str, data: bytes, start: bytes) -> None:
    try:
        check_frames(name, start + data, ImageLimits())
    except ImageRejectedError as error:
        assert error.code in {"too_many_frames", "too_costly"}
