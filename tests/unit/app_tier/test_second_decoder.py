"""libvips, another program, sees the same upright picture on white in each file that gets a label."""

import io
from itertools import product

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from app_tier.preprocess import load_square
from core.bundle_manifest import Preprocess
from scripts.demo_model.signs import samples
from tests.support.picture_cases import picture_cases

REFUSED = {
    *("cut", "empty", "larger than `web.max_image_bytes`", "more pixels than `web.max_image_pixels`", "not an image"),
}
CONVERTED = {"CMYK"}
"""libvips converts it by a profile; browsers and the worker do not."""

UNKNOWN = {"plain.bmp", "plain.heic"}
"""The wheel of libvips is built without these formats."""

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
        if name not in UNKNOWN
    }
    assert len(differences) > 30
    assert {name: found for name, found in differences.items() if not found < MAX_DIFFERENCE} == {}


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
