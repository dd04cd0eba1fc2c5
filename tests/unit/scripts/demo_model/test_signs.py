"""The sign generator: truth without limit, the same for the same seed, and always answerable."""

from collections import Counter
from io import BytesIO
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.image_open import inspect
from scripts.demo_model.data import CIFAR_LABELS
from scripts.demo_model.sign_shapes import FACE_SIZE, face
from scripts.demo_model.signs import SAMPLE_SIZES, SIGN_LABELS, draw, encode, samples

SMALL = (((64, 64), 0.5), ((96, 64), 0.5))


def test_there_are_twenty_signs_that_no_everyday_thing_is_called() -> None:
    assert len(set(SIGN_LABELS)) == 20
    assert not set(SIGN_LABELS) & set(CIFAR_LABELS)
    assert not any(":" in label for label in SIGN_LABELS)


def test_no_two_signs_look_alike_even_at_16_pixels() -> None:
    small = [face(label).resize((16, 16), Image.Resampling.BOX).convert("RGBa") for label in SIGN_LABELS]
    pixels = [np.asarray(image, np.float32) for image in small]
    for i, one in enumerate(pixels):
        for other in pixels[i + 1 :]:
            assert np.abs(one - other).mean() > 8


@given(seed=st.integers(0, 2**63 - 1), label=st.none() | st.integers(0, 19))
@settings(max_examples=40)
def test_a_seed_gives_the_same_image_every_time(seed: int, label: int | None) -> None:
    (first, truth), (second, again) = draw(label, seed, (64, 48)), draw(label, seed, (64, 48))
    assert truth == again == (truth if label is None else SIGN_LABELS[label])
    assert first.tobytes() == second.tobytes()
    assert (first.mode, first.size) == ("RGB", (64, 48))


@given(st.integers(0, 2**63 - 2))
@settings(max_examples=20)
def test_another_seed_gives_another_image(seed: int) -> None:
    assert draw(0, seed)[0].tobytes() != draw(0, seed + 1)[0].tobytes()


def test_drawing_does_not_wear_the_face_that_all_share() -> None:
    before = face("stop").tobytes()
    for seed in range(30):
        draw(SIGN_LABELS.index("stop"), seed, (64, 64))
    assert face("stop").tobytes() == before
    assert face("stop").size == (FACE_SIZE, FACE_SIZE)


def test_samples_continue_where_an_earlier_count_ended() -> None:
    whole = list(samples(30, seed=4, sizes=SMALL))
    assert list(samples(10, seed=4, sizes=SMALL)) == whole[:10]
    assert list(samples(10, seed=4, sizes=SMALL, start=20)) == whole[20:]
    assert list(islice(samples(None, seed=4, sizes=SMALL), 30)) == whole


def test_every_sign_comes_equally_often() -> None:
    counts = Counter(sample.label for sample in samples(100, seed=9, sizes=SMALL))
    assert set(counts.values()) == {5}
    assert set(counts) == set(SIGN_LABELS)


def test_sample_batches_mix_sizes_and_formats() -> None:
    infos = [inspect(sample.data) for sample in samples(100, seed=1)]
    assert {info.format for info in infos} == {"JPEG", "PNG", "WEBP"}
    assert {(info.width, info.height) for info in infos} <= {size for size, _ in SAMPLE_SIZES}
    assert min(info.width for info in infos) == 64
    assert max(info.width for info in infos) == 1600


def test_filenames_are_unique_and_say_what_they_hold() -> None:
    drawn = list(samples(40, seed=1, sizes=SMALL))
    assert len({sample.filename for sample in drawn}) == 40
    for sample in drawn:
        assert sample.label.replace(" ", "-") in sample.filename
        assert sample.filename.rsplit(".")[-1] == inspect(sample.data).extension


def test_no_sign_is_named_that_does_not_exist() -> None:
    with pytest.raises(IndexError):
        draw(20, seed=0)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_encoding_keeps_the_picture(name: str) -> None:
    picture, _ = draw(2, seed=3, size=(96, 96))
    back = np.asarray(Image.open(BytesIO(encode(picture, name))).convert("RGB"), int)
    assert np.abs(back - np.asarray(picture, int)).mean() < 12
