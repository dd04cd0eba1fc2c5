"""Files that users have, drawn from one picture: groups whose files get the same answer by every way in."""

import io
import struct
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from PIL import Image, ImageCms

from core.images import FORMATS
from tests.support.container_files import coded, container, crop, mirror, turn
from tests.support.hostile_images import FOREIGN, box, encoded, png_chunk

Files = Mapping[str, bytes]
"""Contents by filename."""

LARGE = (1_840, 1_380)
"""Pixels of a photo that a worker decodes at a fraction of its size."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""By EXIF orientation, how the pixels of an upright picture are stored."""

_TURNS_OF_BOXES = {
    "upright": ((), None),
    "turned": ((turn(1),), Image.Transpose.ROTATE_270),
    "mirrored": ((turn(2), mirror(0)), Image.Transpose.FLIP_LEFT_RIGHT),
}
"""Properties of HEIC and AVIF, and how the pixels of an upright picture are stored."""

_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "avif": "AVIF"}


_SEQUENCES = {"apng": "PNG", "avifs": "AVIF", "heics": "HEIF", "dib": "BMP"}
"""Rare suffixes, most of files that may hold a sequence."""

_OPTIONS: Mapping[str, Mapping[str, int]] = {
    "JPEG": {"quality": 92},
    "MPO": {"quality": 92},
    "WEBP": {"quality": 92, "method": 0},
    "AVIF": {"quality": 92, "speed": 10},
    "PNG": {"compress_level": 1},
}
"""How pictures are saved, with the least work where a format has a choice."""


def saved(picture: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    """Return the file of a picture."""
    body = io.BytesIO()
    picture.save(body, form, **{**_OPTIONS.get(form, {}), **options})
    return body.getvalue()


def picture_cases(picture: Image.Image) -> dict[str, Files]:
    """Return the cases of a picture without transparency, by what they are."""
    large = picture.resize(LARGE)
    jpeg, png = saved(picture), saved(picture, "PNG")
    grey, (width, height) = picture.convert("L"), picture.size
    blank = Image.new("RGB", picture.size, "white")
    return {
        "each format": {f"plain.{accepted.extension}": saved(picture, form) for form, accepted in FORMATS.items()},
        "turned by EXIF, 2 to 8": {
            f"turned-{number}.{suffix}": _turned(picture, number, form)
            for number in _UPRIGHT
            for suffix, form in _FORMATS.items()
        },
        "large and turned by EXIF": {
            f"large-{number}.{suffix}": _turned(large, number, _FORMATS[suffix])
            for number in (2, 3, 6)
            for suffix in ("jpg", "png", "webp")
        },
        "AVIF and HEIC that are cropped and turned by their boxes": {
            f"boxes-{name}.{suffix}": _cropped(picture, form, *how)
            for suffix, form in (("avif", "AVIF"), ("heic", "HEIF"))
            for name, how in _TURNS_OF_BOXES.items()
        },
        "EXIF that is damaged, or without a valid orientation": {
            **{f"exif-{number}.jpg": saved(picture, exif=_exif(number)) for number in (0, 9, 65_535)},
            "exif-garbage.jpg": _with_segment(jpeg, b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\x99" * 40),
            "exif-no-tiff.jpg": _with_segment(jpeg, b"Exif\0\0<html>"),
        },
        "with a colour profile, small and large": {
            f"profile-{name}-{size.width}.jpg": saved(size, icc_profile=profile)
            for name, profile in _profiles().items()
            for size in (picture, large)
        },
        "CMYK": {
            "cmyk.jpg": saved(picture.convert("CMYK")),
            "cmyk-large.jpg": saved(large.convert("CMYK")),
            "cmyk.tif": saved(picture.convert("CMYK"), "TIFF"),
        },
        "16 bits a channel": {
            "grey.png": saved(grey.convert("I").point(lambda value: value * 257).convert("I;16"), "PNG"),
            "grey.tif": saved(grey.convert("I").point(lambda value: value * 257).convert("I;16"), "TIFF"),
        },
        "transparent above white": {
            "rgba.png": saved(_with_hole(picture), "PNG"),
            "palette.png": saved(_with_hole(picture).quantize(255), "PNG"),
            "rgba.webp": saved(_with_hole(picture), "WEBP", lossless=True),
            "rgba.avif": saved(_with_hole(picture), "AVIF"),
            "two-tables.avif": _with_two_tables(_with_hole(picture)),
        },
        "several frames or pages: the first": {
            "frames.webp": saved(picture, "WEBP", save_all=True, append_images=[blank, blank], duration=100),
            "frames.gif": saved(picture, "GIF", save_all=True, append_images=[blank, blank], duration=100),
            "frames.png": saved(picture, "PNG", save_all=True, default_image=True, append_images=[blank, blank]),
            "large-frames.png": saved(large, "PNG", save_all=True, default_image=True, append_images=[blank]),
            "pages.tif": saved(picture, "TIFF", save_all=True, append_images=[blank, blank]),
            "two.mpo": saved(
                picture, "MPO", save_all=True, append_images=[picture.resize((width // 2, height // 2))]
            ),
        },
        "complete but for the mark of its end": {
            "no-end.jpg": jpeg[:-2],
            "zeros-for-end.jpg": jpeg[:-2] + b"\0\0",
            "no-end.png": png[:-12],
        },
        "more bytes after its end": {
            "zeros.jpg": jpeg + bytes(65_536),
            "motion.jpg": jpeg + box(b"ftyp", b"mp42", bytes(4), b"mp42isom") + bytes(200_000),
        },
        "PNG with much text": {
            "text.png": _with_chunks(png, png_chunk(b"zTXt", b"c\0\0" + zlib.compress(b"A" * 2_000_000, 9))),
            "texts.png": _with_chunks(png, *(png_chunk(b"tEXt", b"k%d\0v" % number) for number in range(100))),
        },
        "other suffixes, or none": {
            **dict.fromkeys(("windows.jfif", "old.jpe", "UPPER.JPG", "twice.jpg.jpg", "no-suffix"), jpeg),
            **dict.fromkeys(("a.jfi", "a.pjpeg", "a.pjp"), jpeg),
            **{f"a.{suffix}": saved(picture, form) for suffix, form in _SEQUENCES.items()},
            "png.jpg": png,
        },
        "cut": {
            "half.jpg": jpeg[: len(jpeg) // 2],
            "large-half.jpg": (whole := saved(large))[: len(whole) // 2],
            "half.png": png[: len(png) // 2],
            "half.webp": (webp := saved(picture, "WEBP"))[: len(webp) // 2],
        },
        "empty": {"empty.jpg": b""},
        "larger than `web.max_image_bytes`": {"heavy.jpg": jpeg + bytes(27_000_000)},
        "more pixels than `web.max_image_pixels`": {
            "wide.png": saved(Image.new("1", (20_000, 20_000)), "PNG"),
            "wide.jpg": saved(Image.new("L", (10_000, 6_000)), quality=20),
        },
        "not an image": {
            "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
            "paper.jpg": b"%PDF-1.7\n%%EOF\n",
            "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
            "video.jpg": box(b"ftyp", b"mp42", bytes(4), b"mp42isom") + bytes(5_000),
            "lfs.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1\n",
            "text.jpg": b"no image, despite its name",
            "icon.jpg": encoded("ICO", size=(64, 64)),
            **{f"{kind}.jpg": make() for kind, make in FOREIGN.items() if kind.startswith("jpeg")},
        },
    }


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _turned(picture: Image.Image, orientation: int, form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture.transpose(_UPRIGHT[orientation]), form, exif=exif if form == "TIFF" else exif.tobytes())


def _cropped(picture: Image.Image, form: str, turns: tuple[bytes, ...], stored: Image.Transpose | None) -> bytes:
    """Return a file whose boxes cut the picture out of a larger one, and turn it."""
    inside = picture if stored is None else picture.transpose(stored)
    canvas = Image.new("RGB", (640, 512), "orange")
    canvas.paste(inside, (40, 20))
    right, down = Fraction(40 + inside.width / 2 - 320), Fraction(20 + inside.height / 2 - 256)
    cut = crop(Fraction(inside.width), Fraction(inside.height), right, down)
    return container([coded(form, canvas)], (cut, *turns))


def _with_two_tables(picture: Image.Image) -> bytes:
    """Return an AVIF with alpha, written as cavif does: a table of properties for each of its two pictures."""
    alpha = coded("AVIF", picture.getchannel("A"))
    return container([coded("AVIF", picture.convert("RGB"))], alpha=alpha, split=True)


def _with_segment(jpeg: bytes, body: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def _with_chunks(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


def _with_hole(picture: Image.Image) -> Image.Image:
    """Return the picture with its top transparent, above black."""
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, picture.width, picture.height // 10))
    behind = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    behind.paste(picture, (0, 0), alpha)
    return behind


def _profiles() -> dict[str, bytes]:
    """Return ICC profiles: sRGB, one that swaps red and blue, one of grey, a large one, and one that is damaged."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = bytearray(srgb)
    for tag, place in ((b"rXYZ", _tag(srgb, b"bXYZ")), (b"bXYZ", _tag(srgb, b"rXYZ"))):
        struct.pack_into(">II", swapped, srgb.index(tag) + 4, *place)
    return {
        "srgb": srgb,
        "swapped": bytes(swapped),
        "grey": srgb[:16] + b"GRAY" + srgb[20:],
        "padded": srgb + bytes(300_000),
        "damaged": b"\xff" * 500,
    }


def _tag(profile: bytes, name: bytes) -> tuple[int, int]:
    offset, size = struct.unpack_from(">II", profile, profile.index(name) + 4)
    return offset, size
