"""What is taken, by content."""

import pytest

from core.image_open import ImageInfo
from core.images import ImageLimits
from tests.support.pictures import picture
from web_tier.intake.accept import RejectedUpload, accept
from web_tier.intake.multipart import Upload

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=1_000, max_frames=3)


def verdict(data: bytes, filename: str = "a.jpg") -> ImageInfo | RejectedUpload:
    return accept(Upload(filename, data, len(data)), LIMITS)


def test_content_decides_whatever_the_name_says() -> None:
    image = verdict(picture("PNG"), "holiday.txt")
    assert isinstance(image, ImageInfo)
    assert (image.extension, image.content_type) == ("png", "image/png")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"hello", "not_an_image"),
        (b"%PDF-1.7", "format_not_allowed"),
        (picture(size=(40, 40)), "too_many_pixels"),
        (
            b"GIF89a\x04\x00\x04\x00\x00\x00\x00" + b",\x00\x00\x00\x00\x04\x00\x04\x00\x00\x02\x00" * 4,
            "too_many_frames",
        ),
    ],
)
def test_what_is_no_image_is_rejected_with_a_reason(data: bytes, code: str) -> None:
    rejection = verdict(data)
    assert isinstance(rejection, RejectedUpload)
    assert (rejection.filename, rejection.code) == ("a.jpg", code)
    assert rejection.message


def test_a_file_that_was_too_large_to_keep_is_rejected_by_its_size() -> None:
    rejection = accept(Upload("a.jpg", b"", 3 * 2**20), ImageLimits(max_bytes=2**20))
    assert rejection == RejectedUpload("a.jpg", "too_large", "3 MB is more than the 1 MB allowed: shrink it")
