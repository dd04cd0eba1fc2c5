"""docs/reliability.md names a test for each row of the fault catalogue, and that test is there."""

import re

import pytest

from tests.conftest import ROOT
from tests.unit.test_documents import NAMED, absent

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
CATALOGUE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = (*range(1, 33), *range(44, 57))


@pytest.mark.parametrize("number", ROWS)
def test_every_row_of_the_catalogue_has_its_test(number: int) -> None:
    assert re.search(rf"^{number}\. ", CATALOGUE, re.MULTILINE)
    [row] = re.findall(rf"^\| {number} \| .*$", PAGE, re.MULTILINE)
    assert NAMED.search(row)


def test_every_test_that_is_named_exists() -> None:
    assert absent(PAGE, ROOT) == []
