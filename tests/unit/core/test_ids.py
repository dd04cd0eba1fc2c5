"""Ids and the keys made of them."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import ImageRef, first_id_of, input_key, is_id, new_id, output_key, parse_key
from services.errors import MessageError

ID = "01KDX5ZQ8R3M7Y2WVN6T4C9B0A"


def test_ids_are_unique_and_well_formed() -> None:
    ids = [new_id() for _ in range(2_000)]
    assert len(set(ids)) == 2_000
    assert all(map(is_id, ids))


def test_ids_of_one_process_are_in_the_order_of_their_making() -> None:
    ids = [new_id() for _ in range(2_000)]
    assert ids == sorted(ids)


def test_ids_stay_in_order_and_unique_when_threads_make_them() -> None:
    with ThreadPoolExecutor(8) as makers:
        runs = list(makers.map(lambda _: [new_id() for _ in range(500)], range(8)))
    assert all(run == sorted(run) for run in runs)
    assert len({made for run in runs for made in run}) == 4_000


def test_the_first_id_of_a_moment_parts_earlier_ids_from_later_ones() -> None:
    before = new_id()
    moment = datetime.now(UTC) + timedelta(milliseconds=1)
    first = first_id_of(moment)
    assert is_id(first)
    assert before < first < first_id_of(moment + timedelta(milliseconds=1))
    assert new_id() < first_id_of(datetime.now(UTC) + timedelta(seconds=5))


def test_keys_lead_back_to_their_image() -> None:
    ref = ImageRef(new_id(), new_id())
    assert parse_key(input_key(ref, "jpeg")) == ref
    assert parse_key(output_key(ref)) == ref
    assert output_key(ref) == f"{ref.job_id}/{ref.image_id}.json"


@pytest.mark.parametrize(
    "text", ["", "a", "../../etc/passwd", f"{ID}\n", ID.lower(), f"8{'0' * 25}", "I" * 26, f" {ID}"]
)
def test_what_is_no_id_is_told(text: str) -> None:
    assert not is_id(text)


@pytest.mark.parametrize(
    "key",
    ["", "a/b.jpg", f"{ID}/{ID}", f"{ID}/../{ID}.jpg", f"{ID}/{ID}.jpg\n"],
)
def test_a_key_that_is_not_ours_is_refused(key: str) -> None:
    with pytest.raises(MessageError, match="is not a key of the form"):
        parse_key(key)


@given(st.text())
def test_any_text_is_a_key_of_ours_or_refused(text: str) -> None:
    try:
        ref = parse_key(text)
    except MessageError:
        return
    assert text.startswith(f"{ref.job_id}/{ref.image_id}.")
