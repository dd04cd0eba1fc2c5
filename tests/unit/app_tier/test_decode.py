import pytest

from app_tier.decode import decode
from app_tier.task import begin
from services.images import ImageLimits, ImageRejectedError
from tests.unit.app_tier.fakes import colour_bundle, delivery, picture

SPEC = colour_bundle().manifest.preprocess


def test_an_image_becomes_what_the_network_expects() -> None:
    task = decode(begin(delivery()).then(picture("red")), SPEC, ImageLimits())
    assert task.made.shape == (3, 8, 8)
    assert str(task.made.dtype) == "float32"
    assert task.timings.decoded is not None


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "empty"), (b"plain text", "not_an_image"), (picture("red")[:60], "truncated")],
)
def test_what_is_no_good_image_is_refused_with_its_code(data: bytes, code: str) -> None:
    with pytest.raises(ImageRejectedError) as refused:
        decode(begin(delivery()).then(data), SPEC, ImageLimits())
    assert refused.value.code == code


def test_the_limits_are_those_of_the_configuration() -> None:
    with pytest.raises(ImageRejectedError) as refused:
        decode(begin(delivery()).then(picture("red")), SPEC, ImageLimits(max_pixels=255))
    assert refused.value.code == "too_many_pixels"
