"""HEIC and AVIF files put together box by box: crops, turns, tiles and tables that few encoders write."""

import io
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

from PIL import Image

from tests.support.hostile_images import box

_CODECS = {"AVIF": (b"avif", b"av01", b"av1C"), "HEIF": (b"heic", b"hvc1", b"hvcC")}
"""By format: brand, type of a coded item, and type of the property that configures its decoder."""

_ALPHA = box(b"auxC", bytes(4), b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
_ESSENTIAL = frozenset({b"clap", b"irot", b"imir", b"av1C", b"hvcC"})


class Coded(NamedTuple):
    """A picture as it is coded: format, size, properties without transforms, and bytes."""

    form: str
    size: tuple[int, int]
    properties: tuple[bytes, ...]
    payload: bytes


def coded(form: str, picture: Image.Image) -> Coded:
    """Return a picture, of a size that the format need not crop, coded as ``AVIF`` or ``HEIF``."""
    file = io.BytesIO()
    picture.save(file, form, quality=92, speed=10)
    top = dict(_boxes(file.getvalue(), 0))
    found = dict(_boxes(dict(_boxes(dict(_boxes(top[b"meta"], 4))[b"iprp"], 0))[b"ipco"], 0))
    wanted = (b"ispe", b"pixi", b"colr", _CODECS[form][2])
    properties = tuple(box(kind, found[kind]) for kind in wanted if kind in found)
    return Coded(form, picture.size, properties, top[b"mdat"])


def crop(width: Fraction, height: Fraction, right: Fraction, down: Fraction) -> bytes:
    """Return a property that crops; the centre of what remains lies `right` of and `down` from the picture's."""
    return box(
        b"clap", *(struct.pack(">iI", each.numerator, each.denominator) for each in (width, height, right, down))
    )


def turn(quarters: int) -> bytes:
    """Return a property that turns a picture anticlockwise."""
    return box(b"irot", bytes([quarters]))


def mirror(axis: int) -> bytes:
    """Return a property that exchanges top and bottom (0), or left and right (1)."""
    return box(b"imir", bytes([axis]))


def container(
    tiles: Sequence[Coded], transforms: Sequence[bytes] = (), alpha: Coded | None = None, *, split: bool = False
) -> bytes:
    """Return a file of one picture.

    Args:
        tiles: from left to right, equal in size; one is the picture itself.
        transforms: properties of the picture, in the order in which they are associated.
        alpha: as large as the picture.
        split: whether the last item's properties stand in a table of their own, before the others.
    """
    brand, kind, _ = _CODECS[tiles[0].form]
    items = [(kind, tile.properties, tile.payload) for tile in tiles]
    references = []
    if len(tiles) > 1:
        size = sum(tile.size[0] for tile in tiles), tiles[0].size[1]
        properties = (box(b"ispe", bytes(4), struct.pack(">II", *size)), *tiles[0].properties[1:2])
        items.insert(0, (b"grid", properties, struct.pack(">BBBBHH", 0, 0, 0, len(tiles) - 1, *size)))
        references.append(box(b"dimg", struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *range(2, len(tiles) + 2))))
    items[0] = (items[0][0], (*items[0][1], *transforms), items[0][2])
    if alpha:
        items.append((kind, (*alpha.properties, _ALPHA, *transforms), alpha.payload))
        references.append(box(b"auxl", struct.pack(">HHH", len(items), 1, 1)))
    head, data = box(b"ftyp", brand, bytes(4), b"mif1miaf", brand), b"".join(payload for *_, payload in items)
    starts = accumulate((len(payload) for *_, payload in items), initial=0)
    infos, table, number = [], [], 1
    for index, (kind, properties, _) in enumerate(items, 1):
        infos.append(box(b"infe", b"\2\0\0", bytes([index > 1]), struct.pack(">HH4s", index, 0, kind), b"\0"))
        numbers = bytes(at | 0x80 * (each[4:8] in _ESSENTIAL) for at, each in enumerate(properties, number))
        table.append(struct.pack(">HB", index, len(numbers)) + numbers)
        number += len(numbers)
    tables = [table[-1:], table[:-1]] if split else [table]
    associations = [box(b"ipma", bytes(4), struct.pack(">I", len(rows)), *rows) for rows in tables if rows]
    places = [
        struct.pack(">HHHHII", index, 1, 0, 1, start, len(payload))
        for (index, (*_, payload)), start in zip(enumerate(items, 1), starts, strict=False)
    ]
    meta = box(
        b"meta",
        bytes(4),
        box(b"hdlr", bytes(8), b"pict", bytes(13)),
        box(b"pitm", bytes(4), b"\0\1"),
        box(b"iinf", bytes(4), struct.pack(">H", len(items)), *infos),
        box(b"iref", bytes(4), *references),
        box(b"iprp", box(b"ipco", *(each for _, properties, _ in items for each in properties)), *associations),
        box(b"idat", data),
        box(b"iloc", b"\1\0\0\0\x44\0", struct.pack(">H", len(items)), *places),
    )
    return head + meta


def _boxes(data: bytes, place: int) -> Iterator[tuple[bytes, bytes]]:
    while place < len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        yield kind, data[place + 8 : place + size]
        place += size
