"""A wildcard means what AWS says it does, whatever else stands in the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.iam.wildcards import arn_matches, matches

TEXTS = st.text("ab.*?:/[\n", max_size=8)


def reference(pattern: str, text: str) -> bool:
    """Say the same in the plainest way there is."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(reference(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[0] in {"?", text[0]} and reference(pattern[1:], text[1:])


@given(st.text("ab.*?:/[\n", max_size=6), TEXTS)
def test_a_pattern_matches_what_a_plain_reading_of_it_does(pattern: str, text: str) -> None:
    assert matches(pattern, text) == reference(pattern, text)


@given(TEXTS)
def test_a_star_matches_everything_and_a_text_itself(text: str) -> None:
    assert matches("*", text)
    assert matches(text, text)


@pytest.mark.parametrize(
    ("pattern", "arn", "holds"),
    [
        ("arn:aws:ec2:*:1:instance/*", "arn:aws:ec2:us-east-1:1:instance/i-1", True),
        ("arn:aws:ec2:*:2:instance/*", "arn:aws:ec2:us-east-1:1:instance/i-1", False),
        # A star stays within its part, but for the last, which holds colons of its own.
        ("arn:aws:ec2:*:instance/*", "arn:aws:ec2:us-east-1:1:instance/i-1", False),
        ("arn:aws:logs:r:1:log-group:g:*", "arn:aws:logs:r:1:log-group:g:log-stream:s", True),
        ("*", "arn:aws:s3:::bucket", False),
        ("arn:aws:s3:::bucket", "no arn", False),
    ],
)
def test_the_parts_of_an_arn_are_compared_one_by_one(pattern: str, arn: str, holds: bool) -> None:
    assert arn_matches(pattern, arn) is holds
