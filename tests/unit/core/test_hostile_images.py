"""`docs/faults.md` rows 33, 34 and 35: a verdict for each image, before anything is decoded."""

from contextlib import suppress

import pytest
from PIL import Image, ImageFile

from core.image_errors import ImageRejectedError
from core.image_limits import ImageLimits
from core.images import inspect, open_image
from tests.support.hostile_images import FOREIGN, HONEST, POLYGLOTS, gif_bomb, png_bomb, webp_bomb


def refusal(data: bytes, limits: ImageLimits | None = None) -> ImageRejectedError:
    with pytest.raises(ImageRejectedError) as refused:
        inspect(data, limits or ImageLimits())
    return refused.value


@pytest.mark.parametrize("kind", HONEST)
def test_row_33_a_rare_but_honest_image_is_taken(kind: str) -> None:
    assert inspect(HONEST[kind]()).width in {1, 60}


@pytest.mark.parametrize("kind", FOREIGN)
def test_row_34_a_foreign_format_is_refused_by_its_content_whatever_its_name(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = FOREIGN[kind]()

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a reader saw it")

    monkeypatch.setattr(Image, "open", opened)
    assert refusal(data).code == "format_not_allowed"


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize(
    "start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x00\x00\x00\x00WEBP"]
)
def test_row_34_a_foreign_format_behind_the_first_bytes_of_ours_reaches_no_reader_of_its_own(
    start: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    honest = Image.open

    def watched(file: object, **options: object) -> Image.Image:
        asked.append(options["formats"])
        return honest(file, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", watched)
    with suppress(ImageRejectedError):  # some make a GIF of rubbish
        inspect(start + FOREIGN[kind]())
    assert asked in ([], [["JPEG"]], [["PNG"]], [["GIF_FIRST_FRAME"]], [["BMP"]], [["WEBP"]])


@pytest.mark.parametrize(
    "data",
    [
        lambda: png_bomb(9_000, 8_000),
        lambda: gif_bomb(9_000, 8_000),
        lambda: gif_bomb(10, 10, frame=(9_000, 8_000)),
        lambda: webp_bomb(2_000),
    ],
    ids=["png", "gif", "gif whose image is larger than its canvas", "webp"],
)
def test_row_34_a_bomb_is_refused_and_none_of_its_pixels_is_read(
    data: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(data)
    body = data()
    assert len(body) < 300_000

    def loaded(_self: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", loaded)
    assert refusal(body, ImageLimits(max_pixels=3_000_000)).code == "too_many_pixels"


@pytest.mark.parametrize("kind", POLYGLOTS)
def test_row_35_a_polyglot_is_the_image_that_it_is_and_nothing_else(kind: str) -> None:
    content_type, data = POLYGLOTS[kind]
    assert inspect(data()).content_type == content_type


def test_a_reader_makes_up_nothing_that_is_missing_and_has_no_second_limit_of_pixels() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS is None
    with pytest.raises(ImageRejectedError), open_image(HONEST["bmp"](), ImageLimits(max_pixels=60 * 40 - 1)):
        pass
