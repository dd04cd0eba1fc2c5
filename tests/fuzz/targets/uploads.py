"""Upload acceptance: no form and no file breaks it, and the files of a form come out as they were sent.

The first byte of an input says what the others are: a file, a form, or the contents of a form's files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import pillow_heif
from PIL import Image
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from core.image_open import open_image
from core.images import FORMATS, ImageLimits, sniff
from tests.support.unsandboxed import inspect
from web_tier.http.parameters import MAX_FILENAME_BYTES
from web_tier.uploads.ingest import RejectedUpload, validate_image
from web_tier.uploads.multipart import FormField, Upload, read_parts

BOUNDARY = "b0"
MAX_FILES = 3
LIMITS = ImageLimits(max_bytes=8_192, max_pixels=1_000_000)
PIECES = (1, 2, 7, 1 << 20)
"""Bytes that arrive at once."""

_FILE, _CONTENTS, _FORM = 0, 1, 2
pillow_heif.register_heif_opener()  # Pillow can save HEIC now
Image.init()  # loads Pillow's decoders now, so that they are instrumented too
SPLIT = b"\x00|"
"""Stands between the contents of files."""

WORDS = (
    *(b"--b0\r\n", b"\r\n--b0", b"--b0--\r\n", b"\r\n\r\n", b'Content-Disposition: form-data; name="f"'),
    *(
        b'; filename="a.png"',
        b"filename*=UTF-8''%2e%2e",
        b"Content-Type: image/png",
        b"\xff\xd8\xff\xe0",
        b"\xff\xc0",
    ),
    *(b"\x89PNG\r\n\x1a\n", b"IHDR", b"IDAT", b"acTL", b"zTXt", b"iTXt", b"GIF89a", b"NETSCAPE2.0", b"RIFF", b"WEBP"),
    *(b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"BM", b"Exif\x00\x00MM\x00*", b"MPF\x00", b"ICC_PROFILE\x00", b"ftypavif"),
    *(
        b"ftypheic",
        b"ftypmif1",
        b"meta",
        b"iinf",
        b"infe",
        b"iref",
        b"dimg",
        b"iprp",
        b"ipco",
        b"ipma",
        b"ispe",
        b"clap",
    ),
    *(b"iCCP", b"II*\x00", b"MM\x00*", b"II+\x00", b"\x11\x01\x04\x00", b"\x4a\x01\x04\x00"),
)


@dataclass
class Trickle:
    """A body of which each read returns at most `piece` bytes."""

    body: BytesIO
    piece: int

    def read(self, size: int, /) -> bytes:
        return self.body.read(min(size, self.piece))


def seeds() -> Iterator[bytes]:
    for number, (form, options) in enumerate(_FORMS):
        body = BytesIO()
        Image.new("RGB", (9, 5), (200, 30 * number % 256, 90)).save(body, form, **options)
        yield bytes([_FILE]) + body.getvalue()
        yield bytes([_FORM + 4 * number]) + form_of([body.getvalue()])
    yield bytes([_FORM]) + form_of([b"", b"x"]) + b"epilogue"
    for pieces, contents in enumerate(([b""], [b"\r\n--b1", b"\r"], [b"--b", b"\n", b"\r\n--"])):
        yield bytes([_CONTENTS + 4 * pieces]) + SPLIT.join(contents)


_FORMS: tuple[tuple[str, dict[str, object]], ...] = (
    *((form, {}) for form in FORMATS),
    ("JPEG", {"progressive": True, "exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"}),
    ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (9, 5))]}),
    ("WEBP", {"lossless": True}),
    ("AVIF", {"save_all": True, "append_images": [Image.new("RGB", (9, 5))]}),
    ("HEIF", {"save_all": True, "append_images": [Image.new("RGB", (9, 5))]}),
    ("TIFF", {"save_all": True, "append_images": [Image.new("RGB", (9, 5))], "compression": "tiff_lzw"}),
    ("TIFF", {"big_tiff": True}),
)


def form_of(files: Sequence[bytes]) -> bytes:
    """Return a form with a field and `files`."""
    head = b'--b0\r\nContent-Disposition: form-data; name="job"\r\n\r\nx\r\n--b0'
    for file in files:
        head += b'\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + file + b"\r\n--b0"
    return head + b"--\r\n"


def target(data: bytes) -> None:
    kind, body = (data[:1] or b"\0")[0], data[1:]
    piece = PIECES[kind // 4 % len(PIECES)]
    match kind % 4:
        case 0:
            _check(Upload("a", body, len(body)), len(body))
        case 1:
            _check_contents(body.split(SPLIT), piece)
        case _:
            for part in _parts(body, piece) or ():
                if isinstance(part, Upload):
                    _check(part, len(body))


def _check_contents(files: list[bytes], piece: int) -> None:
    """Send `files` in a form; a client chooses a boundary that is in none of them."""
    if len(files) > MAX_FILES or any(b"--b0" in file or len(file) > LIMITS.max_bytes for file in files):
        return
    sent = [Upload("a", file, len(file), "f") for file in files]
    assert _parts(form_of(files), piece) == [FormField("job", "x"), *sent]


def _parts(body: bytes, piece: int) -> list[Upload | FormField] | None:
    try:
        stream = Trickle(BytesIO(body), piece)
        return list(read_parts(stream.read, BOUNDARY, max_files=MAX_FILES, max_file_bytes=LIMITS.max_bytes))
    except (BadRequest, RequestEntityTooLarge):
        return None


def _check(upload: Upload, sent: int) -> None:
    assert upload.size <= sent
    assert len(upload.filename.encode()) <= MAX_FILENAME_BYTES
    assert not set("\\\x00\r\n") & set(upload.filename)
    assert not {"", ".", ".."} & set(upload.filename.split("/"))
    outcome = validate_image(upload, LIMITS, inspect, "u")
    if isinstance(outcome, RejectedUpload):
        assert outcome.code
        return
    with open_image(upload.data, LIMITS) as image:
        assert image.format == sniff(upload.data)
        assert 1 <= image.width * image.height <= LIMITS.max_pixels
