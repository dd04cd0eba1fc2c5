"""Each exception from a rule about security says why, where it stands."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = (
    "services",
    "core",
    "localcloud",
    "app_tier",
    "web_tier",
    "ami",
    "scripts",
    "simulator",
    "benchmarks",
    "tests",
)
MARK = re.compile(r"# (?:nosec|noqa: [A-Z0-9, ]*\bS\d{3})")
CODES = re.compile(r"(?:nosec|noqa:|\b[A-Z]{1,4}\d{3}\b|[\W_])+")


def reason(line: str) -> str:
    """Return the words behind the codes of an exception."""
    return CODES.sub(" ", line[MARK.search(line).start() :]).strip()  # type: ignore[union-attr]


def exceptions() -> Iterator[tuple[Path, int, str]]:
    """Yield every line that asks for an exception."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file != Path(__file__):
                lines = enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
                yield from ((file, number, line) for number, line in lines if MARK.search(line))


def test_every_exception_from_a_security_rule_has_its_reason_in_words() -> None:
    found = list(exceptions())
    assert found
    assert [f"{file.relative_to(ROOT)}:{number}" for file, number, line in found if len(reason(line)) < 5] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x()  # noqa: S310", ""),
        ("x()  # nosec B310 # noqa: S310", ""),
        ("x()  # nosec", ""),
        ("x()  # nosec B310 # noqa: S310 - our own address", "our own address"),
        ("x()  # noqa: S310, BLE001 (ours)", "ours"),
    ],
)
def test_a_code_is_no_reason(line: str, words: str) -> None:
    assert reason(line) == words
