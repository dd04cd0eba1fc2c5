"""Images: which data is accepted, and why other data is rejected."""

import io
import struct
import zlib
from contextlib import nullcontext, suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, ImageOps

from core.image_containers import (
    FRAME_COUNTS,
    MAX_PARSED_SEGMENTS,
    check_frames,
    has_all_scans,
    png_picture,
    webp_size,
)
from core.image_open import PIXEL_MODES, as_8_bit, ends_early, inspect, lacks_memory, open_image
from core.images import (
    CODES,
    FORMATS,
    RAW_REASON,
    ImageFormat,
    ImageLimits,
    ImageRejectedError,
    format_names,
    sniff,
    thumbnail_type,
)
from core.thumbnails import as_rgb, orientation_of, turned
from tests.support.hostile_images import (
    BESIDE_A_PICTURE,
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
    WITHOUT_EXIF,
    Tags,
    animation,
    bmp_of,
    box,
    png_chunk,
    png_with,
    tiff_of,
)
from tests.support.hostile_images import encoded as honest_encoded


def encoded(format_name: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 100 if mode in {"L", "P"} else None).save(buffer, format_name, **options)
    return buffer.getvalue()


def width_of(data: bytes, limits: ImageLimits | None = None) -> int:
    with open_image(data, limits or ImageLimits()) as image:
        return image.width


def rejection(data: bytes, limits: ImageLimits | None = None) -> ImageRejectedError:
    with pytest.raises(ImageRejectedError) as caught:
        inspect(data, limits or ImageLimits())
    return caught.value


@pytest.mark.parametrize("name", FORMATS)
def test_each_allowed_format_is_known_by_its_content(name: str) -> None:
    data = encoded(name)
    with open_image(data) as image:
        assert (sniff(data), image.size) == (name, (40, 30))


def test_every_format_has_a_sample_for_the_tests_of_all_decoders() -> None:
    assert {sniff(make()) for make in HONEST.values()} == FORMATS.keys()


def test_a_format_needs_a_row_of_the_table_alone_and_its_unusual_pixels_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = ImageFormat(
        "PNM", ("ppm",), "image/x-portable-anymap", (((0, b"P6"),), ((0, b"Pf"),)), "PIL.PpmImagePlugin"
    )
    monkeypatch.setitem(cast("dict[str, ImageFormat]", FORMATS), "PPM", row)
    colour, floats = encoded("PPM"), encoded("PPM", mode="F")
    assert (inspect(colour), FORMATS[sniff(colour)]) == (b"", row)
    assert rejection(floats).code == "format_not_allowed"
    assert "pixels of mode F" in rejection(floats).message
    assert "PNM" in rejection(b"text").message


@pytest.mark.parametrize("mode", sorted(PIXEL_MODES - {"PA", "RGBX"}))
def test_accepted_pixels_keep_their_brightness_as_8_bits(mode: str) -> None:
    white = Image.new("RGB", (1, 1), "white")
    image = Image.frombytes(mode, (1, 1), b"\xff\xff") if mode.startswith("I;16") else white.convert(mode)
    assert as_8_bit(image).convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize(
    ("brightest", "bits"), [(65_535, 16), (4_096, 16), (4_095, 12), (1_024, 12), (1_023, 10), (255, 8)]
)
def test_16_bits_of_grey_keep_the_brightness_of_the_bits_that_they_use(level: int, brightest: int, bits: int) -> None:
    used = min(level << bits - 8, brightest)
    image = as_8_bit(Image.frombytes("I;16", (2, 1), struct.pack("<HH", used, brightest)))
    assert (image.mode, image.getpixel((0, 0))) == ("L", used >> bits - 8)


def test_a_file_with_too_many_bytes_is_refused_with_both_numbers() -> None:
    error = rejection(b"\xff\xd8\xff" + bytes(3_000_000), ImageLimits(max_bytes=2_000_000))
    assert error.code == "too_large"
    assert error.message == "3.0 MB is more than the 2.0 MB allowed: shrink it"


def test_text_is_looked_at_as_far_as_its_first_kilobyte() -> None:
    assert rejection(b" " * 1_020 + b"<SVG").message == "this is an SVG drawing: export it as PNG"
    assert rejection(b" " * 1_021 + b"<SVG").code == "not_an_image"


def webp_header(chunk: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBP" + chunk + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}, {"quality": 80, "exif": b"Exif\x00\x00"}])
def test_a_webp_of_any_kind_at_the_pixel_limit_is_taken(options: dict[str, Any]) -> None:
    data = encoded("WEBP", (40, 30), **options)
    assert width_of(data, ImageLimits(max_pixels=1200)) == 40
    assert rejection(data, ImageLimits(max_pixels=1199)).code == "too_many_pixels"


@given(st.integers(1, 2**14), st.integers(1, 2**14), st.integers(0, 15), st.binary(max_size=3))
def test_the_size_of_a_webp_of_any_kind_is_read_whatever_its_flags(
    width: int, height: int, flags: int, after: bytes
) -> None:
    extended = bytes([flags]) * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    lossless = b"\x2f" + (width - 1 | height - 1 << 14 | flags << 28).to_bytes(4, "little") + bytes([flags]) * 5
    scale = flags << 14 & 0xC000
    lossy = bytes([flags]) * 3 + b"\x9d\x01\x2a" + struct.pack("<HH", width % 2**14 | scale, height % 2**14 | scale)
    assert webp_size(webp_header(b"VP8X", extended + after)) == (width, height)
    assert webp_size(webp_header(b"VP8L", lossless + after)) == (width, height)
    assert webp_size(webp_header(b"VP8 ", lossy + after)) == (width % 2**14, height % 2**14)
    with pytest.raises(ImageRejectedError, match="the WebP ends after 29 bytes, within its header: send it again"):
        webp_size(webp_header(b"VP8X", extended[:9]))


def test_a_truncated_webp_is_rejected_with_its_length() -> None:
    data = encoded("WEBP")
    assert (
        rejection(data[:-5]).message
        == f"only {len(data) - 5} of the WebP's {len(data)} bytes are here: send it again"
    )


DAMAGED = "the {}'s header is damaged or cut short ({} bytes in all): save it again as JPEG or PNG"
UNUSUAL = "HEIC images with {} are not supported: save it as JPEG or PNG"
REASONS: list[tuple[str, str, bytes]] = [
    ("empty", "the file is empty: send it again", b""),
    ("not_an_image", f"this is not an image: send {format_names('or')}", b"hello, I am a text file"),
    ("undecodable", "it has no pixels (0 x 1): save it again", webp_header(b"VP8 ", bytes(6) + b"\0\0\1\0")),
    ("undecodable", "it has no pixels (1 x 0): save it again", webp_header(b"VP8 ", bytes(6) + b"\1\0\0\0")),
    ("undecodable", DAMAGED.format("WebP", 30), webp_header(b"VP9 ", bytes(10))),
    ("undecodable", DAMAGED.format("BMP", 32), b"BM" + bytes(30)),
    ("undecodable", DAMAGED.format("HEIC", len(HEIC)), HEIC),
    ("undecodable", DAMAGED.format("HEIC", 12), b"\0\0\0\4ftypheic"),
    ("truncated", "the PNG ends after 20 bytes, within its header: send it again", encoded("PNG")[:20]),
    ("truncated", "only 32 of the HEIC's 33 bytes are here: send it again", HEIC + b"\0\0\0\x09meta"),
    ("format_not_allowed", UNUSUAL.format("a sequence alone"), HEIC + box(b"moov")),
    (
        "format_not_allowed",
        UNUSUAL.format("a picture of kind hv\ufffd1"),
        HONEST["heic"]().replace(b"hvc1", b"hv\xff1"),
    ),
]


@pytest.mark.parametrize(("code", "message", "data"), REASONS)
def test_a_reason_says_what_is_wrong_and_what_to_do(code: str, message: str, data: bytes) -> None:
    error = rejection(data)
    assert (error.code, error.message, str(error)) == (code, message, message)


@pytest.mark.parametrize(
    ("error", "is_early"),
    [
        (EOFError(), True),
        (OSError("Truncated File Read"), True),
        (SyntaxError("unexpected END of file"), True),
        (ValueError("premature ending"), True),
        (OSError("cannot identify image file"), False),
    ],
)
def test_a_decoder_reports_missing_data_in_its_words(error: Exception, is_early: bool) -> None:
    assert ends_early(error) is is_early


def test_a_webp_that_fails_for_lack_of_memory_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not lacks_memory(0)
    assert lacks_memory(2**50)
    damaged = webp_header(b"VP8X", bytes(10))
    assert rejection(damaged).code == "undecodable"
    monkeypatch.setattr("core.image_open.lacks_memory", lambda pixels: pixels == 1)
    with pytest.raises(MemoryError):
        inspect(damaged)
    assert rejection(encoded("PNG")[:20]).code == "truncated"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\0\1\2\3WEBPVP8 ", "image/webp"),
        (b"RIFF\0\1\2\3AVI ", None),
        (b"RIFX\0\1\2\3WEBP", None),
        (b"\xff\xd8", None),
        (b"\x89PNG\r\n\x1a\n", None),
    ],
)
def test_only_jpeg_and_webp_are_thumbnails(data: bytes, media_type: str | None) -> None:
    assert thumbnail_type(data) == media_type


@pytest.mark.parametrize("name", FORMATS)
def test_a_header_that_ends_early_is_refused_and_never_crashes(name: str) -> None:
    data = encoded(name)
    for length in range(61):
        try:
            inspect(data[:length])
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


ANIMATED = ["AVIF", "GIF", "PNG", "TIFF", "WEBP"]


@pytest.mark.parametrize("form", ANIMATED)
def test_an_animation_is_accepted_with_the_allowed_frames_and_rejected_with_more(form: str) -> None:
    data = animation(form, 5)
    assert width_of(data, ImageLimits(max_frames=5)) == 60
    error = rejection(data, ImageLimits(max_frames=4))
    assert (error.code, error.message) == (
        "too_many_frames",
        "it has more than the 4 frames allowed: send one of them",
    )


@pytest.mark.parametrize("kind", FLOODS)
def test_a_file_of_too_many_pieces_is_rejected_before_pillow_opens_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = FLOODS[kind]()

    def opened(*_: object) -> None:
        raise AssertionError("a reader saw it")

    monkeypatch.setattr(ImageFile.ImageFile, "__init__", opened)
    assert rejection(data).code == "too_costly"


def shown(data: bytes) -> Image.Image:
    """Return an image upright, as RGBA without metadata."""
    with open_image(data) as image:
        image.load()
        upright = turned(as_rgb(image), orientation_of(image)).convert("RGBA")
        return Image.frombytes("RGBA", upright.size, upright.tobytes())


@pytest.mark.parametrize("what", BESIDE_A_PICTURE)
def test_a_png_shows_its_picture_and_nothing_beside_it_is_inflated(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inflated(*_: object) -> None:
        raise AssertionError("a text or a profile was read")

    monkeypatch.setattr("PIL.PngImagePlugin.zlib.decompressobj", inflated)
    plain = png_with()
    for data in (png_with(BESIDE_A_PICTURE[what]), plain[:-12] + BESIDE_A_PICTURE[what] + plain[-12:]):
        assert shown(data) == shown(plain)
        assert len(png_picture(data)) == len(plain)


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "TIFF", "AVIF"])
def test_xmp_turns_no_picture(name: str) -> None:
    xmp = b"<x:xmpmeta xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation=\"6\"/>"
    turned_by_xmp = honest_encoded(name, **({"tiffinfo": {700: xmp}} if name == "TIFF" else {"xmp": xmp}))
    assert xmp in turned_by_xmp
    assert shown(turned_by_xmp) == shown(honest_encoded(name))


def test_a_png_with_something_else_than_a_chunk_before_its_picture_is_damaged() -> None:
    error = rejection(png_with(png_chunk(b"a\0bc", b"")))
    assert (error.code, error.message.split("(")[0]) == ("undecodable", "the PNG's header is damaged or cut short ")


def test_the_exif_of_a_png_turns_it_on_either_side_of_its_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk, plain = png_chunk(b"eXIf", exif.tobytes()[6:]), png_with()
    for data in (png_with(chunk), plain[:-12] + chunk + plain[-12:]):
        assert shown(data) == shown(plain).transpose(Image.Transpose.ROTATE_270)


_WAYS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"restart_marker_blocks": 2},
    {"progressive": True, "restart_marker_blocks": 2},
    {"mode": "CMYK"},
    {"mode": "L"},
    {"quality": 100, "subsampling": 0},
]


@pytest.mark.parametrize("way", _WAYS, ids=str)
def test_a_jpeg_lacks_its_end_mark_and_nothing_else_or_is_truncated(way: dict[str, Any]) -> None:
    data = honest_encoded("JPEG", **way)
    whole = shown(data)
    taken = []
    for length in range(data.index(b"\xff\xda") + 20, len(data)):
        try:
            assert shown(data[:length]) == whole
            taken.append(length - len(data))
        except OSError as error:
            assert ends_early(error), error
    assert taken == [-2, -1]
    for end in (bytes(2), bytes(60_000), b"\xff"):
        assert shown(data[:-2] + end) == whole


def test_a_jpeg_of_scans_for_each_colour_is_whole_with_the_last_one() -> None:
    """Only a JPEG of one scan, or a progressive one, is usual: here are three, without their data."""
    frame = b"\xff\xd8\xff\xc0\0\x11\x08\0\x28\0\x3c\3\1\x11\0\2\x11\0\3\x11\0"
    scans = [b"\xff\xda\0\x08\1" + bytes([component]) + b"\0\0\x3f\0ab\xff\0c" for component in (1, 2, 3)]
    assert has_all_scans(frame + b"".join(scans))
    assert not has_all_scans(frame + scans[0] + scans[1])
    assert not has_all_scans(frame + scans[0] + scans[1] + scans[2][:9])
    assert not has_all_scans(frame + scans[0] + scans[1] + scans[2].replace(b"\x3f\0", b"\x3f\1"))
    assert not has_all_scans(frame + scans[0] + scans[1] + scans[2].replace(b"\x3f\0", b"\x3e\0"))


def test_a_png_lacks_its_end_and_no_pixel_or_is_truncated() -> None:
    data = honest_encoded("PNG")
    whole = shown(data)
    for length in range(34, len(data)):
        try:
            assert shown(data[:length]) == whole
        except (OSError, ImageRejectedError):
            assert length < len(data) - 16


def png_of(bits: int, colour: int, row: bytes, clear: bytes) -> bytes:
    """Return a PNG of one row with a transparent colour."""
    width = 8 * len(row) // bits // (3 if colour == 2 else 1)
    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


@pytest.mark.parametrize(
    ("bits", "colour", "row", "clear"),
    [
        (1, 0, b"\x40", (1,)),
        (2, 0, b"\x1b", (1,)),
        (4, 0, b"\x79\x86", (9,)),
        (8, 0, b"\x07\x09\x08", (9,)),
        (16, 0, b"\x07\x09\x07\x08\xff\x08\x09\x07\x08\x08", (0x0708,)),
        (8, 2, b"\x07\x09\x08\x07\x09\x09", (7, 9, 9)),
        (16, 2, b"\x07\1\x09\2\x08\4" + b"\x07\1\x09\2\x08\3" + b"\x07\2\x09\2\x08\3", (0x0701, 0x0902, 0x0803)),
    ],
)
def test_the_transparent_colour_of_a_png_is_that_of_all_its_bits(
    bits: int, colour: int, row: bytes, clear: tuple[int, ...]
) -> None:
    alpha = shown(png_of(bits, colour, row, struct.pack(f">{len(clear)}H", *clear))).getchannel("A")
    assert (alpha.getpixel((1, 0)), list(alpha.tobytes()).count(0)) == (0, 1)


def test_the_canvas_around_the_first_frame_of_a_gif_is_transparent() -> None:
    """As libvips and browsers show it; Pillow gives it the first colour of the palette."""
    frame = b"," + struct.pack("<HHHHB", 1, 1, 1, 1, 0) + b"\2\2\x44\1\0"
    gif = b"GIF89a" + struct.pack("<HHBBB", 3, 2, 0x80, 0, 0) + b"\1\2\3\4\5\6" + frame + b";"
    image = shown(gif)
    assert image.getchannel("A").tobytes() == bytes([0, 0, 0, 0, 255, 0])
    assert image.getpixel((1, 1)) == (1, 2, 3, 255)


@pytest.mark.parametrize(
    ("bits", "masks", "pixel", "expected"),
    [
        (16, (0x7C00, 0x3E0, 0x1F), 31 << 5 | 16, (0, 255, 131, 255)),
        (16, (0xF800, 0x7E0, 0x1F), 63 << 5 | 16, (0, 255, 131, 255)),
        (32, (0xFF0000, 0xFF00, 0xFF), 0x80030201, (3, 2, 1, 255)),
        (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 0x80030201, (3, 2, 1, 128)),
    ],
)
def test_a_bmp_with_masks_of_colours_has_the_colours_that_they_say(
    bits: int, masks: tuple[int, ...], pixel: int, expected: tuple[int, ...]
) -> None:
    row = struct.pack("<2I" if bits == 32 else "<2H", pixel, 0)
    assert shown(bmp_of(bits, row, (2, 1), masks=masks)).getpixel((0, 0)) == expected


def test_a_jpeg_of_12_bits_is_named() -> None:
    data = encoded("JPEG")
    at = data.index(b"\xff\xc0") + 4
    error = rejection(data[:at] + b"\x0c" + data[at + 1 :])
    assert (error.code, error.message) == (
        "format_not_allowed",
        "JPEG images with pixels of this kind are not supported: save it as JPEG or PNG",
    )


@pytest.mark.parametrize(
    ("bits", "compression", "masks"),
    [(24, 4, ()), (0, 5, ()), (1, 3, ()), (64, 0, ()), (2, 0, ()), (16, 3, (0xF00, 0xF0, 0xF)), (32, 6, ())],
)
def test_a_bmp_of_a_rare_kind_is_not_supported(bits: int, compression: int, masks: tuple[int, ...]) -> None:
    error = rejection(bmp_of(bits, bytes(9_600), compression=compression, masks=masks))
    assert (error.code, error.message) == (
        "format_not_allowed",
        "BMP images with pixels of this kind are not supported: save it as JPEG or PNG",
    )


@pytest.mark.parametrize("start", [b"iTXtkey\0\0\0\0\0", b"iTXtkey", b"tEXtkey\0"])
def test_a_png_may_have_many_texts_that_are_not_compressed(start: bytes) -> None:
    inspect(png_with(png_chunk(start[:4], start[4:].ljust(1_000)) * 1_000))


def test_a_sequence_of_boxes_in_boxes_is_rejected_like_any_other() -> None:
    depth = 5_000
    nested = b"".join(struct.pack(">I4s", 8 * (depth - level), b"trak") for level in range(depth))
    assert rejection(HEIC + box(b"moov", nested)).code == "format_not_allowed"


@pytest.mark.parametrize(
    ("marker", "begin"),
    [(0xE1, b"Exif\0\0"), (0xED, b"Photoshop 3.0\0"), (0xDB, bytes(65))],
    ids=["EXIF", "Photoshop", "tables"],
)
def test_a_jpeg_has_at_most_sixteen_segments_that_a_reader_parses(marker: int, begin: bytes) -> None:
    plain, segment = encoded("JPEG"), bytes((0xFF, marker)) + struct.pack(">H", 2 + len(begin)) + begin
    others = plain.count(segment[:2])
    inspect(plain[:2] + segment * (MAX_PARSED_SEGMENTS - others) + plain[2:])
    error = rejection(plain[:2] + segment * (MAX_PARSED_SEGMENTS - others + 1) + plain[2:])
    assert error.code == "too_costly"
    assert "more than 16 segments of EXIF, Photoshop data or tables: save it again" in error.message


def test_each_128_bytes_allow_one_piece_more_than_20000(monkeypatch: pytest.MonkeyPatch) -> None:
    data, pieces = bytes(10 * 128 + 127), [0] * 20_011  # the first piece needs no bytes
    monkeypatch.setitem(cast("dict[str, object]", FRAME_COUNTS), "PNG", lambda _: iter(pieces))
    check_frames("PNG", data, ImageLimits())
    pieces.append(0)
    with pytest.raises(
        ImageRejectedError, match=r"^the PNG is cut into more than 20010 pieces: save it again as JPEG or PNG$"
    ):
        check_frames("PNG", data, ImageLimits())


@pytest.mark.parametrize("form", FORMATS)
def test_a_large_normal_file_is_not_rejected_as_a_flood(form: str) -> None:
    noise = Image.effect_noise((1_500, 1_000), 90).convert("RGB")
    body = io.BytesIO()
    tiles = {"tile_size": 256} if form == "HEIF" else {}
    noise.save(body, form, compress_level=1, method=0, speed=10, quality=50, enc_params=QUICK_HEIC, **tiles)
    assert width_of(body.getvalue()) == 1_500


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
    assert width_of(HONEST[kind]()) in {1, 40, 60}


_WORDS = (
    *(("raw", "a camera raw file"), ("dng", "a camera raw file"), ("eps", "EPS"), ("svg", "SVG"), ("ico", "icons")),
    *((video, "a video") for video in ("mp4", "mov", "webm", "avi")),
    *(
        ("m4a", "a sound file"),
        ("gzip", "an archive"),
        ("zip", "a zip"),
        ("tar", "an archive"),
    ),
    *(("bigtiff", "big-endian BigTIFF"), ("psd", "a Photoshop document"), ("lfs", "a Git LFS pointer")),
)
NAMED = {
    kind: next((name for word, name in _WORDS if word in kind), kind.partition(" without")[0].upper())
    for kind in FOREIGN
}
"""What the reason calls each kind of file."""


@pytest.mark.parametrize("kind", FOREIGN)
def test_row_34_a_foreign_format_is_refused_by_its_content_whatever_its_name(kind: str) -> None:
    error = rejection(FOREIGN[kind]())
    assert error.code == "format_not_allowed"
    what, _, advice = error.message.partition(": ")
    assert NAMED[kind] in what
    assert advice.split()[0] in {"save", "export", "send", "unpack", "run"}
    assert len(error.message.split()) <= 15


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("start", STARTS)
def test_row_34_a_foreign_format_behind_our_signature_is_opened_by_no_other_reader(start: bytes, kind: str) -> None:
    with suppress(ImageRejectedError), open_image(start + FOREIGN[kind]()) as image:
        assert image.format == sniff(start)


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
    content_type, make = POLYGLOTS[kind]
    data = make()
    assert (inspect(data), FORMATS[sniff(data)].content_type) == (b"", content_type)


def tiff(tags: Tags, strips: tuple[bytes, ...] = (bytes(60 * 40 * 6),)) -> bytes:
    """Return a TIFF of these tags; one without a value is missing."""
    data = tiff_of({tag: value or ("H", 1) for tag, value in tags.items()}, strips)
    for tag in (tag for tag, value in tags.items() if not value):
        data = data.replace(struct.pack("<HHI", tag, 3, 1), struct.pack("<HHI", 65_000, 3, 1))
    return data


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        (GREY | {258: ("H", 12)}, "12-bit grey of this kind"),
        (GREY | {258: ("H", 16), 262: ("H", 0)}, "16-bit grey of this kind"),
        (GREY | {258: ("H", 16), 262: ()}, "16-bit grey of this kind"),
        (GREY | {339: ("H", 2)}, "signed or floating-point pixels"),
        (GREY | {258: ("H", 32), 339: ("H", 3)}, "signed or floating-point pixels"),
        (GREY | {258: ("H", 32)}, "pixels of mode I"),
        (GREY | {258: ("H", 7)}, "pixels of this kind"),
        (COLOUR | {258: ("H", 16, 16, 16), 284: ("H", 2)}, "16-bit colours in separate planes"),
        (COLOUR | {262: ("H", 6)}, "subsampled colours"),
        (COLOUR | {262: ("H", 6), 259: ()}, "subsampled colours"),
        (COLOUR | {262: ("H", 6), 530: ("H", 2, 1)}, "subsampled colours"),
        (COLOUR | {262: ("H", 8)}, "pixels of mode LAB"),
        (COLOUR | {259: ("H", 50000)}, "compression 50000"),
        (COLOUR | {259: ("H", 6)}, "compression 6"),
        (COLOUR | {259: ("H", 65000)}, "compression 65000"),
    ],
)
def test_tiff_pixels_that_pillow_would_give_a_wrong_brightness_are_rejected(tags: Tags, what: str) -> None:
    error = rejection(tiff(tags))
    assert error.code == "format_not_allowed"
    assert error.message == f"TIFF images with {what} are not supported: save it as JPEG or PNG"


@pytest.mark.parametrize(
    ("tags", "mode"),
    [
        (GREY | {259: ()}, "L"),
        (GREY | {262: ()}, "L"),
        (GREY | {258: (), 262: (), 284: ("H", 2)}, "1"),
        (COLOUR | {284: ("H", 2)}, "RGB"),
        (COLOUR | {262: ("H", 6), 530: ("H", 1, 1)}, "YCbCr"),
        (COLOUR | {259: ("H", 7), 262: ("H", 6)}, "RGB"),
    ],
)
def test_a_tiff_without_some_tags_has_their_defaults(tags: Tags, mode: str) -> None:
    with open_image(tiff(tags, (bytes(2_400),) * 3)) as image:
        assert image.mode == mode


def test_a_tiff_with_too_many_colours_is_undecodable() -> None:
    assert rejection(tiff(GREY | {277: ("H", 99)})).code == "undecodable"


@pytest.mark.parametrize(("top", "shown"), [(255, 255), (256, 1), (0xFFFF, 255)])
def test_a_tiff_palette_of_8_bits_is_one_whose_levels_are_all_below_256(top: int, shown: int) -> None:
    palette = {258: ("H", 8), 262: ("H", 3), 320: ("H", *[top] * 256, *[0] * 512)}
    with open_image(tiff(palette, (bytes(2_400),))) as image:
        assert image.convert("RGB").getpixel((3, 3)) == (shown, 0, 0)


SENSOR = 32803


@pytest.mark.parametrize(
    ("tags", "is_raw"),
    [
        *(({254: ("I", value)}, value % 2 == 1) for value in range(4)),
        ({50706: ("B", 1, 4, 0, 0)}, True),
        ({262: ("H", SENSOR)}, True),
        ({262: ("H", 34892)}, True),
        ({330: ("I", 8)}, False),
        ({330: ("I", 2**31)}, False),
    ],
)
def test_a_tiff_is_raw_by_its_own_tags(tags: dict[int, tuple[Any, ...]], is_raw: bool) -> None:
    data = tiff(GREY | tags)
    if is_raw:
        assert (rejection(data).code, rejection(data).message) == ("format_not_allowed", RAW_REASON)
    else:
        assert (inspect(data), sniff(data)) == (b"", "TIFF")


def test_a_tiff_is_raw_by_canons_mark_with_its_version_and_not_by_pixels_like_it() -> None:
    data = tiff(GREY)
    after_head = struct.pack("<I", len(data)), data[12:] + data[8:]  # the directory is at the end
    assert rejection(data[:4] + b"CR\2\0".join(after_head)).message == RAW_REASON
    inspect(data[:4] + b"CR\2\1".join(after_head))


@pytest.mark.parametrize(
    ("part", "is_raw"),
    [({262: ("H", SENSOR)}, True), ({262: ("H", 1)}, False), ({262: ("H", SENSOR, SENSOR)}, False)],
)
def test_a_tiff_is_raw_by_one_of_its_parts(part: Tags, is_raw: bool) -> None:
    place = len(tiff_of(GREY | {330: ("I", 2**31, 0)}, (bytes(2_400),)))
    for places in ((place, 2**31), (2**31, place)):
        data = tiff_of(GREY | {330: ("I", *places)}, (bytes(2_400),), after=tiff_of(part)[8:])
        with pytest.raises(ImageRejectedError) if is_raw else nullcontext():
            inspect(data)


@pytest.mark.parametrize(("offsets", "sizes"), [(273, 279), (324, 325)])
@pytest.mark.parametrize(("offset", "size"), [(900, None), (None, 900), (400, 500), (None, 901), (401, 500)])
def test_a_compressed_tiff_contains_all_of_its_strips(
    offsets: int, sizes: int, offset: int | None, size: int | None
) -> None:
    rows = {tag: ("I", 0, value) for tag, value in ((offsets, offset), (sizes, size)) if value is not None}
    data = tiff_of(COLOUR | rows | {259: ("H", 5)}).ljust(900, b"\0")
    is_short = (offset or 0) + (size or 0) > 900
    found = pytest.raises(ImageRejectedError, match=r"^the TIFF ends after 900 bytes, before")
    with found if is_short else nullcontext():
        inspect(data)


def test_inverted_8_bit_grey_of_a_tiff_keeps_its_brightness() -> None:
    with open_image(tiff_of(GREY | {262: ("H", 0)}, (bytes(2_400),))) as image:
        assert image.convert("RGB").getpixel((3, 3)) == (255, 255, 255)


def test_a_compressed_tiff_without_its_last_bytes_is_refused_when_it_is_sent() -> None:
    data = encoded("TIFF", compression="tiff_lzw")
    codes = [rejection(data[:length]).code for length in range(8, len(data))]
    assert {*codes} == {"truncated", "undecodable"}
    assert codes.count("truncated") > len(data) / 2


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_no_c_library_sees_a_heic_or_avif_before_its_pixels_are_needed(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("a C library saw it")

    monkeypatch.setattr("core.libheif.decode", opened)
    monkeypatch.setattr("PIL.AvifImagePlugin.AvifImageFile.__init__", opened)
    inspect(HONEST["heic" if form == "HEIF" else "avif"]())


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


def test_the_picture_of_an_avif_is_decoded_not_its_sequence() -> None:
    size = 2**16  # a sequence has fractions of pixels
    before, _, after = animation("AVIF").rpartition(struct.pack(">II", 60 * size, 40 * size))
    with open_image(before + struct.pack(">II", 60 * size, 41 * size) + after) as image:
        image.load()
        assert image.size == (60, 40)


@pytest.mark.parametrize("kind", [each for each in HONEST if ("heic" in each or "avif" in each) and "16" not in each])
def test_a_heic_or_avif_has_the_pixels_that_another_decoder_gives(kind: str) -> None:
    data = HONEST[kind]()
    with open_image(data) as image, Image.open(io.BytesIO(data), formats=[sniff(data)]) as other:
        stated, upright = image.size, ImageOps.exif_transpose(other) if sniff(data) == "AVIF" else other
        image.load()
        upright.load()
        assert stated == image.size == upright.size
        assert image.has_transparency_data == upright.has_transparency_data
        assert image.convert("RGBA").tobytes() == upright.convert("RGBA").tobytes()
        assert not image.info


def test_the_size_that_is_decoded_counts_not_the_size_of_the_crop() -> None:
    data = HONEST["heic"]()
    assert width_of(data, ImageLimits(max_pixels=64 * 64)) == 60
    assert rejection(data, ImageLimits(max_pixels=64 * 64 - 1)).code == "too_many_pixels"


@pytest.mark.parametrize(
    "kind",
    ["heic of tiles", "heic with a thumbnail", "two pictures in a heic", "avif with alpha", "two pictures in a jpeg"],
)
def test_further_pictures_in_a_file_are_no_frames(kind: str) -> None:
    assert width_of(HONEST[kind](), ImageLimits(max_frames=1)) in {40, 60}


def test_a_sequence_without_a_still_picture_is_not_called_damaged() -> None:
    error = rejection(HONEST["animated avif"]().replace(b"meta", b"free", 1))
    assert error.message == "AVIF images with a sequence alone are not supported: save it as JPEG or PNG"


def test_pillow_fills_in_no_missing_data_and_has_no_second_pixel_limit() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS is None
    with pytest.raises(ImageRejectedError), open_image(HONEST["bmp"](), ImageLimits(max_pixels=60 * 40 - 1)):
        pass


_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_SWAPPED = _SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")


@pytest.mark.parametrize("profile", [b"\xff" * 500, _SRGB[:-9], _SRGB[:16] + b"GRAY" + _SRGB[20:], _SWAPPED])
@pytest.mark.parametrize("name", sorted(FORMATS.keys() - WITHOUT_EXIF))
def test_a_colour_profile_neither_fails_an_image_nor_changes_it(name: str, profile: bytes) -> None:
    plain, with_profile = honest_encoded(name), honest_encoded(name, icc_profile=profile)
    assert len(with_profile) > len(plain)
    assert shown(with_profile) == shown(plain)
