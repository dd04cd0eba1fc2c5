"""Results as CSV."""

import csv
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ids import ImageRef, new_id
from services.job_records import ImageRecord
from tests.support.jobs import NOW, done, failed
from web_tier.results.export import HEADER, csv_lines, safe_cell
from web_tier.results.query import ImageResult


def image(filename: str) -> ImageRecord:
    return ImageRecord(ImageRef(new_id(), new_id()), filename, "key", 10, NOW)


def rows(*results: ImageResult) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO("".join(csv_lines(results)), newline="")))


def test_every_image_has_a_row_whatever_became_of_it() -> None:
    one, two, three = image("a.jpg"), image("b.jpg"), image("c.jpg")
    found = rows(ImageResult(one, done(one, "cat", 0.5)), ImageResult(two, failed(two)), ImageResult(three, None))
    assert [tuple(row) for row in found] == [HEADER] * 3
    assert [row["status"] for row in found] == ["done", "failed", "waiting"]
    assert (found[0]["label"], found[0]["score"], found[0]["model"]) == ("cat", "0.500000", "demo")
    assert (found[1]["error_code"], found[1]["label"]) == ("truncated", "")


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_no_name_is_taken_for_a_formula(name: str) -> None:
    assert safe_cell(name) == f"'{name}"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50))
def test_any_name_comes_back_from_the_csv_as_it_was_shown(name: str) -> None:
    named = image(name)
    [row] = rows(ImageResult(named, None))
    assert row["filename"] in {name, f"'{name}"}
    assert not row["filename"].startswith(("=", "+", "-", "@"))
