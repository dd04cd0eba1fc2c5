"""Export of results as CSV: one row per image, and no cell that a spreadsheet executes."""

import csv
import re
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import ImageRef, new_id
from core.jobs.models import ImageRecord
from tests.support.jobs import NOW, done, failed
from web_tier.results.export import CSV_HEADER, csv_lines, safe_cell
from web_tier.results.query import ImageResult


def image(filename: str) -> ImageRecord:
    return ImageRecord(ImageRef(new_id(), new_id()), filename, "key", 10, NOW)


def rows(*results: ImageResult) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO("".join(csv_lines(results)), newline="")))


def test_every_image_has_a_row_whatever_its_state() -> None:
    one, two, three = image("a.jpg"), image("b.jpg"), image("c.jpg")
    found = rows(ImageResult(one, done(one, "cat", 0.5)), ImageResult(two, failed(two)), ImageResult(three, None))
    assert [tuple(row) for row in found] == [CSV_HEADER] * 3
    assert [row["status"] for row in found] == ["done", "failed", "waiting"]
    assert (found[0]["label"], found[0]["score"], found[0]["model"]) == ("cat", "0.500000", "demo")
    assert (found[1]["error_code"], found[1]["label"]) == ("crashed_worker", "")


@pytest.mark.parametrize(
    "name", ["=cmd()", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "\uff1d1+1.png", "\uff0b1", "\uff0d1", "\uff20A1"]
)
def test_s15_no_name_is_taken_for_a_formula(name: str) -> None:
    assert safe_cell(name) == f"'{name}"


@given(st.text(alphabet="=+-@\uff1d\uff0b\uff0d\uff20;\t\n\r,'\"a1", max_size=12))
def test_s15_no_name_holds_a_formula_wherever_a_spreadsheet_splits_it(name: str) -> None:
    line = "".join(csv_lines([ImageResult(image(name), None)])).partition("\r\n")[2]
    cells = [cell.strip('"') for cell in re.split("[;\t\r\n]", line)]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20"))]


def test_s15_a_name_with_semicolons_is_unchanged_without_formula() -> None:
    assert safe_cell("a;b.png") == "a;b.png"
    assert safe_cell("a;=1+1.png") == "a;'=1+1.png"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50))
def test_any_name_comes_back_from_the_csv_as_it_was_shown(name: str) -> None:
    named = image(name)
    [row] = rows(ImageResult(named, None))
    assert row["filename"].replace("'", "") == name.replace("'", "")
    assert not row["filename"].startswith(("=", "+", "-", "@"))
