"""Names that users give: shown, never trusted."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web_tier.intake.names import shown_filename, shown_job_name


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("IMG_1.jpg", "IMG_1.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\cat.jpg", "cat.jpg"),
        ("a\x00b\r\nc.jpg", "abc.jpg"),
        ("\u202egpj.exe", "gpj.exe"),
        ("שלום 😀.jpg", "שלום 😀.jpg"),
        ("<img onerror>.jpg", "<img onerror>.jpg"),
        ("folder/", "unnamed"),
        ("", "unnamed"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_filename_is_shown_without_its_path_and_without_what_breaks_a_line(sent: str, shown: str) -> None:
    assert shown_filename(sent) == shown


@given(st.text(max_size=400))
def test_any_name_becomes_short_printable_text_that_can_be_stored(sent: str) -> None:
    for shown in (shown_filename(sent), shown_job_name(sent)):
        assert 1 <= len(shown) <= 255
        assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in shown)
        shown.encode()


def test_a_job_without_a_name_is_untitled() -> None:
    assert shown_job_name(" \t") == "untitled"
