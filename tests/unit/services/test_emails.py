"""Names of people by their e-mail addresses."""

import pytest

from services.emails import normalise_email


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" Ann@Example.org ", "ann@example.org"),
        ("ann", None),
        ("ann@example", None),
        ("a nn@example.org", None),
        ("\u212aevin@example.org", None),  # the Kelvin sign, of which `lower` makes a k
        ("x" * 120 + "@example.org", None),
    ],
)
def test_an_address_has_one_form_and_no_other_letters_become_it(text: str, name: str | None) -> None:
    assert normalise_email(text) == name
