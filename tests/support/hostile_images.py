"""Images by name, honest but rare ones and hostile ones. The tests of every decoder use all images of a table."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial, reduce
from random import Random
from typing import Any, Final

import pillow_heif
from PIL import Image, ImageCms, PngImagePlugin

from core.images import FORMATS

pillow_heif.register_heif_opener(thumbnails=False)  # Pillow can save HEIC now
QUICK_HEIC: Final = {"preset": "ultrafast"}
"""Options of the encoder; its default takes seconds for a large picture."""

WITHOUT_METADATA = frozenset({"BMP"})
WITHOUT_EXIF = frozenset({"GIF"}) | WITHOUT_METADATA
"""Formats that have no orientation or other metadata of a camera, at least as Pillow saves them."""

SCRIPT = b"<script>alert(document.domain)</script>"
SECRETS = (b"hidden-exif", b"hidden-gps", b"hidden-xmp", b"hidden-text", b"hidden-comment", b"acsp")
"""What `with_metadata` hides in a file; ``acsp`` stands in every ICC profile."""


def encoded(form: str, mode: str = "RGB", size: tuple[int, int] = (60, 40), **options: Any) -> bytes:
    body = io.BytesIO()
    plain = Image.frombytes("L", size, Random(7).randbytes(size[0] * size[1]))
    picture = (
        Image.new(mode, size, 40_000) if mode.startswith("I;16") else plain.convert("RGB").convert(_through(mode))
    )
    picture.convert(mode).save(body, form, **options)
    return body.getvalue()


def _through(mode: str) -> str:
    return "L" if mode == "LA" else mode


def with_metadata(form: str) -> bytes:
    """Return an image with EXIF, a place, XMP, an ICC profile, and a comment where its format has one."""
    exif = Image.Exif()
    exif[0x010E] = "hidden-exif"
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[0x001B] = b"hidden-gps"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>hidden-xmp</x:xmpmeta>"
    options: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": icc, "xmp": xmp}
    if form == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", "hidden-text")
        text.add_text("More", "hidden-text", zip=True)
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options |= {"pnginfo": text}
        del options["xmp"]
    if form == "JPEG":
        options |= {"comment": b"hidden-comment"}
    if form in WITHOUT_EXIF:
        options = {"comment": b"hidden-comment"}
    return encoded(form, "P" if form == "GIF" else "RGB", **options)


def animation(form: str, frames: int = 2, **options: Any) -> bytes:
    """Return an image with several frames or pages of different colours."""
    pictures = [Image.new("RGB", (60, 40), (number * 40 % 256, number % 256, 80)) for number in range(frames)]
    body = io.BytesIO()
    pictures[0].save(body, form, save_all=True, append_images=pictures[1:], **options)
    return body.getvalue()


Tags = Mapping[int, tuple[Any, ...]]
"""Tags of a TIFF: the code of the values' type in `struct`, then the values."""


def tiff_of(
    tags: Tags,
    strips: tuple[bytes, ...] = (),
    order: str = "<",
    after: bytes = b"",
) -> bytes:
    """Return a TIFF with one page of 60 x 40 pixels."""
    rows: dict[int, tuple[Any, ...]] = {256: ("H", 60), 257: ("H", 40), 259: ("H", 1), **tags}
    body = 8 + 2 + 12 * (len(rows) + 2 * bool(strips)) + 4
    if strips:
        sizes = [len(strip) for strip in strips]
        start = body + 4 * len(strips) * 2 + sum(struct.calcsize(f"{len(v) - 1}{v[0]}") for v in rows.values())
        offsets = [start + sum(sizes[:number]) for number in range(len(sizes))]
        rows |= {273: ("I", *offsets), 279: ("I", *sizes)}
    entries, values = b"", b""
    for tag, (code, *numbers) in sorted(rows.items()):
        packed = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        kind = {"B": 1, "H": 3, "I": 4}[code]
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", body + len(values))
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + place
        values += packed if len(packed) > 4 else b""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}IH", 8, len(rows)) + entries + bytes(4) + values
    return head.ljust(start if strips else 0, b"\0") + b"".join(strips) + after


GREY: dict[int, tuple[Any, ...]] = {258: ("H", 8), 262: ("H", 1)}
COLOUR: dict[int, tuple[Any, ...]] = {258: ("H", 8, 8, 8), 262: ("H", 2), 277: ("H", 3)}
_DEEP = struct.pack("<H", 40_000)


def box(kind: bytes, *content: bytes) -> bytes:
    """Return a box of a HEIC, AVIF or video."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _zip_of(name: bytes, content: bytes) -> bytes:
    import zipfile

    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr(name.decode(), content)
    return body.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(*chunks: bytes) -> bytes:
    """Return a PNG with these chunks after its header."""
    plain = animation("PNG", 1)
    return plain[:33] + b"".join(chunks) + plain[33:]


def _webp_with(piece: bytes, times: int) -> bytes:
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(10) + piece * times
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png_bomb(width: int, height: int) -> bytes:
    """Return a whole PNG of zeros: a thousandth of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compressobj(9, strategy=zlib.Z_RLE)
    packed = b"".join(rows.compress(bytes(1 + 3 * width)) for _ in range(height)) + rows.flush()
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _bomb(form: str, side: int, **options: Any) -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (side, side)).save(body, form, **options)
    return body.getvalue()


def gif_bomb(width: int, height: int, frame: tuple[int, int] | None = None) -> bytes:
    """Return a GIF of that canvas with one image, of the size of `frame` if it is given, and next to no data."""
    wide, high = frame or (width, height)
    image = b"," + struct.pack("<HHHHB", 0, 0, wide, high, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + image + b";"


def webp_bomb(side: int) -> bytes:
    """Return a lossless WebP of that many pixels squared, all of one colour, as its decoder takes it."""
    body = io.BytesIO()
    Image.new("RGB", (side, side)).save(body, "WEBP", lossless=True, quality=0, method=0)
    return body.getvalue()


_MEGABYTE = zlib.compress(bytes(2**20 - 1))
"""Deflated to a kilobyte."""

_XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'

BESIDE_A_PICTURE: dict[str, bytes] = {
    "65 colour profiles": png_chunk(b"iCCP", b"a\0\0" + _MEGABYTE) * 65,
    "a colour profile in another compression": png_chunk(b"iCCP", b"a\0\7abc"),
    "a text of 60 MB": png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000), 9)),
    "65 texts that end in damage": png_chunk(b"zTXt", b"a\0\0" + _MEGABYTE[:-4] + bytes(4)) * 65,
    "65 texts without a keyword": png_chunk(b"zTXt", b"\0\0" + _MEGABYTE) * 65,
    "65 texts that are no utf-8": png_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"\xff" * (2**20 - 1))) * 65,
    "a text with a wrong checksum": png_chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "a transparent colour with a wrong checksum": png_chunk(b"tRNS", bytes(6))[:-1] + b"?",
    "an orientation with a wrong checksum": png_chunk(b"eXIf", b"II*\0")[:-1] + b"?",
    "an orientation in XMP": png_chunk(b"iTXt", _XMP),
    "an orientation of ImageMagick": png_chunk(
        b"tEXt",
        b"Raw profile type exif\0\nexif\n26\n"
        + b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0".hex().encode(),
    ),
    "frames in a wrong order": png_chunk(b"acTL", struct.pack(">II", 2, 0))
    + png_chunk(b"fcTL", struct.pack(">26B", *range(26))),
    "chunks of others": png_chunk(b"vpAg", bytes(9)) + png_chunk(b"CgBI", bytes(4)),
}
"""Chunks of a PNG that neither fail its picture nor change it."""


def bmp_of(
    bits: int, pixels: bytes, size: tuple[int, int] = (60, 40), compression: int = 3, masks: tuple[int, ...] = ()
) -> bytes:
    """Return a BMP of rows of `pixels`, which are padded to four bytes, upside down."""
    rest = struct.pack("<IiiHHIIiiII", 124, *size, 1, bits, compression, 0, 0, 0, 0, 0)
    rest = (rest + struct.pack(f"<{len(masks)}I", *masks)).ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(rest) + len(pixels), 0, 0, 14 + len(rest)) + rest + pixels


HONEST: dict[str, Callable[[], bytes]] = {
    "grey jpeg": lambda: encoded("JPEG", "L"),
    "cmyk jpeg": lambda: encoded("JPEG", "CMYK"),
    "progressive jpeg": lambda: encoded("JPEG", progressive=True),
    "16-bit png": lambda: encoded("PNG", "I;16"),
    "palette png": lambda: encoded("PNG", "P"),
    "palette png with a transparent colour": lambda: encoded("PNG", "P", transparency=1),
    "grey png with alpha": lambda: encoded("PNG", "LA"),
    "png with alpha": lambda: encoded("PNG", "RGBA"),
    "1-bit png": lambda: encoded("PNG", "1"),
    "lossless webp with alpha": lambda: encoded("WEBP", "RGBA", lossless=True),
    "lossy webp": lambda: encoded("WEBP"),
    "gif": lambda: encoded("GIF", "P"),
    "grey gif": lambda: encoded("GIF", "L"),
    "gif whose frame is smaller than its canvas": lambda: gif_bomb(60, 40, frame=(1, 1)),
    "jpeg without its end mark": lambda: encoded("JPEG")[:-2],
    "png without its end mark": lambda: encoded("PNG")[:-12],
    "png with a transparent colour of 2 bytes": lambda: encoded("PNG", "I;16", transparency=3),
    **{f"png with {what}": partial(png_with, chunks) for what, chunks in BESIDE_A_PICTURE.items()},
    "bmp": lambda: encoded("BMP"),
    "bmp of 5 bits a colour": lambda: bmp_of(16, bytes(4_800), masks=(0x7C00, 0x3E0, 0x1F)),
    "1-bit bmp": lambda: encoded("BMP", "1"),
    "1 x 1": lambda: encoded("PNG", size=(1, 1)),
    "turned by exif": lambda: with_metadata("JPEG"),
    "png with metadata": lambda: with_metadata("PNG"),
    "webp with metadata": lambda: with_metadata("WEBP"),
    "gif with a comment": lambda: with_metadata("GIF"),
    "animated gif": lambda: animation("GIF"),
    "animated png": lambda: animation("PNG"),
    "animated webp": lambda: animation("WEBP"),
    "two pictures in a jpeg": lambda: animation("MPO"),
    "avif": lambda: encoded("AVIF"),
    "grey avif": lambda: encoded("AVIF", "L"),
    "avif with alpha": lambda: encoded("AVIF", "RGBA"),
    "avif with metadata": lambda: with_metadata("AVIF"),
    "animated avif": lambda: animation("AVIF"),
    "heic": lambda: encoded("HEIF"),
    "grey heic": lambda: encoded("HEIF", "L"),
    "16-bit heic": lambda: encoded("HEIF", "I;16"),
    "heic with alpha": lambda: encoded("HEIF", "RGBA"),
    "heic of tiles": lambda: encoded("HEIF", tile_size=32),
    "heic with a thumbnail": lambda: encoded("HEIF", thumbnails=[16]),
    "heic with metadata": lambda: with_metadata("HEIF"),
    "two pictures in a heic": lambda: animation("HEIF"),
    "heic with a general brand": lambda: encoded("HEIF").replace(b"ftypheic", b"ftypmif1", 1),
    "avif with a general brand": lambda: encoded("AVIF").replace(b"ftypavif", b"ftypmif1", 1),
    **{
        f"{compression} tiff": partial(encoded, "TIFF", compression=compression)
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    },
    "fax tiff": lambda: encoded("TIFF", "1", compression="group4"),
    "1-bit tiff": lambda: encoded("TIFF", "1"),
    "palette tiff": lambda: encoded("TIFF", "P"),
    "grey tiff with alpha": lambda: encoded("TIFF", "LA"),
    "tiff with alpha": lambda: encoded("TIFF", "RGBA"),
    "cmyk tiff": lambda: encoded("TIFF", "CMYK", compression="tiff_lzw"),
    "ycbcr tiff": lambda: encoded("TIFF", "YCbCr"),
    "16-bit tiff": lambda: encoded("TIFF", "I;16"),
    "16-bit lzw tiff": lambda: encoded("TIFF", "I;16", compression="tiff_lzw"),
    "16-bit big-endian tiff": lambda: encoded("TIFF", "I;16B"),
    "16-bit big-endian lzw tiff": lambda: encoded("TIFF", "I;16B", compression="tiff_lzw"),
    "16-bit colour tiff": lambda: tiff_of(COLOUR | {258: ("H", 16, 16, 16)}, (_DEEP * 3 * 2_400,)),
    "bigtiff": lambda: encoded("TIFF", big_tiff=True),
    "tiff with metadata": lambda: with_metadata("TIFF"),
    "tiff of two pages": lambda: animation("TIFF"),
    "tiff in separate planes": lambda: tiff_of(
        COLOUR | {284: ("H", 2)}, (b"\xc8" * 2_400, b"\x14" * 2_400, bytes(2_400))
    ),
    "deflate tiff in separate planes": lambda: tiff_of(
        COLOUR | {259: ("H", 8), 284: ("H", 2), 278: ("H", 40)},
        tuple(zlib.compress(plane * 2_400) for plane in (b"\xc8", b"\x14", b"\0")),
    ),
    "tiff with a palette of 8 bits": lambda: tiff_of(
        {258: ("H", 8), 262: ("H", 3), 320: ("H", *([200] * 256), *([20] * 256), *([0] * 256))}, (bytes(2_400),)
    ),
}
"""Row 33 of docs/faults.md: each is classified and has a thumbnail. A name with "16-bit" is of one level, 40,000."""

POLYGLOTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "jpeg with a zip behind it": ("image/jpeg", lambda: encoded("JPEG") + _zip_of(b"a.html", SCRIPT)),
    "jpeg with a page in its comment": ("image/jpeg", lambda: encoded("JPEG", comment=b"--><html>" + SCRIPT)),
    "gif with a page behind it": ("image/gif", lambda: encoded("GIF", "P") + b"<html>" + SCRIPT),
    "gif with a page in its comment": ("image/gif", lambda: encoded("GIF", "P", comment=b"<html>" + SCRIPT)),
    "png with a script behind it": ("image/png", lambda: encoded("PNG") + SCRIPT),
    "png with a script in a chunk": (
        "image/png",
        lambda: encoded("PNG")[:33] + png_chunk(b"tEXt", b"a\0" + SCRIPT) + encoded("PNG")[33:],
    ),
    "bmp with a pdf behind it": ("image/bmp", lambda: encoded("BMP") + b"%PDF-1.7\n" + SCRIPT),
}
"""Row 35: an image and something else at once, with its media type."""

SVG = b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg onload="alert(1)">&x;</svg>'


def _raw_in_a_part() -> bytes:
    part = tiff_of({262: ("H", 32803)})[8:]
    place = len(tiff_of(COLOUR | {330: ("I", 0)}, (bytes(7_200),)))
    return tiff_of(COLOUR | {330: ("I", place)}, (bytes(7_200),), after=part)


FOREIGN: dict[str, Callable[[], bytes]] = {
    "svg": lambda: SVG,
    "svg behind a byte order mark and spaces": lambda: b"\xef\xbb\xbf  \n" + SVG,
    "lfs pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n",
    "pdf": lambda: encoded("PDF"),
    "eps": lambda: encoded("EPS"),
    "eps for dos": lambda: b"\xc5\xd0\xd3\xc6" + bytes(30),
    "psd": lambda: b"8BPS\x00\x01" + bytes(6) + struct.pack(">HIIHH", 3, 40, 60, 8, 3),
    "fits": lambda: b"SIMPLE  =                    T" + bytes(2_850),
    "big-endian bigtiff": lambda: b"MM\x00+" + bytes(40),
    "jpeg 2000": lambda: b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40),
    "jpeg 2000 without a box": lambda: b"\xff\x4f\xff\x51" + bytes(40),
    "ico": lambda: encoded("ICO"),
    "jpeg xl": lambda: b"\xff\x0a" + bytes(40),
    "mp4": lambda: box(b"ftyp", b"isom", bytes(4), b"isomiso2avc1mp41") + box(b"mdat", bytes(40)),
    "mov": lambda: box(b"ftyp", b"qt  ", bytes(4)) + bytes(40),
    "webm": lambda: b"\x1aE\xdf\xa3" + bytes(40),
    "avi": lambda: b"RIFF\x28\0\0\0AVI " + bytes(40),
    "m4a": lambda: box(b"ftyp", b"M4A ", bytes(4)) + bytes(40),
    "zip": lambda: _zip_of(b"a.jpg", encoded("JPEG")),
    "gzip": lambda: b"\x1f\x8b\x08" + bytes(40),
    "tar": lambda: bytes(257) + b"ustar\x0000" + bytes(200),
    "canon raw, new": lambda: box(b"ftyp", b"crx ", bytes(4), b"crx isom") + bytes(40),
    "canon raw": lambda: b"II*\0\x10\0\0\0CR\2\0\0\0\0\0" + tiff_of({})[8:],
    "fuji raw": lambda: b"FUJIFILMCCD-RAW 0201" + bytes(40),
    "olympus raw": lambda: b"IIRO\x08\0\0\0" + bytes(40),
    "panasonic raw": lambda: b"IIU\0\x08\0\0\0" + bytes(40),
    "nikon raw": lambda: tiff_of(COLOUR | {254: ("I", 1)}, (bytes(7_200),)),
    "dng": lambda: tiff_of(COLOUR | {50706: ("B", 1, 4, 0, 0)}, (bytes(7_200),)),
    "raw with its pixels first": lambda: tiff_of(GREY | {262: ("H", 32803)}, (bytes(2_400),)),
    "raw with its pixels in a part": _raw_in_a_part,
}
"""Row 34: formats that are not accepted."""

BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "png": ("4000 x 4000", lambda: png_bomb(4_000, 4_000)),
    "gif": ("8000 x 6000", lambda: gif_bomb(8_000, 6_000)),
    "gif with an image larger than its canvas": ("8000 x 6000", lambda: gif_bomb(10, 10, frame=(8_000, 6_000))),
    "webp": ("3000 x 3000", lambda: webp_bomb(3_000)),
    "progressive jpeg": ("3000 x 3000", lambda: _bomb("JPEG", 3_000, progressive=True)),
    "avif": ("3000 x 3000", lambda: _bomb("AVIF", 3_000, speed=10)),
    "heic": ("3000 x 3000", lambda: _bomb("HEIF", 3_000, enc_params=QUICK_HEIC)),
    "heic of tiles": ("3000 x 3000", lambda: _bomb("HEIF", 3_000, enc_params=QUICK_HEIC, tile_size=512)),
    "deflate tiff": ("3000 x 3000", lambda: _bomb("TIFF", 3_000, compression="tiff_adobe_deflate")),
}
"""Row 34: small files with many pixels: more than 8 million, and fewer than `ImageLimits` allow; with their size."""

MANY = 400_000
GIF = b"GIF89a" + struct.pack("<HHBBB", 8, 6, 0, 0, 0)
"""The start of a GIF without a palette."""
HEIC = box(b"ftyp", b"heic", bytes(4), b"mif1heic")


FLOODS: dict[str, Callable[[], bytes]] = {
    "gif of empty extensions": lambda: GIF + b"\x21\xfe\x00" * MANY,
    "gif comment in blocks of one byte": lambda: GIF + b"\x21\xfe" + b"\x01a" * MANY,
    "gif with bytes between blocks": lambda: GIF + b"\x01" * 2 * MANY,
    "png of empty chunks": lambda: png_with(png_chunk(b"teSt", b"") * MANY),
    "png of text": lambda: png_with(png_chunk(b"tEXt", b"a\0b") * MANY),
    "webp of empty chunks": lambda: _webp_with(b"teSt" + bytes(4), MANY),
    "jpeg of empty segments": lambda: b"\xff\xd8" + b"\xff\xe5\x00\x02" * MANY + encoded("JPEG")[2:],
    "jpeg of padding": lambda: b"\xff\xd8" + b"\xff" * 2 * MANY + encoded("JPEG")[2:],
    "jpeg with bytes between segments": lambda: encoded("JPEG")[:20] + b"\x01" * 2 * MANY + encoded("JPEG")[20:],
    "jpeg of restarts": lambda: b"\xff\xd8" + b"\xff\xd0" * 2 * MANY + encoded("JPEG")[2:],
    "avif of empty boxes": lambda: encoded("AVIF") + box(b"free") * MANY,
    "heic of items": lambda: HEIC + box(b"meta", bytes(4), box(b"iinf", bytes(6), box(b"infe", bytes(14)) * MANY)),
    "heic of references": lambda: (
        HEIC + box(b"meta", bytes(4), box(b"iref", bytes(4), box(b"dimg", bytes(2 * MANY))))
    ),
    "heic of boxes among its items": lambda: (
        HEIC + box(b"meta", bytes(4), box(b"iinf", bytes(6), box(b"free") * MANY))
    ),
    "heic of boxes among its references": lambda: (
        HEIC + box(b"meta", bytes(4), box(b"iref", bytes(4), box(b"free") * MANY))
    ),
    "heic of properties": lambda: HEIC + box(b"meta", bytes(4), box(b"iprp", box(b"ipco", box(b"ispe") * MANY))),
    "heic of associations": lambda: (
        HEIC + box(b"meta", bytes(4), box(b"iprp", box(b"ipma", bytes(4), struct.pack(">I", MANY), bytes(3 * MANY))))
    ),
    "jpeg of exif": lambda: b"\xff\xd8" + b"\xff\xe1\x00\x0dExif\0\0hello" * MANY + encoded("JPEG")[2:],
}
"""Files of so many pieces that a decoder would take seconds: ``too_costly``, before Pillow opens them."""

STARTS = [
    reduce(lambda start, piece: start.ljust(piece[0], b"\0") + piece[1], signature, b"")
    for accepted in FORMATS.values()
    for signature in accepted.signatures
]
"""First bytes of each accepted format."""
