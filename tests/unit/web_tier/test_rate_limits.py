"""Whom a request counts for."""

import pytest

from web_tier.rate_limits.limiter import account_key, network_of


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("unknown, 203.0.113.9", "unknown"),
    ],
)
def test_an_address_counts_as_the_network_that_one_customer_has(host: str, counted: str) -> None:
    assert network_of(host) == counted


def test_an_account_is_counted_without_its_address_being_written_down() -> None:
    assert account_key(" Ann@Example.org") == account_key("ann@example.org ")
    assert "ann" not in account_key("ann@example.org")
