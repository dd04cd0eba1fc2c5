"""The structure of files: each piece is counted once, and a file cut anywhere has the pieces before the cut."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.image_containers import FRAME_COUNTS, Box, Picture, boxes, primary_picture
from tests.support.hostile_images import HEIC, box, png_chunk


@dataclass(frozen=True)
class Part:
    """A part of a file.

    Attributes:
        counted: after how many bytes of it each of its pieces is counted.
        facts: after how many bytes of it something is known: a frame, or a number of frames that it ``declares``.
    """

    data: bytes
    counted: Sequence[int] = ()
    facts: Sequence[tuple[int, str, int]] = ()


def joined(parts: Iterable[Part]) -> Part:
    data, counted, facts = b"", list[int](), list[tuple[int, str, int]]()
    for part in parts:
        counted += [len(data) + place for place in part.counted]
        facts += [(len(data) + place, what, value) for place, what, value in part.facts]
        data += part.data
    return Part(data, counted, facts)


def boxed(kind: bytes, head: bytes, parts: Iterable[Part] = ()) -> Part:
    content = joined([Part(head), *parts])
    return joined([Part(box(kind, content.data)[:8], [8]), content])


def parts_of(*kinds: st.SearchStrategy[list[Part]]) -> st.SearchStrategy[list[Part]]:
    return st.lists(st.one_of(*kinds), max_size=5).map(lambda parts: [each for some in parts for each in some])


BYTES = st.binary(max_size=9)
NUMBERS = st.integers(0, 3)
PNG = st.tuples(
    parts_of(
        st.builds(lambda body: [Part(png_chunk(b"teSt", body), [8])], BYTES),
        st.builds(
            lambda n: [Part(png_chunk(b"acTL", struct.pack(">II", n, 9)), [8], [(12, "declares", n)])], NUMBERS
        ),
        st.just([Part(png_chunk(b"fcTL", bytes(26)), [8], [(8, "frame", 1)])]),
    ),
    st.sampled_from([[], [Part(png_chunk(b"IEND", b""), [8]), Part(png_chunk(b"fcTL", b""))]]),
).map(lambda parts: [Part(b"\x89PNG\r\n\x1a\n"), *parts[0], *parts[1]])


def webp_chunk(kind: bytes, body: bytes) -> Part:
    data = kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return Part(data, [8], [(8, "frame", 1)] if kind == b"ANMF" else [])


WEBP = st.lists(st.builds(webp_chunk, st.sampled_from([b"ANMF", b"teSt"]), BYTES), max_size=6).map(
    lambda chunks: [Part(b"RIFF\0\0\0\0WEBP"), *chunks]
)


def gif_blocks(head: Part, blocks: list[bytes]) -> list[Part]:
    return [head, *(Part(bytes([len(block)]) + block, [1]) for block in blocks), Part(b"\0")]


BLOCKS = st.lists(st.binary(min_size=1, max_size=5), max_size=3)
PALETTES = st.sampled_from([0, 7, 0x80, 0x81, 0x42 | 0x80])
"""Flags of a GIF; 128 stands for a palette of its own, with the size in the last three bits."""


def gif_palette(flags: int) -> bytes:
    return b",!;" * (2 << flags % 8) if flags >= 128 else b""


EXTENSIONS = st.builds(lambda blocks: gif_blocks(Part(b"!\xfe", [1]), blocks), BLOCKS)
IMAGES = st.builds(
    lambda flags, blocks: gif_blocks(
        Part(b"," + bytes(8) + bytes([flags]) + gif_palette(flags) + b"\2", [1], [(1, "frame", 1)]), blocks
    ),
    PALETTES,
    BLOCKS,
)
GIF = st.builds(
    lambda flags, before, image, after, end: [
        Part(b"GIF89a" + bytes(4) + bytes([flags, 0, 0]) + gif_palette(flags)),
        *before,
        *(image + after + [Part(b"\1,!\0")] if end != b";" else [Part(b";,!\0")]),
    ],
    PALETTES,
    parts_of(EXTENSIONS, st.just([Part(b"\1", [1])])),
    IMAGES,
    parts_of(EXTENSIONS, IMAGES),
    st.sampled_from([b";", b"\1"]),
)


def jpeg_segment(marker: int, body: bytes, size: int | None = None) -> Part:
    return Part(struct.pack(">BBH", 255, marker, len(body) + 2 if size is None else size) + body, [4])


SEGMENTS = parts_of(
    st.builds(lambda marker, body: [jpeg_segment(marker, body)], st.sampled_from([0xE1, 0xE2, 0xE5]), BYTES),
    st.builds(lambda size: [jpeg_segment(0xE5, b"", size)], st.sampled_from([0, 1])),
    st.sampled_from([0x01, 0xC8, 0xD0, 0xD9, 0xF0, 0xFD]).map(lambda each: [Part(bytes([255, each]), [4])]),
    st.just([Part(b"\xff", [4]), Part(b"\xff\xe5\0\2", [4])]),
    st.just([Part(b"\xff", [4]), Part(b"\0", [4]), Part(b"\7", [4])]),
)
JPEG = SEGMENTS.map(lambda segments: [Part(b"\xff\xd8"), *segments, Part(b"\xff\xda\xff\xe5\0\2\0\0")])


def heic_item(number: int, kind: bytes, version: int) -> Part:
    size = 4 if version == 3 else 2
    return Part(box(b"infe", bytes([version, 0, 0, 0]) + number.to_bytes(size, "big") + bytes(2) + kind, b"a\0"), [8])


def heic_associations(entries: list[tuple[int, list[int]]], is_wide: bool, is_long: bool) -> Part:
    data, counted = bytes([is_wide, 0, 0, is_long]) + struct.pack(">I", len(entries) + 1), list[int]()
    for item, numbers in entries:
        data += item.to_bytes(4 if is_wide else 2, "big") + bytes([len(numbers)])
        counted += [len(data)] * (1 + len(numbers))
        data += b"".join((number | (0x8000 if is_long else 0x80)).to_bytes(1 + is_long, "big") for number in numbers)
    return joined([Part(box(b"ipma", data)[:8], [8]), Part(data, counted)])


SMALL_IDS = st.integers(1, 4)
ITEMS = st.lists(
    st.builds(heic_item, SMALL_IDS, st.sampled_from([b"hvc1", b"grid", b"Exif"]), st.sampled_from([2, 3]))
    | st.just(boxed(b"free", bytes(20))),
    max_size=5,
)


@st.composite
def heics(draw: st.DrawFn) -> list[Part]:
    is_long, *flags = draw(st.tuples(*[st.booleans()] * 3))
    count, sample_sizes = draw(NUMBERS), draw(st.sampled_from([b"stsz", b"stz2"]))
    samples = Part(box(sample_sizes, bytes(8), struct.pack(">I", count)), [8], [(20, "declares", count)])
    associations = heic_associations(draw(st.lists(st.tuples(SMALL_IDS, st.lists(SMALL_IDS, max_size=2)))), *flags)
    children = [
        boxed(b"iinf", bytes([is_long]) + bytes(7 if is_long else 5), draw(ITEMS)),
        boxed(b"iprp", b"", [boxed(b"ipco", b"", [Part(box(b"ispe"), [8])] * 2), associations]),
    ]
    tracks = [boxed(b"trak", b"", [boxed(b"mdia", b"", [samples])]), boxed(b"trak", b"", [samples]), samples]
    return [Part(HEIC, [8]), boxed(b"meta", bytes(4), draw(st.permutations(children))), boxed(b"moov", b"", tracks)]


FILES = {"PNG": PNG, "WEBP": WEBP, "GIF": GIF, "JPEG": JPEG, "HEIF": heics()}


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_a_file_cut_anywhere_has_the_pieces_and_frames_before_the_cut(name: str, data: st.DataObject) -> None:
    whole = joined(data.draw(FILES[name]))
    count = FRAME_COUNTS[name]
    places = {*whole.counted, *(place for place, *_ in whole.facts), len(whole.data)}
    for cut in sorted({max(0, place - less) for place in places for less in (0, 1)}):
        counts = list(count(whole.data[:cut]))
        facts = [(what, value) for place, what, value in whole.facts if place <= cut]
        declared = max((value for what, value in facts if what == "declares"), default=0)
        frames = sum(what == "frame" for what, _ in facts)
        assert len(counts) - (name == "HEIF") == sum(place <= cut for place in whole.counted)
        assert sum(counts) == max(declared, frames)


@given(
    st.lists(st.tuples(st.sampled_from(["short", "long", "open"]), BYTES), max_size=4),
    st.binary(max_size=20),
    st.integers(0, 100),
)
def test_boxes_end_where_they_say_or_with_their_parent_and_the_data(
    forms: list[tuple[str, bytes]], before: bytes, cut: int
) -> None:
    data, heads = before, list[tuple[int, int, str, bytes]]()
    for form, body in forms:
        head = {"short": 8 + len(body), "long": 1, "open": 0}[form].to_bytes(4, "big") + b"teSt"
        head += struct.pack(">Q", 16 + len(body)) if form == "long" else b""
        heads.append((len(data), len(head), form, body))
        data += head + body
        if form == "open":
            break
    for end, there in (
        (cut, data),
        (len(data) + 9, data[:cut]),
        (len(data) + 9, data),
        (cut, data + b"\0\0\0\7teSt"),
    ):
        edge = min(end, len(there))
        assert list(boxes(there, len(before), end)) == [
            Box(b"teSt", at + size, edge if form == "open" else at + size + len(body))
            for at, size, form, body in heads
            if at + 8 <= edge and at + size <= len(there)
        ]


@pytest.mark.parametrize("size", [2, 7])
def test_a_box_that_is_smaller_than_its_head_ends_the_walk(size: int) -> None:
    assert list(boxes(box(b"free") + struct.pack(">I4s", size, b"teSt") + bytes(40), 0, 99)) == [Box(b"free", 8, 8)]
    assert list(boxes(struct.pack(">I4sQ", 1, b"teSt", 15) + bytes(40), 0, 99)) == []


PROPERTIES = {
    "size": lambda numbers: box(b"ispe", bytes(4), struct.pack(">II", *numbers[:2])),
    "clap": lambda numbers: box(b"clap", struct.pack(">IIII", *numbers), bytes(16)),
    "irot": lambda numbers: box(b"irot", bytes([numbers[0] % 4])),
    "imir": lambda numbers: box(b"imir", bytes([numbers[0] % 2])),
}


@given(
    rows=st.lists(st.tuples(st.sampled_from(sorted(PROPERTIES)), st.tuples(*[st.integers(0, 70)] * 4)), max_size=5),
    used=st.lists(st.integers(0, 6), max_size=4),
    kinds=st.permutations([b"hvc1", b"grid", b"av01"]),
    primary=st.integers(1, 3),
    forms=st.tuples(*[st.booleans()] * 4),
    tables=st.integers(1, 2),
    parts=st.permutations(range(5)),
    missing=st.sampled_from(["", "", "", "meta", "pitm", "iinf", "iprp", "ipco", "ipma"]),
)
def test_the_primary_picture_has_the_size_and_the_transforms_that_are_its_own(
    rows: list[tuple[str, tuple[int, ...]]],
    used: list[int],
    kinds: list[bytes],
    primary: int,
    forms: tuple[bool, ...],
    tables: int,
    parts: list[int],
    missing: str,
) -> None:
    wide, iinf, is_wide, is_long = forms
    version = 3 if wide else 2
    items = [heic_item(number, kind, version) for number, kind in enumerate(kinds, 1)]
    entries = [(number, used if number == primary else [1, 2, 3, 4, 5]) for number in (1, 2, 3)]
    properties = [
        box(b"ipco", *(PROPERTIES[what](numbers) for what, numbers in rows)),
        *(heic_associations(entries[table::tables], is_wide, is_long).data for table in range(tables)),
    ]
    children = [
        box(b"pitm", bytes([wide, 0, 0, 0]) + primary.to_bytes(4 if wide else 2, "big")),
        boxed(b"iinf", bytes([iinf]) + bytes(7 if iinf else 5), items).data,
        box(b"iprp", *properties[:: 1 if parts[0] % 2 else -1]),
        box(b"free"),
        box(b"hdlr", bytes(20)),
    ]
    data = HEIC + box(b"meta", bytes(4), *(children[number] for number in parts))
    data = data.replace(missing.encode(), b"gone") if missing else data
    own = [rows[number - 1] for number in used if 0 < number <= len(rows)]
    sizes = [numbers[:2] for what, numbers in own if what == "size"]
    transforms = tuple((what.encode(), PROPERTIES[what](numbers)[8:]) for what, numbers in own if what != "size")
    assert primary_picture(data) == (
        None if missing or not sizes else Picture(kinds[primary - 1], (sizes[0][0], sizes[0][1]), transforms)
    )


def test_a_size_that_the_data_does_not_contain_is_none() -> None:
    association = heic_associations([(1, [1])], False, False).data
    item = heic_item(1, b"hvc1", 2)
    head = [box(b"pitm", bytes(4), b"\0\1"), boxed(b"iinf", bytes(6), [item]).data]
    size = box(b"ispe", bytes(4), struct.pack(">II", 3, 2))
    data = HEIC + box(b"meta", bytes(4), *head, box(b"iprp", association, box(b"ipco", size)))
    assert primary_picture(data) == Picture(b"hvc1", (3, 2), ())
    assert [primary_picture(data[:cut]) for cut in range(len(data))] == [None] * len(data)
