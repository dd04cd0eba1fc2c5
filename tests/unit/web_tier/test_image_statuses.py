"""The statuses of a job's images behave as a dictionary does, and take a few bytes each."""

import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import new_id
from core.messages import Status
from web_tier.results import image_statuses
from web_tier.results.image_statuses import ImageStatuses

IDS = sorted(new_id() for _ in range(8))  # few, so that one is often set again
STATUSES: Sequence[Status | None] = (None, "done", "failed")

_steps = st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(STATUSES)), max_size=80)


@given(_steps, st.sampled_from((1, 5, 1_000)))
def test_statuses_are_those_of_a_dictionary(steps: Sequence[tuple[str, Status | None]], min_recent: int) -> None:
    statuses, expected = ImageStatuses(), dict[str, Status | None]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_statuses, "MIN_RECENT", min_recent)
        for image_id, status in steps:
            statuses[image_id] = expected[image_id] = status
            assert len(statuses) == len(expected)
            assert image_id in statuses
    for image_id in IDS:
        assert (image_id in statuses) == (image_id in expected)
        if image_id in expected:
            assert statuses[image_id] == expected[image_id]
        else:
            with pytest.raises(KeyError):
                statuses[image_id]
    for each in STATUSES:
        assert statuses.count(each) == sum(status == each for status in expected.values())
        assert list(statuses.ids(each)) == sorted(key for key, status in expected.items() if status == each)
    ids = sorted(expected)
    assert statuses.last() == max(ids, default="")
    for start in (0, 2, 100):
        blocks = statuses.unanswered(start, 2, 100)
        inside = [key for _, first, last in blocks for key in ids if first <= key <= last and expected[key] is None]
        assert sorted(inside) == [key for key in ids if expected[key] is None]
        assert all(position % 2 == 0 for position, _, _ in blocks)


def test_an_image_of_a_large_job_takes_less_than_twenty_five_bytes() -> None:
    """All but the last ones are packed, and a list has some room to grow."""
    statuses, images = ImageStatuses(), 40_000
    for _ in range(images):
        statuses[new_id()] = None
    recent = sum(sys.getsizeof(key) for key in statuses._recent) + sys.getsizeof(statuses._recent)
    assert (sys.getsizeof(statuses._ids) + sys.getsizeof(statuses._codes) + recent) / images < 25


@pytest.mark.parametrize("text", ["short", "8" * 26, "0" * 25 + "u", "0" * 25 + "_"])
def test_a_text_that_is_no_id_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(ValueError, match=repr(text)):
        ImageStatuses()[text] = None
    assert text not in ImageStatuses()
