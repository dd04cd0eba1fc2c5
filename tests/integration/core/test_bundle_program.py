"""The check of a bundle in a process of its own: what it may not have, and how it may end."""

from pathlib import Path

import pytest

from app_tier.bundle import DEMO_BUNDLE
from core.bundle_manifest import BundleError
from core.sandbox import bundle_program
from core.sandbox.bundle_program import check_network

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("environment", "^(?!.*hidden)"),
        ("end", "its network ends the process that loads it"),
        ("hang", "its network was not loaded within 1 s"),
    ],
)
def test_a_check_has_no_credentials_and_ends_whatever_the_network_does(
    monkeypatch: pytest.MonkeyPatch, function: str, reason: str
) -> None:
    monkeypatch.setattr(bundle_program, "FUNCTION", f"tests.support.crashing_network:{function}")
    monkeypatch.setattr(bundle_program, "NETWORK_SECONDS", 1.0)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    with pytest.raises(BundleError, match=reason):
        check_network(DEMO_BUNDLE)


def test_a_machine_without_the_engine_leaves_the_check_to_workers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bundle_program, "find_spec", lambda _name: None)
    check_network(Path("/nothing"))
    assert "this machine has no engine" in caplog.text
