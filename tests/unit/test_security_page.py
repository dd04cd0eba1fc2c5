"""docs/security.md is a checklist of promises: behind each line stands a test, and that test is there."""

import pytest

from tests.conftest import ROOT
from tests.unit.test_documents import NAMED, absent

PAGE = ROOT / "docs" / "security.md"
FAULT_ROWS = range(33, 44)
API_RISKS = range(1, 11)


def lines() -> list[str]:
    return PAGE.read_text(encoding="utf-8").splitlines()


def row(first_cell: str) -> str:
    """Return the one line of a table that begins with `first_cell`."""
    [found] = [line for line in lines() if line.startswith(f"| {first_cell} |")]
    return found


@pytest.mark.parametrize("number", FAULT_ROWS)
def test_every_fault_that_people_can_cause_has_its_test(number: int) -> None:
    assert NAMED.search(row(str(number)))


@pytest.mark.parametrize("number", API_RISKS)
def test_every_risk_of_owasps_ten_for_apis_has_its_test(number: int) -> None:
    assert NAMED.search(row(f"API{number}"))


def test_every_line_of_the_upload_checklist_has_its_test() -> None:
    _, _, after = PAGE.read_text(encoding="utf-8").partition("## Uploads")
    rows = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    assert [line for line in rows if not NAMED.search(line)] == []


def test_every_test_that_is_named_exists() -> None:
    assert absent(PAGE.read_text(encoding="utf-8"), ROOT) == []
