"""Images: which data is accepted, and why other data is rejected."""

import io
import struct
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from core.image_open import PIXEL_MODES, READERS, as_8_bit, inspect, open_image
from core.images import (
    CODES,
    FORMATS,
    MAX_EXIF_BYTES,
    ImageFormat,
    ImageLimits,
    ImageRejectedError,
    check_frames,
    sniff,
)
from tests.support.hostile_images import (
    BOMBS,
    COLOUR,
    FLOODS,
    FOREIGN,
    GREY,
    HEIC,
    HONEST,
    POLYGLOTS,
    QUICK_HEIC,
    STARTS,
    Tags,
    animation,
    box,
    png_chunk,
    png_with,
    tiff_of,
)


def encoded(format_name: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 100 if mode in {"L", "P"} else None).save(buffer, format_name, **options)
    return buffer.getvalue()


def rejection(data: bytes, limits: ImageLimits | None = None) -> ImageRejectedError:
    with pytest.raises(ImageRejectedError) as caught:
        inspect(data, limits or ImageLimits())
    return caught.value


@pytest.mark.parametrize("name", FORMATS)
def test_each_allowed_format_is_known_by_its_content(name: str) -> None:
    info = inspect(encoded(name))
    assert (info.format, info.width, info.height) == (name, 40, 30)
    assert (info.extension, info.content_type) == (FORMATS[name].extension, FORMATS[name].content_type)


def test_every_format_has_a_sample_for_the_tests_of_all_decoders() -> None:
    assert {inspect(make()).format for make in HONEST.values()} == FORMATS.keys()


def test_a_format_needs_a_row_of_the_table_alone_and_its_unusual_pixels_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = ImageFormat(
        "PNM", ("ppm",), "image/x-portable-anymap", (((0, b"P6"),), ((0, b"Pf"),)), "PIL.PpmImagePlugin"
    )
    monkeypatch.setitem(cast("dict[str, ImageFormat]", FORMATS), "PPM", row)
    colour, floats = encoded("PPM"), encoded("PPM", mode="F")
    assert (inspect(colour).extension, inspect(colour).content_type) == ("ppm", "image/x-portable-anymap")
    assert rejection(floats).code == "format_not_allowed"
    assert "pixels of mode F" in rejection(floats).message
    assert "PNM" in rejection(b"text").message


@pytest.mark.parametrize("mode", sorted(PIXEL_MODES - {"PA", "RGBX"}))
def test_accepted_pixels_keep_their_brightness_as_8_bits(mode: str) -> None:
    white = Image.new("RGB", (1, 1), "white")
    image = Image.frombytes(mode, (1, 1), b"\xff\xff") if mode.startswith("I;16") else white.convert(mode)
    assert as_8_bit(image).convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_16_bits_of_grey_keep_their_brightness_as_8_bits(level: int) -> None:
    image = as_8_bit(Image.frombytes("I;16", (1, 1), struct.pack("<H", 256 * level)))
    assert (image.mode, image.getpixel((0, 0))) == ("L", level)


def test_a_phone_photo_with_a_second_picture_in_it_is_a_jpeg() -> None:
    second = Image.new("RGB", (40, 30))
    data = encoded("MPO", save_all=True, append_images=[second])
    assert inspect(data).format == "JPEG"


def test_an_empty_file_is_refused_as_empty() -> None:
    assert rejection(b"").code == "empty"


def test_a_file_with_too_many_bytes_is_refused_with_both_numbers() -> None:
    error = rejection(b"\xff\xd8\xff" + bytes(3_000_000), ImageLimits(max_bytes=2_000_000))
    assert error.code == "too_large"
    assert error.message == "3.0 MB is more than the 2.0 MB allowed: shrink it"


def test_text_called_jpg_is_not_an_image() -> None:
    assert rejection(b"hello, I am a text file").code == "not_an_image"


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
    error = rejection(data)
    assert error.code == "too_many_pixels"
    assert error.message.startswith("16000 x 16000 pixels")


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}, {"quality": 80, "exif": b"Exif\x00\x00"}])
def test_a_webp_of_any_kind_at_the_pixel_limit_is_taken(options: dict[str, Any]) -> None:
    data = encoded("WEBP", (40, 30), **options)
    assert inspect(data, ImageLimits(max_pixels=1200)).width == 40
    assert rejection(data, ImageLimits(max_pixels=1199)).code == "too_many_pixels"


def test_a_webp_of_unknown_kind_is_undecodable() -> None:
    assert rejection(webp_header(b"VP9 ", bytes(10))).code == "undecodable"


def test_a_truncated_webp_is_rejected_with_its_length() -> None:
    data = encoded("WEBP")
    assert (
        rejection(data[:-5]).message
        == f"only {len(data) - 5} of the WebP's {len(data)} bytes are here: send it again"
    )
    assert rejection(data[:18]).code == "truncated"


def test_an_image_without_pixels_is_undecodable() -> None:
    assert rejection(webp_header(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + bytes(4))).code == "undecodable"


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
    st.sampled_from([b"", *STARTS]),
)
def test_inspect_raises_only_rejections_for_any_bytes(data: bytes, start: bytes) -> None:
    try:
        inspect(start + data)
    except ImageRejectedError as error:
        assert error.message


def test_an_image_with_a_script_behind_it_is_the_image() -> None:
    assert inspect(encoded("GIF") + b"<script>alert(1)</script>").content_type == "image/gif"


def test_row_34_no_frame_of_a_gif_has_memory_reserved_when_its_header_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by fuzzing: 89 bytes took 4 GB, since Pillow fills the area between two frames on opening."""

    def reserved(*size: object) -> None:
        raise AssertionError(f"memory was reserved for {size}")

    monkeypatch.setattr("PIL.Image.core.fill", reserved)
    frame = b"\x21\xf9\x04\x08\x00\x00\x00\x00\x2c" + struct.pack("<HHHH", 0, 0, 60_000, 60_000) + b"\x00\x02\x00"
    data = b"GIF89a" + struct.pack("<HH", 9, 5) + b"\x00\x00\x00" + frame + b";"
    assert rejection(data).message.startswith("60000 x 60000 pixels is more than")


ANIMATED = [*(name for name, accepted in FORMATS.items() if accepted.count_frames and name != "JPEG"), "MPO"]


@pytest.mark.parametrize("form", ANIMATED)
def test_an_animation_is_accepted_with_the_allowed_frames_and_rejected_with_more(form: str) -> None:
    data = animation(form, 5)
    assert inspect(data, ImageLimits(max_frames=5)).width == 60
    error = rejection(data, ImageLimits(max_frames=4))
    assert (error.code, error.message) == (
        "too_many_frames",
        "it has more than the 4 frames allowed: send one of them",
    )


def test_frames_are_counted_behind_comments_and_palettes_of_their_own() -> None:
    data = animation("GIF", 6, comment=b"c" * 1_000, optimize=False)
    assert rejection(data, ImageLimits(max_frames=5)).code == "too_many_frames"


def test_a_png_has_the_greater_of_its_declared_and_its_present_frames() -> None:
    declares = png_with(png_chunk(b"acTL", struct.pack(">II", 2_000_000_000, 0)))
    has = png_with(png_chunk(b"acTL", struct.pack(">II", 1, 0)), *[png_chunk(b"fcTL", bytes(26))] * 11)
    assert rejection(declares).code == "too_many_frames"
    assert rejection(has, ImageLimits(max_frames=10)).code == "too_many_frames"


def mpo_index(count: int, order: str) -> bytes:
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entry = struct.pack(f"{order}HHII", 0xB001, 4, 1, count)
    body = b"MPF\0" + mark + struct.pack(f"{order}IH", 8, 1) + entry
    return b"\xff\xe2" + struct.pack(">H", 2 + len(body)) + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_jpeg_has_the_pictures_that_its_index_declares(order: str) -> None:
    plain = encoded("JPEG")
    assert rejection(plain[:2] + mpo_index(3_000_000_000, order) + plain[2:]).code == "too_many_frames"


@pytest.mark.parametrize("kind", FLOODS)
def test_a_file_of_too_many_pieces_is_rejected_before_pillow_opens_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = FLOODS[kind]()
    opened: list[object] = []
    monkeypatch.setattr(Image, "open", lambda *arguments, **_: opened.append(arguments))
    assert rejection(data).code == "too_costly"
    assert opened == []


def test_a_sequence_of_boxes_in_boxes_is_rejected_like_any_other() -> None:
    depth = 5_000
    nested = b"".join(struct.pack(">I4s", 8 * (depth - level), b"trak") for level in range(depth))
    assert rejection(HEIC + box(b"moov", nested)).code == "format_not_allowed"


def test_exif_in_many_segments_is_rejected() -> None:
    segment = b"\xff\xe1\xff\xffExif\0\0" + bytes(0xFFFF - 8)
    plain = encoded("JPEG")
    few = plain[:2] + segment * 2 + plain[2:]
    many = plain[:2] + segment * (MAX_EXIF_BYTES // 0xFFFF + 1) + plain[2:]
    assert inspect(few).format == "JPEG"
    assert rejection(many).code == "too_costly"


@pytest.mark.parametrize("form", FORMATS)
def test_a_large_normal_file_is_not_rejected_as_a_flood(form: str) -> None:
    noise = Image.effect_noise((1_500, 1_000), 90).convert("RGB")
    body = io.BytesIO()
    noise.save(body, form, compress_level=1, method=0, speed=10, quality=50, tile_size=256, enc_params=QUICK_HEIC)
    assert inspect(body.getvalue()).width == 1_500


@pytest.mark.parametrize("name", FORMATS)
@given(
    data=st.binary(max_size=300),
    start=st.sampled_from([b"", encoded("JPEG"), *STARTS, *(animation(form, 3) for form in ANIMATED)]),
)
def test_check_frames_raises_only_rejections_for_any_structure(name: str, data: bytes, start: bytes) -> None:
    try:
        check_frames(name, start + data, ImageLimits())
    except ImageRejectedError as error:
        assert error.code in CODES


@pytest.mark.parametrize("kind", HONEST)
def test_row_33_a_rare_but_honest_image_is_taken(kind: str) -> None:
    assert inspect(HONEST[kind]()).width in {1, 60}


_WORDS = (
    *(("raw", "a camera raw file"), ("dng", "a camera raw file"), ("eps", "EPS"), ("svg", "SVG"), ("ico", "icons")),
    *((video, "a video") for video in ("mp4", "mov", "webm", "avi")),
    *(
        ("m4a", "a sound file"),
        ("gzip", "an archive"),
        ("zip", "a zip"),
        ("tar", "an archive"),
        ("jpeg 2000", "JPEG 2000"),
    ),
    *(("bigtiff", "big-endian BigTIFF"), ("psd", "a Photoshop document")),
)
NAMED = {kind: next((name for word, name in _WORDS if word in kind), kind.upper()) for kind in FOREIGN}
"""What the reason calls each kind of file."""


@pytest.mark.parametrize("kind", FOREIGN)
def test_row_34_a_foreign_format_is_refused_by_its_content_whatever_its_name(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = FOREIGN[kind]()

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a reader saw it")

    monkeypatch.setattr(Image, "open", opened)
    error = rejection(data)
    assert error.code == "format_not_allowed"
    what, _, advice = error.message.partition(": ")
    assert NAMED[kind] in what
    assert advice.split()[0] in {"save", "export", "send", "unpack"}
    assert len(error.message.split()) <= 15


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("start", STARTS)
def test_row_34_a_foreign_format_behind_our_signature_is_opened_by_no_other_reader(
    start: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats: list[object] = []
    honest = Image.open

    def watched(file: object, **options: object) -> Image.Image:
        formats.append(options["formats"])
        return honest(file, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", watched)
    with suppress(ImageRejectedError):  # some are no valid GIF
        inspect(start + FOREIGN[kind]())
    assert formats in ([], *([[READERS.get(name, name)]] for name in FORMATS))


@pytest.mark.parametrize("kind", BOMBS)
def test_row_34_a_bomb_is_refused_and_none_of_its_pixels_is_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size, bomb = BOMBS[kind]
    body = bomb()
    assert len(body) < 300_000

    def loaded(_self: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", loaded)
    error = rejection(body, ImageLimits(max_pixels=3_000_000))
    assert error.code == "too_many_pixels"
    assert error.message == f"{size} pixels is more than the 3 megapixels allowed: shrink it"


@pytest.mark.parametrize("kind", POLYGLOTS)
def test_row_35_a_polyglot_is_the_image_that_it_is_and_nothing_else(kind: str) -> None:
    content_type, data = POLYGLOTS[kind]
    assert inspect(data()).content_type == content_type


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        (GREY | {258: ("H", 12)}, "12-bit grey"),
        (GREY | {258: ("H", 16), 262: ("H", 0)}, "16-bit grey"),
        (GREY | {339: ("H", 2)}, "signed"),
        (GREY | {258: ("H", 32), 339: ("H", 3)}, "floating-point"),
        (GREY | {258: ("H", 32)}, "mode I"),
        (GREY | {258: ("H", 7)}, "pixels of (7,) bits"),
        (COLOUR | {258: ("H", 16, 16, 16), 284: ("H", 2)}, "separate planes"),
        (COLOUR | {262: ("H", 6)}, "subsampled"),
        (COLOUR | {262: ("H", 8)}, "mode LAB"),
        (COLOUR | {259: ("H", 34712)}, "compression 34712"),
    ],
)
def test_tiff_pixels_that_pillow_would_give_a_wrong_brightness_are_rejected(tags: Tags, what: str) -> None:
    error = rejection(tiff_of(tags, (bytes(60 * 40 * 6),)))
    assert error.code == "format_not_allowed"
    assert what in error.message


def test_inverted_8_bit_grey_of_a_tiff_keeps_its_brightness() -> None:
    with open_image(tiff_of(GREY | {262: ("H", 0)}, (bytes(2_400),))) as image:
        assert image.convert("RGB").getpixel((3, 3)) == (255, 255, 255)


def test_a_tiff_whose_pages_form_a_ring_has_these_pages() -> None:
    data = bytearray(tiff_of(GREY, (bytes(2_400),)))
    entries = int.from_bytes(data[8:10], "little")
    data[10 + 12 * entries : 14 + 12 * entries] = (8).to_bytes(4, "little")
    assert inspect(bytes(data)).width == 60


def test_a_compressed_tiff_without_its_last_bytes_is_truncated_when_it_is_sent() -> None:
    data = encoded("TIFF", compression="tiff_lzw")
    assert rejection(data[:-20]).code == "truncated"
    far = tiff_of(COLOUR | {259: ("H", 5), 273: ("I", 10_000), 279: ("I", 50)})
    assert rejection(far).message == (
        f"the TIFF ends after {len(far)} bytes, before the picture is complete: send it again"
    )


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_no_c_library_sees_a_heic_or_avif_before_its_pixels_are_needed(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("a C library saw it")

    monkeypatch.setattr("core.libheif.decode", opened)
    monkeypatch.setattr("PIL.AvifImagePlugin.AvifImageFile.__init__", opened)
    assert inspect(HONEST["heic" if form == "HEIF" else "avif"]()).format == form


@pytest.mark.parametrize(
    ("brand", "more", "format_name"),
    [
        *((brand, b"", "HEIF") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
        *((brand, b"mif1miafavif", "AVIF") for brand in (b"avif", b"avis", b"mif1", b"msf1")),
    ],
)
def test_the_brands_of_a_file_tell_heic_and_avif_apart(brand: bytes, more: bytes, format_name: str) -> None:
    assert sniff(box(b"ftyp", brand, bytes(4), more)) == format_name


def test_a_heic_with_more_pixels_than_its_header_says_is_not_decoded() -> None:
    data = encoded("HEIF", (320, 240)).replace(struct.pack(">II", 320, 240), struct.pack(">II", 32, 24))
    with open_image(data) as image, pytest.raises(ValueError, match=r"limit|ispe|size"):
        image.load()


def test_the_size_that_is_decoded_counts_not_the_size_of_the_crop() -> None:
    data = HONEST["heic"]()
    assert inspect(data, ImageLimits(max_pixels=64 * 64)).width == 60
    assert rejection(data, ImageLimits(max_pixels=64 * 64 - 1)).code == "too_many_pixels"


def test_tiles_and_thumbnails_are_no_pictures_of_their_own() -> None:
    for kind in (
        "heic of tiles",
        "heic with a thumbnail",
        "heic with alpha",
        "heic with metadata",
        "avif with alpha",
    ):
        assert inspect(HONEST[kind](), ImageLimits(max_frames=1)).width == 60


def test_a_sequence_without_a_still_picture_is_not_called_damaged() -> None:
    error = rejection(HONEST["animated avif"]().replace(b"meta", b"free", 1))
    assert (error.code, "a sequence alone" in error.message) == ("format_not_allowed", True)


def test_a_heic_that_holds_another_kind_of_picture_is_rejected() -> None:
    error = rejection(HONEST["heic"]().replace(b"hvc1", b"unci"))
    assert (error.code, "a picture of kind unci" in error.message) == ("format_not_allowed", True)


def test_pillow_fills_in_no_missing_data_and_has_no_second_pixel_limit() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS is None
    with pytest.raises(ImageRejectedError), open_image(HONEST["bmp"](), ImageLimits(max_pixels=60 * 40 - 1)):
        pass
