"""libvips, another program, sees the same upright picture on white in each file that gets a label."""

import io
from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from app_tier.preprocess import load_square
from core.bundle_manifest import Preprocess
from core.image_open import open_image
from scripts.demo_model.signs import samples
from tests.support.container_files import Coded, coded, container, crop, mirror, turn
from tests.support.picture_cases import picture_cases

REFUSED = {
    *("cut", "empty", "larger than `web.max_image_bytes`", "more pixels than `web.max_image_pixels`", "not an image"),
}
CONVERTED = {"CMYK"}
"""libvips converts it by a profile; browsers and the worker do not."""

WITHOUT_CODEC = (".heic", ".heics")
"""The wheel of libvips opens these files, and cannot decode them."""

MAX_DIFFERENCE = 1.5
"""Mean of a channel's levels: of two roundings of JPEG's colours; one turned or wrong picture differs by tens."""


def test_another_decoder_sees_the_same_picture_in_each_file() -> None:
    sign = next(iter(samples(1, seed=50)))
    cases = picture_cases(Image.open(io.BytesIO(sign.data)).convert("RGB").resize((400, 300)))
    differences = {
        name: difference(content)
        for what, files in cases.items()
        if what not in REFUSED | CONVERTED
        for name, content in files.items()
        if is_known(content) and not name.endswith(WITHOUT_CODEC)
    }
    assert len(differences) > 90
    assert {name: found for name, found in differences.items() if not found < MAX_DIFFERENCE} == {}


def is_known(content: bytes) -> bool:
    """Return whether the wheel of libvips is built with the format of a file."""
    return bool(pyvips.vips_lib.vips_foreign_find_load_buffer(content, len(content)) != pyvips.ffi.NULL)


def difference(content: bytes) -> float:
    """Return by how many levels the central squares of both decoders differ."""
    theirs = by_libvips(content)
    side = min(theirs.shape[:2])
    spec = Preprocess(resize=side, crop=side, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    ours = load_square(content, spec)
    top, left = ((length - side) // 2 for length in theirs.shape[:2])
    square = theirs[top : top + side, left : left + side]
    return float(np.abs(ours.reshape(square.shape).astype(int) - square).mean())


def by_libvips(content: bytes) -> NDArray[np.int64]:
    """Return the first picture of a file, upright, on white, in 8 bits; its colour profile is ignored."""
    picture = pyvips.Image.new_from_buffer(content, "", fail_on="none").autorot()
    picture = picture.copy(
        interpretation="rgb16" if picture.format == "ushort" and picture.bands > 2 else picture.interpretation
    )
    if picture.format == "ushort":
        picture = (picture >> 8).cast("uchar")
    if picture.hasalpha():
        picture = picture.flatten(background=[255] * (picture.bands - 1))
    if picture.bands == 1:
        picture = picture.bandjoin([picture, picture])
    return np.asarray(picture.numpy(), dtype=np.int64)


TILE = (96, 64)
SOFT_DIFFERENCE = 8
"""Median of a channel's levels: of two codecs in a few pixels; of a turned or wrong picture by tens.

A mean would be moved by the seam of two tiles, where one pixel of another rounding of a crop differs by 255.
"""


@st.composite
def transforms(draw: st.DrawFn, size: tuple[int, int]) -> list[bytes]:
    """Return crops, turns and mirrors of a picture of `size`, in any order."""
    found = []
    for kind in draw(st.lists(st.sampled_from(["crop", "turn", "mirror"]), max_size=3)):
        if kind == "crop":
            kept = [Fraction(draw(st.integers(side, 2 * side - 2)), 2) for side in size]
            shifts = [draw(st.integers(-4, 4)) * (side - 1 - each) / 8 for side, each in zip(size, kept, strict=True)]
            found.append(crop(*kept, *shifts))
            size = (int(kept[0] + Fraction(1, 2)), int(kept[1] + Fraction(1, 2)))
        elif kind == "turn":
            found.append(turn(quarters := draw(st.integers(0, 3))))
            size = (size[1], size[0]) if quarters % 2 else size
        else:
            found.append(mirror(draw(st.integers(0, 1))))
    return found


@cache
def part(form: str, tiles: int, *, is_alpha: bool) -> Coded:
    """Return a picture without symmetry as wide as that many tiles, or an alpha channel of that size."""
    down = Image.linear_gradient("L").resize((tiles * TILE[0], TILE[1]))
    right = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90).resize(down.size)
    soft = right.point(lambda level: 128 + level // 2)
    return coded(form, soft if is_alpha else Image.merge("RGB", (down, right, soft)))


@given(data=st.data(), tiles=st.integers(1, 2), has_alpha=st.booleans(), split=st.booleans())
def test_a_heic_or_avif_is_cropped_and_turned_in_the_order_of_its_boxes(
    data: st.DataObject, tiles: int, has_alpha: bool, split: bool
) -> None:
    steps = data.draw(transforms((tiles * TILE[0], TILE[1])))
    files = {
        form: container(
            tiles * [part(form, 1, is_alpha=False)],
            steps,
            part(form, tiles, is_alpha=True) if has_alpha else None,
            split=split,
        )
        for form in ("AVIF", "HEIF")
    }
    theirs = by_libvips(files["AVIF"])
    for form, content in files.items():
        with open_image(content) as image:
            image.load()
            white = Image.new("RGBA", image.size, "white")
            ours = np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"), dtype=np.int64)
        assert (form, ours.shape) == (form, theirs.shape)
        assert float(np.median(np.abs(ours - theirs))) < SOFT_DIFFERENCE


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize(
    ("bands", "suffix"), [(2, ".png"), *product((3, 4), (".png", ".tif", ".tif[compression=lzw,tile]"))]
)
def test_16_bits_of_a_colour_are_read_as_the_bits_that_they_use(bands: int, bits: int, suffix: str) -> None:
    levels = np.random.default_rng(bits).integers(0, 1 << bits, (30, 40, bands)).astype(np.uint16)
    levels[0, 0, :3] = (1 << bits) - 1
    if bands != 3:
        levels[..., -1] = 65_535
    kind = "grey16" if bands == 2 else "rgb16"
    file = pyvips.Image.new_from_array(levels, interpretation=kind).write_to_buffer(suffix)
    spec = Preprocess(resize=30, crop=30, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    colours = levels[:, 5:35, : 1 if bands == 2 else 3] >> bits - 8
    assert np.array_equal(load_square(file, spec), np.broadcast_to(colours, (30, 30, 3)))
